"""Indexes of people's own documents: built beside the answers, searched by name, and whole whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steelyard.augment.retrieve.uploaded import documents_in
from steelyard.data.documents.sections import Section
from steelyard.serve import indexing
from steelyard.serve.api.indexes import place_of
from steelyard.serve.engine_process import EngineProcess, ServedModel
from steelyard.serve.indexing import Indexing, key_of
from steelyard.serve.reading import Readers
from steelyard.serve.store.store import Store
from tests.serve.live_server import LiveServer
from tests.written_documents import docx, pdf

RIVERS = "The Zvarna is a river in Orvia. It is 412 km long and ends in Lake Tessel.\n\nThe Mirl is a short river of the same land."


def attached(server: LiveServer, name: str, content: bytes) -> str:
    return server.client.post("/api/attachments", content=content, headers={"X-Name": name}).json()["id"]


def put(server: LiveServer, index: str, name: str, content: bytes) -> dict[str, Any]:
    response = server.post(f"/api/indexes/{index}/documents", {"attachment": attached(server, name, content)})
    assert response.status_code == 200, response.text
    return response.json()


def begun(server: LiveServer, name: str) -> str:
    return server.post("/api/indexes", {"name": name}).json()["id"]


def settled(server: LiveServer, index: str) -> dict[str, Any]:
    """An index once nothing is under way."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        shown = server.client.get(f"/api/indexes/{index}").json()
        if shown["progress"] is None:
            return shown
        assert shown["progress"]["state"] in ("waiting", "reading", "indexing")
        time.sleep(0.05)
    raise AssertionError("the index was not built")


def answered(server: LiveServer, question: str, documents: str, **settings: Any) -> list[dict[str, Any]]:
    """The events of an answer that looks something up."""
    conversation = server.post("/api/conversations", {}).json()["id"]
    parts = [{"type": "text", "text": question}]
    message = server.post(f"/api/conversations/{conversation}/messages", {"parent": None, "role": "user", "parts": parts}).json()["id"]
    asked = {
        "parent": message,
        "model": "tiny",
        "settings": {"max_tokens": 2},
        "levers": [{"retrieve": {"documents": documents, **settings}}],
    }
    response = server.post(f"/api/conversations/{conversation}/answer", asked)
    if response.status_code != 200:
        return [response.json()]
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


def test_a_document_that_was_uploaded_is_found_without_a_restart_and_the_answer_tells_why(server: LiveServer) -> None:
    pytest.importorskip("pypdfium2")
    index = begun(server, "Rivers")
    put(server, index, "rivers.txt", RIVERS.encode())
    put(server, index, "lakes.pdf", pdf(["Lake Tessel is deep.", "Lake Orn is shallow."]))
    shown = settled(server, index)
    assert shown["built"] and shown["error"] is None
    assert [(one["name"], one["passages"]) for one in shown["documents"]] == [("lakes.pdf", 2), ("rivers.txt", 1)]

    events = answered(server, "How long is the Zvarna?", "Rivers")
    citation = next(event for event in events if event["type"] == "citation")
    assert citation["source"] == "rivers.txt" and "412 km" in citation["text"]
    lookup = next(event for event in events if event["type"] == "lookup")
    assert (lookup["index"], lookup["query"]) == ("Rivers", "How long is the Zvarna?")
    best = lookup["considered"][0]
    assert best["given"] and (best["rank"], best["bm25_rank"]) == (1, 1) and best["relevance"] >= lookup["threshold"] and best["bm25"] > 0
    assert "Zvarna" in best["found"] and "412 km" in best["sentence"] or "Zvarna" in best["sentence"]
    conversation = server.client.get("/api/conversations").json()["conversations"][0]["id"]
    kept = server.client.get(f"/api/conversations/{conversation}").json()["messages"][-1]["generation"]
    assert kept["lookups"] == [{key: value for key, value in lookup.items() if key != "type"}]

    page = next(event for event in answered(server, "Is Lake Orn shallow?", "Rivers") if event["type"] == "citation")
    assert page["source"] == "lakes.pdf#page 2"
    place = server.post(f"/api/indexes/{index}/place", {"source": page["source"], "text": page["text"]}).json()
    assert (place["name"], place["title"]) == ("lakes.pdf", "page 2")
    assert place["text"][place["start"] : place["end"]] == "Lake Orn is shallow."
    gone = server.post(f"/api/indexes/{index}/place", {"source": "lakes.pdf#page 2", "text": "words that stand nowhere"})
    assert gone.status_code == 404


