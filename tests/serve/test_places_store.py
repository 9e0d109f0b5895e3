"""Places in the store: told by the server, kept as part of a message, read by models, exported, imported and erased."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.core.errors import DataError, SteelyardError
from steelyard.serve.store.errors import NotFoundError
from steelyard.serve.store.parts import FilePart, PointedPart, TextPart
from steelyard.serve.store.rendering import rendered
from steelyard.serve.store.store import Store
from tests.serve.stores import ANN, BOB, answer, say, shown
from tests.serve.test_places import PLANETS

COLUMN = {"kind": "column", "column": 2}
ANSWER = "It is so. The Danube is long.\n\n| river | km |\n| --- | --- |\n| Danube | 2850 |\n| Rhine | 1233 |\n"


def pointed(source: dict[str, Any], selection: dict[str, Any], shown: str | None = None) -> PointedPart:
    return PointedPart.model_validate({"type": "place", "source": source, "selection": selection, "shown": shown})


def attached(store: Store, content: str = PLANETS, owner: str = ANN) -> dict[str, Any]:
    return {"attachment": store.attachments.add(owner, "planets.csv", content.encode())["id"]}


def asked(store: Store, conversation: str, places: list[PointedPart], parent: str | None = None, **more: Any) -> str:
    parts = [*places, TextPart(type="text", text="What is the mean?")]
    told = store.places.tell_all(ANN, conversation, parts, more.get("edited_from"))
    return store.messages.add(ANN, conversation, parent, "user", told, **more)["id"]


def read_by_model(store: Store, conversation: str, message: str) -> list[str]:
    path = store.messages.context(ANN, conversation, message)
    return [one.content for one in rendered(path, lambda file: store.attachments.read(ANN, file)).messages]


def test_a_place_is_kept_with_its_figures_and_read_by_the_model_before_the_question(store: Store):
    conversation = store.conversations.create(ANN)["id"]
    source = attached(store)
    message = asked(store, conversation, [pointed(source, COLUMN, "mass"), pointed(source, {"kind": "cell", "row": 4, "column": 3})])
    places = shown(store, conversation)[message]["parts"][:2]
    assert [place["label"] for place in places] == ["column mass", "moons of Jupiter"] and places[0]["name"] == "planets.csv"
    assert dict(places[0]["figures"])["The mean of mass is 333.327."] == pytest.approx(2666.612 / 8)
    assert places[0]["selection"] == COLUMN and places[0]["source"] == source
    (turn,) = read_by_model(store, conversation, message)
    assert turn == f"{places[0]['text']}\n\n{places[1]['text']}\n\nWhat is the mean?" and "The mean of mass is 333.327." in turn
    assert store.conversations.read(ANN, conversation)["title"] == "What is the mean?"


def test_the_file_itself_is_not_read_where_it_is_only_pointed_into(store: Store):
    conversation = store.conversations.create(ANN)["id"]
    message = asked(store, conversation, [pointed(attached(store, PLANETS + "Pluto,dwarf,0.0146,5\n" * 40), COLUMN)])
    assert read_by_model(store, conversation, message)[0].count("Pluto") <= 20


def test_words_and_tables_of_an_answer_can_be_pointed_at(store: Store):
    conversation = store.conversations.create(ANN)["id"]
    question = say(store, conversation, "Rivers?")
    reply = answer(store, conversation, ANSWER, question)
    start = ANSWER.index("The Danube")
    words = pointed({"message": reply, "start": start, "end": start + 19}, {"kind": "sentence"}, "The Danube is long.")
    table = {"message": reply, "start": ANSWER.index("| river"), "end": len(ANSWER)}
    message = asked(store, conversation, [words, pointed(table, {"kind": "column", "column": 1}, "km")], parent=reply)
    parts = shown(store, conversation)[message]["parts"]
    assert parts[0]["text"].endswith("> The Danube is long.") and dict(parts[1]["figures"])["The mean of km is 2041.5."] == 2041.5
    with pytest.raises(DataError, match="reads otherwise"):
        store.places.tell(ANN, words.model_copy(update={"shown": "The Rhine is long."}))


def test_pointing_at_what_is_not_there_is_refused(store: Store):
    conversation, other = (store.conversations.create(ANN)["id"] for _ in range(2))
    mine = say(store, conversation, "one two")
    elsewhere = say(store, other, "three four")
    theirs, picture = attached(store, owner=BOB), store.attachments.add(ANN, "cat.gif", b"GIF89a\x04\x00\x03\x00\x00\x00\x00;")["id"]
    sentence = {"kind": "sentence"}
    for error, source, selection in (
        (NotFoundError, theirs, COLUMN),
        (NotFoundError, {"attachment": "../../etc/passwd"}, COLUMN),
        (NotFoundError, {"message": "f" * 24, "start": 0, "end": 1}, sentence),
        (NotFoundError, {"message": elsewhere, "start": 0, "end": 5}, sentence),
        (DataError, {"message": mine, "start": 0, "end": 8}, sentence),
        (DataError, {"message": mine, "start": 3, "end": 3}, sentence),
        (DataError, {"message": mine, "start": 0, "end": 7}, COLUMN),
        (SteelyardError, {"attachment": picture}, COLUMN),
        (DataError, attached(store), {"kind": "cell", "row": 8, "column": 0}),
    ):
        with pytest.raises(error):
            asked(store, conversation, [pointed(source, selection)])
    assert len(shown(store, conversation)) == 1


def test_a_copy_of_an_edited_message_keeps_what_was_told(store: Store):
    conversation = store.conversations.create(ANN)["id"]
    first = say(store, conversation, "The sky is blue.")
    place = pointed({"message": first, "start": 0, "end": 16}, {"kind": "sentence"})
    message = asked(store, conversation, [place], parent=first)
    store.messages.delete(ANN, first, "this")
    with pytest.raises(NotFoundError):
        asked(store, conversation, [place])
    copy = asked(store, conversation, [place], edited_from=message)
    assert shown(store, conversation)[copy]["parts"] == shown(store, conversation)[message]["parts"]


def test_a_place_survives_export_and_import_and_holds_its_file(store: Store):
    conversation = store.conversations.create(ANN)["id"]
    source = attached(store)
    message = asked(store, conversation, [pointed(source, COLUMN)])
    asked(store, conversation, [pointed({"message": message, "start": 0, "end": 4}, {"kind": "sentence"})], parent=message)
    before = store.conversations.read(ANN, conversation)
    (line,) = store.export_conversations(ANN)
    store.erase(ANN, conversation=conversation)
    with pytest.raises(NotFoundError):
        store.attachments.read(ANN, source["attachment"])
    assert store.import_conversations(ANN, line.encode())["imported"] == 1
    assert store.conversations.read(ANN, conversation) == before
    assert store.attachments.read(ANN, source["attachment"]).content == PLANETS.encode()
    assert store.import_conversations(BOB, line.encode())["imported"] == 1  # the same ids mean Ann's things: Bob gets his own
    (id,) = [one["id"] for one in store.conversations.list(BOB)["conversations"]]
    places = [part for one in store.conversations.read(BOB, id)["messages"] for part in one["parts"] if part["type"] == "place"]
    assert store.attachments.read(BOB, places[0]["source"]["attachment"]).content == PLANETS.encode()
    assert places[1]["source"]["message"] == store.conversations.read(BOB, id)["messages"][0]["id"] != message


def test_a_line_whose_places_make_no_sense_is_not_imported(store: Store):
    conversation = store.conversations.create(ANN)["id"]
    asked(store, conversation, [pointed(attached(store), COLUMN)])
    good = json.loads(next(iter(store.export_conversations(ANN))))
    store.erase(ANN, conversation=conversation)
    place = good["messages"][0]["parts"][0]
    for bad in (
        place | {"source": {"attachment": "f" * 24}},
        place | {"selection": {"kind": "column", "column": -1}},
        place | {"selection": {"kind": "sentence"}, "source": {"message": "../x", "start": 0, "end": 1}},
        place | {"text": "x" * 50_000},
        place | {"text": 7},
        {key: value for key, value in place.items() if key != "text"},
    ):
        line = good | {"messages": [good["messages"][0] | {"parts": [bad]}]}
        with pytest.raises(DataError):
            store.import_conversations(ANN, json.dumps(line).encode())
    assert store.import_conversations(ANN, json.dumps(good).encode())["imported"] == 1


def test_erasing_a_message_takes_its_words_out_of_the_places_that_quote_it(store: Store):
    conversation = store.conversations.create(ANN)["id"]
    first = say(store, conversation, "swordfish and more")
    quoting = asked(store, conversation, [pointed({"message": first, "start": 0, "end": 9}, {"kind": "sentence"})], parent=first)
    store.erase(ANN, message=first)
    place, question = shown(store, conversation)[quoting]["parts"]
    assert (place["text"], place["label"], question["text"]) == ("", "", "What is the mean?")
    assert "swordfish" not in "".join(store.export_conversations(ANN))
    assert read_by_model(store, conversation, quoting) == ["What is the mean?"]


def test_a_place_alone_is_a_message_and_a_file_stays_while_a_place_needs_it(store: Store):
    conversation = store.conversations.create(ANN)["id"]
    source = attached(store)
    file = store.messages.add(ANN, conversation, None, "user", [FilePart(type="file", attachment=source["attachment"])])["id"]
    told = store.places.tell_all(ANN, conversation, [pointed(source, COLUMN)])
    alone = store.messages.add(ANN, conversation, file, "user", told)["id"]
    assert "mean" in read_by_model(store, conversation, alone)[0]
    store.erase(ANN, message=file)
    assert store.attachments.read(ANN, source["attachment"]).content
    store.erase(ANN, message=alone)
    with pytest.raises(NotFoundError):
        store.attachments.read(ANN, source["attachment"])
