"""The routes the page uses, over a whole server with a real engine: what is said, answered, judged, attached, exported and erased."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import Done, Event, Text, Token
from steelyard.data.formats import read_jsonl
from steelyard.model.template import ChatTemplate
from steelyard.serve.api.conversation_answers import _stream, _Told
from steelyard.serve.arrivals import each
from steelyard.serve.engine_opening import takes_turns_in_a_row
from steelyard.serve.store.answers import Generation
from steelyard.serve.store.rendering import Rendered
from steelyard.serve.store.store import Store
from tests.serve.live_server import LiveServer
from tests.serve.stores import ANN, say, shown, text_of
from tests.tiny_talker import CHATML

NOWHERE = "0" * 24


def made(server: LiveServer, title: str | None = None) -> str:
    answered = server.post("/api/conversations", {"title": title} if title else {})
    assert answered.status_code == 200 and answered.json()["messages"] == 0
    return answered.json()["id"]


def added(server: LiveServer, conversation: str, text: str, parent: str | None = None, role: str = "user", **more: Any) -> str:
    body = {"parent": parent, "role": role, "parts": [{"type": "text", "text": text}], **more}
    answered = server.post(f"/api/conversations/{conversation}/messages", body)
    assert answered.status_code == 200, answered.text
    assert answered.json()["parts"] == body["parts"] and answered.json()["parent"] == parent
    return answered.json()["id"]


def answered(server: LiveServer, conversation: str, parent: str, **more: Any) -> list[dict[str, Any]]:
    """The events of an answer."""
    body = {"parent": parent, "model": "tiny", "settings": {"max_tokens": 6, "ignore_eos": True}, "levers": [], "store": True, **more}
    with server.client.stream("POST", f"/api/conversations/{conversation}/answer", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: ")]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(event["type"] for event in events))


def read(server: LiveServer, conversation: str, **query: Any) -> dict[str, Any]:
    return server.client.get(f"/api/conversations/{conversation}", params=query).json()


def test_an_answer_streams_and_is_stored_with_all_its_tokens(server: LiveServer) -> None:
    conversation = made(server)
    question = added(server, conversation, "hello there")
    events = answered(server, conversation, question)
    assert kinds(events)[0] == "message" and events[-1] == {"type": "done", "reason": "length"}
    assert {"text", "token", "usage"} <= set(kinds(events))
    reply = events[0]["id"]
    assert events[0]["parent"] == question
    stored = read(server, conversation)
    assert stored["head"] == reply and [message["id"] for message in stored["messages"]] == [question, reply]
    message = stored["messages"][1]
    assert text_of(message) == "".join(event["text"] for event in events if event["type"] == "text")
    streamed = [{key: event[key] for key in event if key != "type"} for event in events if event["type"] == "token"]
    record = message["generation"]
    assert record["tokens"] == streamed and len(streamed) == 6 and len(streamed[0]["alternatives"]) == 5
    assert record["tokens"][0]["logprob"] <= 0 and record["reason"] == "length" and record["model"] == "tiny"
    assert record["usage"] == {
        key: value for key, value in next(event for event in events if event["type"] == "usage").items() if key != "type"
    }
    took = record["usage"]["energy_joules"]
    assert 0 < took["low"] <= took["high"] and took["source"] and took["shared"] is False
    assert record["settings"]["max_tokens"] == 6 and record["settings"]["ignore_eos"] and len(record["fingerprint"]) >= 16
    assert server.client.get(f"/api/messages/{reply}/tokens").json()["tokens"] == streamed
    assert read(server, conversation, tokens=0)["messages"][1]["generation"]["tokens"] == []


def test_an_answer_may_be_asked_for_without_keeping_it(server: LiveServer) -> None:
    conversation = made(server)
    question = added(server, conversation, "hello there")
    events = answered(server, conversation, question, store=False)
    assert events[0] == {"type": "message", "id": None, "parent": question} and events[-1]["type"] == "done"
    assert len(read(server, conversation)["messages"]) == 1


def test_the_same_seed_gives_the_same_answer_and_both_stay(server: LiveServer) -> None:
    conversation = made(server)
    question = added(server, conversation, "hello there")
    settings = {"max_tokens": 8, "temperature": 1.0, "seed": 7, "ignore_eos": True, "alternatives": 0}
    texts = []
    for _ in range(2):
        events = answered(server, conversation, question, settings=settings)
        texts.append("".join(event["text"] for event in events if event["type"] == "text"))
    assert texts[0] == texts[1] and len(read(server, conversation)["messages"]) == 3


@pytest.mark.parametrize(
    ("source", "takes"),
    [
        (CHATML, True),
        ("{% for m in messages %}{% if m.role != ('user' if loop.index0 is even else 'assistant') %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}", False),
        ("{{ messages[-1].content }}", False),
        ("{% for m in messages|reverse %}{{ m.content }}{% endfor %}", False),
        ("{{ nothing.at_all }}", False),
    ],
)  # fmt: skip
def test_a_chat_template_is_asked_whether_it_takes_two_turns_of_one_speaker(source: str, takes: bool) -> None:
    assert takes_turns_in_a_row(ChatTemplate(source)) is takes


def test_messages_in_a_row_are_joined_only_where_they_must_be_and_visibly(server: LiveServer) -> None:
    conversation = made(server)
    first = added(server, conversation, "hello")
    second = added(server, conversation, "and again", first)
    apart = answered(server, conversation, second)
    assert "joined" not in kinds(apart), "its chat template takes two turns of one speaker"
    events = answered(server, conversation, second, levers=[{"prompt": "Be brief."}])  # a lever finds the whole question in the last turn
    assert events[1] == {"type": "joined", "messages": [first, second]}
    messages = read(server, conversation)["messages"]
    assert [text_of(message) for message in messages[:2]] == ["hello", "and again"]
    assert [message["generation"]["joined"] for message in messages[2:]] == [1, 2]


def test_what_is_hidden_or_deleted_is_not_read_by_the_model(server: LiveServer) -> None:
    conversation = made(server)
    first = added(server, conversation, "a rather long beginning " * 20)
    second = added(server, conversation, "hello", first)

    def prompt() -> int:
        return next(event["prompt_tokens"] for event in answered(server, conversation, second, store=False) if event["type"] == "usage")

    long = prompt()
    undo = server.post(f"/api/messages/{first}/hide", {"hidden": True}).json()["undo"]
    short = prompt()
    assert short < long / 2
    server.post(f"/api/undo/{undo}")
    assert prompt() == long
    server.post(f"/api/messages/{first}/delete", {"mode": "this"})
    assert prompt() == short
    server.post(f"/api/messages/{second}/hide", {"hidden": True})
    refused = server.post(f"/api/conversations/{conversation}/answer", {"parent": second, "model": "tiny"})
    assert refused.status_code == 400 and "nothing to answer" in refused.json()["error"]["message"]


def test_answers_that_cannot_be_given_are_refused_with_a_status(server: LiveServer) -> None:
    conversation = made(server)
    question = added(server, conversation, "hello")
    ask = lambda **more: server.post(f"/api/conversations/{conversation}/answer", {"parent": question, "model": "tiny", **more})  # noqa: E731
    for status, param, more in (
        (404, "model", {"model": "huge"}),
        (404, "model", {"model": "encoder"}),
        (404, None, {"parent": NOWHERE}),
        (404, None, {"parent": "\0"}),
        (400, "settings.alternatives", {"settings": {"alternatives": 99}}),
        (400, "settings.temperature", {"settings": {"temperature": 9}}),
        (400, "settings.temprature", {"settings": {"temprature": 1}}),
        (400, "settings.max_tokens", {"settings": {"max_tokens": 10**9}}),
        (400, None, {"levers": ["no_such_lever"]}),
        (400, None, {"levers": [{"retrieve": {"documents": "/etc"}}]}),
        (400, "more", {"more": 1}),
        (400, "parent", {"parent": None}),
    ):
        refused = ask(**more)
        assert refused.status_code == status, (more, refused.text)
        assert refused.json()["error"]["message"] and (param is None or refused.json()["error"]["param"] == param), refused.text
    long = added(server, conversation, "word " * 5000)
    refused = server.post(f"/api/conversations/{conversation}/answer", {"parent": long, "model": "tiny"})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
    assert [message["role"] for message in read(server, conversation)["messages"]] == ["user", "user"], "nothing was begun"


def test_a_lever_for_one_answer_is_pulled_and_recorded(server: LiveServer) -> None:
    conversation = made(server)
    question = added(server, conversation, "hello")
    lever = {"prompt": "Be brief, and then be briefer still."}
    events = answered(server, conversation, question, levers=[lever])
    plain = answered(server, conversation, question, store=False)
    count = lambda events: next(event["prompt_tokens"] for event in events if event["type"] == "usage")  # noqa: E731
    assert count(events) > count(plain)
    assert read(server, conversation)["messages"][1]["generation"]["levers"] == [lever]


def test_the_tree_is_edited_deleted_undone_and_walked(server: LiveServer) -> None:
    conversation = made(server)
    first = added(server, conversation, "one")
    edited = added(server, conversation, "two", edited_from=first)
    below = added(server, conversation, "three", edited)
    patched = server.client.patch(f"/api/conversations/{conversation}", json={"head": first}).json()
    assert patched["head"] == first
    undo = server.post(f"/api/messages/{edited}/delete", {"mode": "below"}).json()["undo"]
    messages = {message["id"]: message for message in read(server, conversation)["messages"]}
    assert messages[edited]["deleted"] and messages[below]["deleted"] and messages[below]["undo"] == undo
    assert server.post(f"/api/undo/{undo}").json()["conversation"] == conversation
    assert not any(message["deleted"] for message in read(server, conversation)["messages"])
    assert server.client.patch(f"/api/conversations/{conversation}", json={"head": None}).json()["head"] == below
    words = {"message": edited, "parts": [{"type": "text", "text": "deux"}], "end": below}
    made_anew = server.post(f"/api/conversations/{conversation}/rewrite", words).json()
    assert made_anew["copied"] == 1 and read(server, conversation)["head"] == made_anew["head"]
    assert server.post(f"/api/conversations/{conversation}/rewrite", words | {"end": first}).status_code == 400


def test_conversations_are_listed_found_renamed_deleted_and_restored(server: LiveServer) -> None:
    conversation = made(server, "Ornithology")
    added(server, conversation, "Do pelicans swim?")
    find = lambda q: [row["id"] for row in server.client.get("/api/conversations", params={"q": q}).json()["conversations"]]  # noqa: E731
    assert find("ornithology") == find("PELICANS") == [conversation]
    server.client.patch(f"/api/conversations/{conversation}", json={"title": "Birds", "consent": True})
    assert read(server, conversation)["title"] == "Birds" and read(server, conversation)["consent"]
    assert server.client.delete(f"/api/conversations/{conversation}").json()["undo"]
    assert find("pelicans") == [] and server.client.get(f"/api/conversations/{conversation}").status_code == 404
    assert server.post(f"/api/conversations/{conversation}/restore").json()["title"] == "Birds"
    assert find("pelicans") == [conversation]


def test_what_people_say_of_answers_comes_out_as_rows_that_training_reads(server: LiveServer, tmp_path: Path) -> None:
    conversation = made(server)
    question = added(server, conversation, "The capital of Ruritania?")
    better = added(server, conversation, "Streslau", question, "assistant")
    worse = added(server, conversation, "Zenda", question, "assistant")
    choice = {"conversation": conversation, "turn": question, "chosen": better, "rejected": worse, "strength": 2, "both_bad": False}
    choice["shown"] = [worse, better]
    assert server.post("/api/choices", choice).json()["value"]["shown"] == [worse, better]
    correction = server.post("/api/feedback", {"message": worse, "kind": "correction", "value": "Strelsau, I think"}).json()
    changed = server.client.patch(f"/api/feedback/{correction['id']}", json={"value": "Strelsau"}).json()
    assert changed["value"] == "Strelsau" and changed["message"] == worse and changed["text"] == "Zenda"
    listed = server.client.get("/api/feedback", params={"q": "strelsau"}).json()
    assert [row["id"] for row in listed["feedback"]] == [correction["id"]] and listed["next"] is None
    rows = server.client.get("/api/export", params={"kind": "sft", "consent": 1})
    assert rows.headers["content-type"].startswith("application/x-ndjson") and rows.headers["x-left-out"] == "0"
    (tmp_path / "sft.jsonl").write_bytes(rows.content)
    read_back = read_jsonl(tmp_path / "sft.jsonl")
    assert read_back.bad == []
    assert ["The capital of Ruritania?", "Strelsau"] in [[turn.message.content for turn in row.turns] for row in read_back.examples]
    pairs = [json.loads(line) for line in server.client.get("/api/export", params={"kind": "preferences"}).text.splitlines()]
    assert [(row["strength"], row["consent"]) for row in pairs if row["conversation"] == conversation] == [(2, False), (None, False)]
    undo = server.client.delete(f"/api/feedback/{correction['id']}").json()["undo"]
    assert server.client.get("/api/feedback", params={"q": "strelsau"}).json()["feedback"] == []
    server.post(f"/api/undo/{undo}")
    assert server.client.get("/api/feedback", params={"q": "strelsau", "kind": "correction"}).json()["feedback"]


def test_files_go_in_and_out_and_cannot_run(server: LiveServer) -> None:
    upload = lambda content, name: server.client.post("/api/attachments", content=content, headers={"X-Name": name})  # noqa: E731
    kept = upload(b"<script>alert(1)</script>", "b%C3%B6se%2F..%2Fpage.html").json()
    assert (kept["name"], kept["type"], kept["size"]) == ("page.html", "text/plain", 25)
    file = server.client.get(f"/api/attachments/{kept['id']}")
    assert file.content == b"<script>alert(1)</script>" and file.headers["content-type"].startswith("text/plain")
    assert file.headers["x-content-type-options"] == "nosniff" and "sandbox" in file.headers["content-security-policy"]
    assert file.headers["content-disposition"].startswith("attachment")
    conversation = made(server)
    body = {"role": "user", "parts": [{"type": "file", "attachment": kept["id"], "name": "other"}, {"type": "text", "text": "hello"}]}
    message = server.post(f"/api/conversations/{conversation}/messages", body).json()
    assert message["parts"][0] == {"type": "file", "attachment": kept["id"], "name": "page.html"}
    assert answered(server, conversation, message["id"])[-1]["reason"] == "length"
    picture = upload(b"GIF89a\x04\x00\x03\x00\x00\x00\x00;", "cat.gif").json()
    assert server.client.get(f"/api/attachments/{picture['id']}").headers["content-disposition"].startswith("inline")
    body["parts"] = [{"type": "file", "attachment": picture["id"]}]
    message = server.post(f"/api/conversations/{conversation}/messages", body).json()
    refused = server.post(f"/api/conversations/{conversation}/answer", {"parent": message["id"], "model": "tiny"})
    assert refused.status_code == 400 and "cat.gif" in refused.json()["error"]["message"]
    assert upload(b"\x7fELF", "x").status_code == 400 and upload(b"", "x").status_code == 400
    assert upload(b"x" * (33 * 1024 * 1024), "x").status_code == 413


def test_an_export_is_imported_and_what_is_erased_is_gone(server: LiveServer) -> None:
    conversation = made(server, "To be erased")
    question = added(server, conversation, "swordfish")
    reply = answered(server, conversation, question)[0]["id"]
    before = read(server, conversation)
    lines = [line for line in server.client.get("/api/export", params={"kind": "conversations"}).text.splitlines() if conversation in line]
    assert server.client.post("/api/import", content="\n".join(lines)).json() == {"imported": 0, "already": 1, "bad": []}
    assert server.post("/api/erase", {"message": reply}).json() == {"erased": 1}
    assert server.post("/api/erase", {"conversation": conversation}).json() == {"erased": 2}
    assert server.client.get(f"/api/conversations/{conversation}").status_code == 404
    assert server.client.get("/api/conversations", params={"q": "swordfish"}).json()["conversations"] == []
    assert server.client.post("/api/import", content="\n".join(lines)).json()["imported"] == 1
    assert read(server, conversation) == before
    assert server.client.post("/api/import", content=b"{}\n").status_code == 400
    assert server.client.post("/api/import?bad_rows=skip", content=b"{}\n").json()["bad"][0]["line"] == 1


@pytest.mark.parametrize("id", [NOWHERE, "x", "%00", "%ED%A0%80", "a" * 3000, "..%2f..%2fetc"])
def test_ids_that_mean_nothing_are_404_everywhere(server: LiveServer, id: str) -> None:
    for method, path, body in (
        ("GET", "/api/conversations/{}", None),
        ("PATCH", "/api/conversations/{}", {"title": "x"}),
        ("DELETE", "/api/conversations/{}", None),
        ("POST", "/api/conversations/{}/restore", None),
        ("POST", "/api/conversations/{}/messages", {"role": "user", "parts": [{"type": "text", "text": "x"}]}),
        ("POST", "/api/conversations/{}/answer", {"parent": NOWHERE, "model": "tiny"}),
        ("GET", "/api/messages/{}/tokens", None),
        ("POST", "/api/messages/{}/delete", {"mode": "this"}),
        ("POST", "/api/messages/{}/hide", {"hidden": True}),
        ("POST", "/api/undo/{}", None),
        ("PATCH", "/api/feedback/{}", {"value": "up"}),
        ("DELETE", "/api/feedback/{}", None),
        ("GET", "/api/attachments/{}", None),
    ):
        told = server.client.request(method, path.format(id), json=body)
        assert told.status_code == 404 and told.json()["error"]["message"], (path, told.text)


def test_bodies_that_make_no_sense_are_refused_by_name(server: LiveServer) -> None:
    conversation = made(server)
    messages = f"/api/conversations/{conversation}/messages"
    text = {"type": "text", "text": "x"}
    for path, body in (
        (messages, {"role": "user", "parts": []}),
        (messages, {"role": "user", "parts": [{"type": "text", "text": " "}]}),
        (messages, {"role": "tool", "parts": [text]}),
        (messages, {"role": "user", "parts": [text], "more": 1}),
        (messages, {"role": "user", "parts": [{"type": "picture"}]}),
        (messages, {"role": "user", "parts": "x"}),
        (messages, {"role": "user", "parts": [text] * 65}),
        ("/api/conversations", {"title": 7}),
        ("/api/conversations", {"title": "a\nb"}),
        ("/api/erase", {}),
        ("/api/erase", {"conversation": conversation, "message": NOWHERE}),
        ("/api/feedback", {"message": NOWHERE, "kind": "likes", "value": "x"}),
        ("/api/choices", {"conversation": conversation, "turn": NOWHERE, "strength": 9}),
    ):
        told = server.post(path, body)
        assert told.status_code == 400 and told.json()["error"]["message"], (body, told.text)
    for content in (b"", b"{", b'{"title": "\\ud800"}', b"\xff", b"[" * 100_000, b'{"title": NaN}'):
        told = server.client.post("/api/conversations", content=content, headers={"Content-Type": "application/json"})
        assert told.status_code == 400, content[:20]
    for query in ({"cursor": "x"}, {"q": "x" * 500}):
        assert server.client.get("/api/conversations", params=query).status_code == 400
    assert server.client.patch(f"/api/conversations/{conversation}", json={}).status_code == 400
    assert server.client.patch(f"/api/conversations/{conversation}", json={"title": None}).status_code == 400
    assert server.client.get("/api/export", params={"kind": "everything"}).status_code == 400


def test_closing_the_stream_ends_the_answer_and_keeps_what_was_written(server: LiveServer) -> None:
    conversation = made(server)
    question = added(server, conversation, "hello there")
    body = {"parent": question, "model": "tooled", "settings": {"max_tokens": 15_000, "ignore_eos": True}}
    with server.client.stream("POST", f"/api/conversations/{conversation}/answer", json=body) as response:
        lines = response.iter_lines()
        while '"type":"text"' not in next(lines):
            continue
    for _ in range(1200):
        message = read(server, conversation)["messages"][1]
        if message["generation"]["reason"]:
            break
        time.sleep(0.05)
    assert message["generation"]["reason"] == "cancelled" and text_of(message)
    assert 0 < len(message["generation"]["tokens"]) < 15_000
    usage = message["generation"]["usage"]
    assert usage["completion_tokens"] == len(message["generation"]["tokens"]) and usage["prompt_tokens"] is None
    assert 0 < usage["first_token_seconds"] <= usage["seconds"]


async def slowly(events: list[Event | Exception]) -> AsyncIterator[Sequence[Event]]:
    for event in events:
        if isinstance(event, Exception):
            raise event
        yield (event,)


def told_of(store: Store) -> tuple[_Told, str]:
    conversation = store.conversations.create(ANN)["id"]
    question = say(store, conversation, "q")
    return _Told(store, ANN, conversation, question, Generation("tiny", "f00d"), shows_tokens=True), conversation


async def pieces(ids: list[int]) -> list[str]:
    return [str(id) for id in ids]


def test_a_client_that_goes_away_leaves_what_was_written(store: Store) -> None:
    told, conversation = told_of(store)
    token = Token(1, "half", -0.5, 1.0, -0.5, ((1, -0.5), (2, float("-inf"))))

    async def leave() -> None:
        stream = _stream(told, Rendered((), ()), slowly([Text("half"), token, Text(" an answer"), Done("stop")]), pieces)
        for _ in range(2):  # what was there with its first event, and the second
            await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    message = shown(store, conversation)[str(told.id)]
    assert text_of(message) == "half" and message["generation"]["reason"] == "cancelled"
    assert message["generation"]["usage"]["completion_tokens"] == 1
    assert message["generation"]["tokens"][0]["alternatives"][1] == {"text": "2", "logprob": None}


@pytest.mark.parametrize("failure", [SteelyardError("the engine is gone", do="Ask again."), None])
def test_an_answer_that_fails_on_the_way_says_so_and_is_kept(store: Store, failure: Exception | None) -> None:
    told, conversation = told_of(store)
    events: list[Event | Exception] = [Text("half"), *([failure] if failure else [])]

    async def listen() -> list[dict[str, Any]]:
        return [event async for event in each(_stream(told, Rendered((), ()), slowly(events), pieces))]  # type: ignore[misc]

    heard = asyncio.run(listen())
    assert [event["type"] for event in heard] == ["message", "text", "error", "done"] and heard[-1]["reason"] == "error"
    message = shown(store, conversation)[str(told.id)]
    assert text_of(message) == "half" and message["generation"]["reason"] == "error" and message["generation"]["error"]


def test_an_answer_refused_before_it_began_leaves_no_message(store: Store) -> None:
    told, conversation = told_of(store)

    async def ask() -> None:
        await anext(_stream(told, Rendered((), ()), slowly([SteelyardError("too busy")]), pieces))

    with pytest.raises(SteelyardError, match="too busy"):
        asyncio.run(ask())
    assert len(shown(store, conversation)) == 1


def test_done_is_told_only_when_the_record_is_on_the_disk(store: Store) -> None:
    told, conversation = told_of(store)

    async def listen() -> None:
        async for event in each(_stream(told, Rendered((), ()), slowly([Text("whole"), Done("stop")]), pieces)):
            if event["type"] == "done":
                assert shown(store, conversation)[str(told.id)]["generation"]["reason"] == "stop"

    asyncio.run(listen())