def test_an_index_may_be_named_through_the_openai_api_and_nothing_else_may(server: LiveServer) -> None:
    index = begun(server, "Handbook")
    put(server, index, "a.md", b"# Rivers\n\nThe Zvarna is 412 km long.\n")
    settled(server, index)

    def asked(documents: str) -> Any:
        messages = [{"role": "user", "content": "How long is the Zvarna?"}]
        steelyard = {"levers": [{"retrieve": {"documents": documents}}]}
        return server.post("/v1/chat/completions", {"model": "tiny", "messages": messages, "max_tokens": 2, "steelyard": steelyard})

    assert asked("Handbook").json()["choices"][0]["steelyard"]["citations"][0]["source"] == "a.md#Rivers"
    for name in (f"index:{index}", "/etc", "encyclopedia", str(folder(server))):
        refused = asked(name)
        assert refused.status_code == 400 and "not registered" in refused.json()["error"]["message"]
        assert server.post("/api/indexes/place", {"index": name, "source": "a.md", "text": "x"}).status_code == 404


def folder(server: LiveServer) -> Path:
    assert server._store is not None
    return server._store.parent / "indexes"


def _files(server: LiveServer, index: str) -> list[Path]:
    return sorted(folder(server).glob(f"{index}-*"))


def test_names_are_told_apart_and_the_same_content_is_there_once(server: LiveServer) -> None:
    index = begun(server, "Names")
    names = [
        put(server, index, name, content)["name"] for name, content in [("a.txt", b"one"), ("a.txt", b"two"), ("..%2F..%2Fb%23.txt", b"x")]
    ]
    assert names == ["a.txt", "a (2).txt", "b_.txt"]
    assert put(server, index, "a.txt", b"one")["already"]
    assert server.post("/api/indexes", {"name": "Names"}).status_code == 400
    assert (
        server.post("/api/indexes", {"name": " \n"}).status_code == 400
        and server.post("/api/indexes", {"name": "x" * 101}).status_code == 400
    )
    settled(server, index)


def test_a_file_that_cannot_be_read_is_named_with_its_reason_and_the_others_are_indexed(server: LiveServer) -> None:
    index = begun(server, "Mixed")
    put(server, index, "good.docx", docx([("Normal", "The Zvarna is long.")]))
    put(server, index, "bad.docx", docx([("Normal", "&b;")], before='<!DOCTYPE x [<!ENTITY b "ha">]>'))
    shown = settled(server, index)
    assert {one["name"]: (one["passages"], bool(one["error"])) for one in shown["documents"]} == {
        "good.docx": (1, False),
        "bad.docx": (None, True),
    }
    assert "entities" in next(one["error"] for one in shown["documents"] if one["error"])


def test_taking_a_document_out_and_deleting_an_index_leave_nothing_to_find(server: LiveServer) -> None:
    index = begun(server, "Passing")
    keep, drop = (
        put(server, index, name, text)["id"] for name, text in [("keep.txt", b"The Mirl is short."), ("drop.txt", b"The Zvarna is long.")]
    )
    settled(server, index)
    assert server.client.delete(f"/api/indexes/{index}/documents/{drop}").status_code == 200
    shown = settled(server, index)
    assert [one["id"] for one in shown["documents"]] == [keep] and len(_files(server, index)) == 1
    assert not [event for event in answered(server, "How long is the Zvarna?", "Passing") if event["type"] == "citation"]
    assert server.client.get(f"/api/attachments/{drop}").status_code == 404
    assert server.client.delete(f"/api/indexes/{index}").status_code == 200
    assert _files(server, index) == [] and server.client.get(f"/api/indexes/{index}").status_code == 404
    assert "not registered" in answered(server, "How long?", "Passing")[0]["error"]["message"]


def test_deleting_while_indexing_ends_it(server: LiveServer) -> None:
    index = begun(server, "Doomed")
    put(server, index, "big.txt", b"A sentence about rivers and lakes. " * 30_000)
    assert server.client.get(f"/api/indexes/{index}").json()["progress"] is not None
    assert server.client.delete(f"/api/indexes/{index}").status_code == 200
    assert _files(server, index) == []


