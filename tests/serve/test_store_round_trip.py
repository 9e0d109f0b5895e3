"""Whatever a conversation holds is there again after export and import: places, pieces of pictures, records of answers, drafts, joules."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.data.documents.reading import VERSION
from steelyard.data.documents.sections import Section
from steelyard.serve.reading import Reading
from steelyard.serve.store.answers import Generation
from steelyard.serve.store.attachments import Piece
from steelyard.serve.store.parts import FilePart, PointedPart, TextPart
from steelyard.serve.store.rendering import rendered
from steelyard.serve.store.store import Store
from tests.serve.stores import ANN, BOB
from tests.serve.test_places import PLANETS
from tests.serve.test_store_feedback import png

STATED = [
    {"kind": "column", "column": 2},
    {"kind": "cell", "row": 1, "column": 2},
    {"kind": "point", "row": 0, "column": 2, "along": 0},
    {"kind": "rows", "rows": [0, 2]},
]
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
FINITE = st.floats(-1e6, 1e6)
OWNERS = itertools.count()


def fields(**made: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries(made)


MADE = fields(
    levers=st.lists(st.just({"retrieve": {"passages": 3}}), max_size=1),
    settings=fields(temperature=FINITE, quote=st.booleans()),
    reason=st.sampled_from(["stop", "length", "cancelled", "error", None]),
    error=st.none() | WORDS,
    usage=st.none()
    | fields(
        prompt_tokens=st.integers(0, 9),
        seconds=FINITE,
        energy_joules=fields(low=FINITE, high=FINITE, source=st.just("modelled"), shared=st.booleans()),
    ),
    confidence=st.none()
    | fields(value=FINITE, kind=st.just("calibrated"), sentences=st.lists(fields(start=st.integers(0, 9), value=FINITE))),
    citations=st.lists(fields(source=WORDS, score=FINITE), max_size=2),
    lookups=st.lists(fields(query=WORDS, passages=st.lists(fields(text=WORDS, read=st.booleans()), max_size=2)), max_size=1),
    tools=st.lists(fields(name=WORDS, arguments=WORDS), max_size=1),
    tokens=st.lists(
        fields(
            id=st.integers(0, 9),
            text=WORDS,
            logprob=st.none() | FINITE,
            entropy=st.none() | FINITE,
            alternatives=st.lists(fields(text=WORDS, logprob=FINITE), max_size=2),
        ),
        max_size=2,
    ),
)
SAID = fields(
    text=WORDS,
    place=st.none() | st.sampled_from(STATED),
    file=st.sampled_from([None, "whole", "none"]),
    piece=st.booleans(),
    hidden=st.booleans(),
    edited=st.booleans(),
    answer=st.none() | MADE,
    judged=st.sampled_from([None, ("thumbs", "up"), ("tag", "made up"), ("correction", "Otherwise.")]),
)


def told(store: Store, owner: str, turns: list[dict[str, Any]], consent: bool) -> str:
    """A conversation of these turns; returns its id."""
    conversation, parent, before = store.conversations.create(owner, None, consent)["id"], None, None
    table = store.attachments.add(owner, "planets.csv", PLANETS.encode())["id"]
    whole = store.attachments.add(owner, "bill.png", png(40, 30))["id"]
    cut = store.attachments.add(owner, "bill 9x8+1+2.png", png(9, 8), Piece(whole, "bill.png", (1, 2, 9, 8)))["id"]
    for turn in turns:
        parts: list[Any] = [TextPart(type="text", text=turn["text"])]
        if turn["place"] is not None:
            parts.insert(0, PointedPart.model_validate({"type": "place", "source": {"attachment": table}, "selection": turn["place"]}))
        if turn["file"] is not None:
            parts.append(FilePart(type="file", attachment=table, read=turn["file"]))
        if turn["piece"]:
            parts.append(FilePart(type="file", attachment=cut, read="none"))
        edited = before if turn["edited"] else None
        sent = store.places.tell_all(owner, conversation, parts, edited)
        message = store.messages.add(owner, conversation, parent, "user", sent, edited)["id"]
        if turn["answer"] is not None:
            made = Generation("tiny", "f00d", **turn["answer"])
            answer = store.answers.begin(owner, conversation, message, made)
            store.answers.finish(owner, conversation, answer, turn["text"], made)
            if turn["judged"] is not None:
                store.feedback.add(owner, answer, *turn["judged"])
        if turn["hidden"]:
            store.messages.hide(owner, message, True)
        before = message
        parent = None if turn["edited"] else message
    return conversation


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that others' lines are taken over into."""
    with Store(tmp_path_factory.mktemp("other") / "other.sqlite") as other:
        yield other


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(turns=st.lists(SAID, min_size=1, max_size=4), consent=st.booleans())
def test_any_conversation_survives_its_export(store: Store, elsewhere: Store, turns: Any, consent: bool) -> None:
    owner = f"p{next(OWNERS)}"
    conversation = told(store, owner, turns, consent)
    (line,) = store.export_conversations(owner)
    assert elsewhere.import_conversations(owner, line.encode()) == {"imported": 1, "already": 0, "bad": []}
    assert list(elsewhere.export_conversations(owner)) == [line]
    assert elsewhere.conversations.read(owner, conversation) == store.conversations.read(owner, conversation)


