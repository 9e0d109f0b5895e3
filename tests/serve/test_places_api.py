"""Places over a whole server: what is told before it is sent, what is stored, what a model is given, and answers that quote it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.live_server import LiveServer
from tests.serve.test_page_api import NOWHERE, added, answered, made, read
from tests.serve.test_places import PLANETS, random_table

MASS = {"kind": "column", "column": 2}


def uploaded(server: LiveServer, content: str = PLANETS, name: str = "planets.csv") -> dict[str, str]:
    return {"attachment": server.client.post("/api/attachments", content=content.encode(), headers={"X-Name": name}).json()["id"]}


def told(server: LiveServer, source: dict[str, Any], selection: dict[str, Any], **more: Any) -> Any:
    return server.post("/api/places", {"place": {"type": "place", "source": source, "selection": selection, **more}})


def asked(server: LiveServer, conversation: str, source: dict[str, Any], selection: dict[str, Any], text: str = "hello") -> dict[str, Any]:
    parts = [{"type": "place", "source": source, "selection": selection}, {"type": "text", "text": text}]
    sent = server.post(f"/api/conversations/{conversation}/messages", {"role": "user", "parent": None, "parts": parts})
    assert sent.status_code == 200, sent.text
    return sent.json()


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "text")


def test_what_is_shown_before_sending_is_what_is_stored_and_read_by_the_model(server: LiveServer) -> None:
    conversation, source = made(server), uploaded(server)
    shown = told(server, source, MASS, shown="mass").json()
    message = asked(server, conversation, source, MASS)
    assert message["parts"][0] == shown and "The mean of mass is 333.327." in shown["text"]
    assert read(server, conversation)["messages"][0]["parts"] == message["parts"]
    usage = next(event for event in answered(server, conversation, message["id"]) if event["type"] == "usage")
    assert usage["prompt_tokens"] > len(shown["text"]) / 8  # the text went along, at most eight characters a token


@pytest.mark.parametrize("seed", range(20))
def test_the_figure_that_goes_with_a_question_is_the_one_computed_elsewhere_and_a_quoting_answer_is_one_of_them(
    server: LiveServer, seed: int
):
    table, rows = random_table(100 + seed)
    separator = table.separator
    quoted = [[f'"{cell}"' for cell in row] for row in [table.columns, *table.rows]]
    source = uploaded(server, "\n".join(separator.join(row) for row in quoted), "made.csv")
    conversation = made(server)
    message = asked(server, conversation, source, MASS)
    amounts = [row["amount"] for row in rows if row["amount"] is not None]
    figures = dict(message["parts"][0]["figures"])
    mean = next(value for sentence, value in figures.items() if sentence.startswith("The mean of amount is "))
    assert mean == pytest.approx(sum(amounts) / len(amounts), rel=1e-12)
    events = answered(server, conversation, message["id"], settings={"max_tokens": 200, "quote": True}, store=False)
    assert said(events) in figures and events[-1]["reason"] == "stop"


def test_an_answer_cannot_quote_where_no_figures_are(server: LiveServer) -> None:
    conversation = made(server)
    question = added(server, conversation, "hello")
    body = {"parent": question, "model": "tiny", "settings": {"quote": True}}
    refused = server.post(f"/api/conversations/{conversation}/answer", body)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "settings.quote"
    pointing = asked(server, conversation, {"message": question, "start": 0, "end": 5}, {"kind": "sentence"})
    assert server.post(f"/api/conversations/{conversation}/answer", body | {"parent": pointing["id"]}).status_code == 400


def test_places_outside_and_malformed_ones_are_refused_by_name(server: LiveServer) -> None:
    source = uploaded(server)
    for status, place, selection in (
        (400, source, {"kind": "cell", "row": 99, "column": 0}),
        (400, source, {"kind": "column", "column": 4}),
        (400, source, {"kind": "column", "column": -1}),
        (400, source, {"kind": "column", "column": True}),
        (400, source, {"kind": "column", "column": 10**30}),
        (400, source, {"kind": "rows", "rows": []}),
        (400, source, {"kind": "rows", "rows": list(range(2000))}),
        (400, source, {"kind": "sentence"}),
        (400, source, {"kind": "shape"}),
        (400, source | {"message": NOWHERE, "start": 0, "end": 1}, MASS),
        (404, {"attachment": NOWHERE}, MASS),
        (404, {"message": NOWHERE, "start": 0, "end": 1}, {"kind": "sentence"}),
    ):
        refused = told(server, place, selection)
        assert refused.status_code == status, (place, selection, refused.text)
        assert refused.json()["error"]["message"]
    assert "numbered from 0" in told(server, source, {"kind": "cell", "row": 99, "column": 0}).json()["error"]["message"]
    assert told(server, source, MASS, shown="moons").status_code == 400
    forged = {"type": "place", "source": source, "selection": MASS, "text": "The mean is 7."}
    sent = server.post(f"/api/conversations/{made(server)}/messages", {"role": "user", "parts": [forged]})
    assert sent.status_code == 400  # what is said of a place is the server's alone


def test_a_large_file_is_asked_about_although_no_model_could_read_it(server: LiveServer) -> None:
    source = uploaded(server, "name,value\n" + "".join(f"n{number},{number}\n" for number in range(100_000)), "big.csv")
    conversation = made(server)
    message = asked(server, conversation, source, {"kind": "cell", "row": 77_777, "column": 1})
    assert "The rank of n77777 by value, the largest first, is 22223 of 100000." in message["parts"][0]["text"]
    assert answered(server, conversation, message["id"])[-1]["type"] == "done"