def test_an_indexing_process_that_is_killed_leaves_the_old_index_whole_and_can_be_asked_again(server: LiveServer, monkeypatch) -> None:
    said = indexing._said

    async def killed(process):
        async for line in said(process):  # after its first document
            yield line
            os.kill(process.pid, signal.SIGKILL)
            return  # what it may have said since is not heard

    index = begun(server, "Killed")
    put(server, index, "a.txt", RIVERS.encode())
    settled(server, index)
    monkeypatch.setattr(indexing, "_said", killed)
    put(server, index, "b.txt", b"A sentence about other things altogether. " * 300)
    shown = settled(server, index)
    assert "killed" in shown["error"] and shown["built"]
    assert any(event["type"] == "citation" for event in answered(server, "How long is the Zvarna?", "Killed"))
    monkeypatch.undo()
    server.post(f"/api/indexes/{index}/build")
    assert settled(server, index)["error"] is None


def test_a_place_is_found_whatever_white_space_is_between_its_words() -> None:
    assert place_of("a (b) c", "x a\n (b)   c y") == (2, 12)
    assert place_of("", "x") is None and place_of("z", "x") is None


def test_tables_are_indexed_row_by_row_and_records_one_by_one() -> None:
    rows = list(documents_in("prices.csv", [Section("", "item;price\nrope;3\nsail;40\n")]))
    assert [(one.source, one.text) for one in rows] == [
        ("prices.csv#row 1", "item: rope; price: 3."),
        ("prices.csv#row 2", "item: sail; price: 40."),
    ]  # type: ignore[union-attr]
    records = list(documents_in("a.jsonl", [Section("", '{"title": "T", "text": "one"}\n{"text": "two"}\n')]))
    assert [one.source for one in records] == ["a.jsonl#1", "a.jsonl#2"]  # type: ignore[union-attr]
    assert [one.source for one in documents_in("a.json", [Section("", '{"numbers": [1, 2]}')])] == ["a.json"]  # type: ignore[union-attr]


def test_a_server_that_starts_goes_on_with_what_was_left_undone_and_sweeps_what_nobody_knows(tmp_path: Path) -> None:
    async def run(store: Store) -> dict[str, str]:
        engine = EngineProcess([ServedModel("tiny", str(tmp_path))], queue=0)  # never started: it is only told
        indexing = Indexing(store, engine, Readers(), tmp_path / "indexes")
        await indexing.start()
        while any(indexing.progress(index["id"]) for index in store.indexes.list("ann")):
            await asyncio.sleep(0.02)
        await indexing.close()
        return engine.keeper.opening["registered"]

    with Store(tmp_path / "store.sqlite") as store:
        index = store.indexes.create("ann", "Rivers")["id"]
        store.indexes.add("ann", index, store.attachments.add("ann", "rivers.txt", RIVERS.encode())["id"])
        (tmp_path / "indexes").mkdir()
        (tmp_path / "indexes" / "left-behind.sqlite.part").write_text("unfinished")
        built = Path(asyncio.run(run(store))[key_of(index)])
        assert [path.name for path in (tmp_path / "indexes").iterdir()] == [built.name]
        assert store.indexes.searchable("ann")["Rivers"].built == built.stem and store.indexes.searchable("bob") == {}
        built.unlink()  # another server of the same database has none yet
        assert asyncio.run(run(store)) == {key_of(index): str(built)} and built.is_file()


def test_a_full_disk_leaves_the_old_index_and_says_why(tmp_path: Path) -> None:
    job = [{"destination": str(tmp_path / "a.sqlite"), "fingerprint": "f", "memory_bytes": 2**32}, ["a.txt", [["", "words " * 100_000]]]]
    limited = f"ulimit -f 100; exec {sys.executable} -P -m steelyard.serve.index_worker"
    told = subprocess.run(["bash", "-c", limited], input="\n".join(map(json.dumps, job)), capture_output=True, text=True)
    assert told.returncode == 0 and "cannot be written" in json.loads(told.stdout.splitlines()[-1])["reason"]
    assert not (tmp_path / "a.sqlite").exists()