def test_a_piece_of_a_picture_keeps_its_place_whose_picture_is_not_in_the_file(store: Store, tmp_path: Path) -> None:
    turn = {
        "text": "How much?",
        "place": None,
        "file": None,
        "piece": True,
        "hidden": False,
        "edited": False,
        "answer": None,
        "judged": None,
    }
    told(store, ANN, [turn], False)
    line = next(store.export_conversations(ANN))
    (file,) = json.loads(line)["attachments"]  # the piece alone was sent, and alone is told
    assert file["piece"]["rectangle"] == [1, 2, 9, 8] and file["piece"]["name"] == "bill.png"
    with Store(tmp_path / "other.sqlite") as other:
        other.import_conversations(BOB, line.encode())
        kept = other.attachments.read(BOB, file["id"])
        assert kept.piece == Piece(file["piece"]["origin"], "bill.png", (1, 2, 9, 8))


@pytest.mark.parametrize("piece", [{"origin": "x"}, {"name": "a", "origin": "f" * 24, "rectangle": [0, 0, 0, 1]}, [1]])
def test_a_piece_that_makes_no_sense_is_refused(store: Store, tmp_path: Path, piece: Any) -> None:
    turn = {"text": "So?", "place": None, "file": "whole", "piece": True, "hidden": False, "edited": False, "answer": None, "judged": None}
    told(store, ANN, [turn], False)
    line = json.loads(next(store.export_conversations(ANN)))
    good = next(file for file in line["attachments"] if "piece" in file)["piece"]
    with Store(tmp_path / "other.sqlite") as other:
        for file in line["attachments"]:
            wrong = line | {"attachments": [one | {"piece": piece if one is file else None} for one in line["attachments"]]}
            assert other.import_conversations(ANN, json.dumps(wrong).encode(), skip=True)["bad"], file["name"]
            table = [one | {"piece": good} if one["name"] == "planets.csv" else one for one in line["attachments"]]
        assert "no picture" in str(other.import_conversations(ANN, json.dumps(line | {"attachments": table}).encode(), skip=True)["bad"])


def test_what_was_read_of_a_file_is_not_believed_but_read_again(store: Store, tmp_path: Path) -> None:
    conversation = store.conversations.create(ANN)["id"]
    picture = store.attachments.add(ANN, "bill.png", png(40, 30))["id"]
    store.readings.keep(store.attachments.read(ANN, picture).sha256, Reading(f"document {VERSION}", (Section("", "Total: 1 EUR"),)))
    store.messages.add(ANN, conversation, None, "user", [FilePart(type="file", attachment=picture, read="whole")])
    assert store.attachments.unread(ANN) == []
    line = next(store.export_conversations(ANN))
    assert "Total" not in line
    with Store(tmp_path / "other.sqlite") as other:
        other.import_conversations(ANN, line.encode())
        assert other.attachments.unread(ANN) == [picture] and other.attachments.unread(BOB) == []
        other.readings.keep(other.attachments.read(ANN, picture).sha256, Reading(f"document {VERSION}", (Section("", "Total: 2 EUR"),)))
        assert other.attachments.unread(ANN) == []
        message = other.conversations.read(ANN, conversation)["head"]
        path = other.messages.context(ANN, conversation, message)
        assert "Total: 2 EUR" in rendered(path, lambda file: other.attachments.read(ANN, file)).messages[0].content
