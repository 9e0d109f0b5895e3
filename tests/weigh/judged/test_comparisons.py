"""Comparisons of answers, read from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.core.errors import DataError
from steelyard.serve.store.answers import Generation
from steelyard.serve.store.parts import TextPart
from steelyard.serve.store.store import Store
from steelyard.weigh.judged.comparisons import Comparison, read_comparisons, weakened


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_comparisons_of_both_forms_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "mine.jsonl",
        {"first": "a", "second": "b", "winner": "tie", "item": 7, "rater": "ann", "strength": 2, "placed": False},
        {"model_a": "b", "model_b": "ü", "winner": "tie (bothbad)", "question_id": "q", "judge": "eve", "turn": 1},
        {"first": "a", "second": "a", "winner": "first"},
    )
    found = read_comparisons([path])
    assert found.all == [Comparison("a", "b", "tie", "7", "ann", 2, False), Comparison("b", "ü", "tie", "q", "eve")]
    assert found.left_out == {"both answers are by the same arm": 1}
    assert [one.winner for one in weakened([Comparison("a", "b", "first", strength=1), Comparison("a", "b", "first")], 2)] == [
        "tie",
        "first",
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"first": "a", "second": "b"}', "`winner` missing"),
        ('{"first": "a", "second": "b", "winner": "a"}', "it is first, second or tie"),
        ('{"first": "", "second": "b", "winner": "tie"}', "an arm's name"),
        ('{"first": "a", "second": "b", "winner": "tie", "strength": 4}', "`strength` is 4"),
        ('{"first": "a", "second": "b", "winner": "tie", "item": [1]}', "`item` is"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b"}', "who wrote the answers"),
        ('{"format": "steelyard.conversation"}', "a conversation without"),
        ("nonsense", "not JSON"),
        ("[1]", "not an object"),
    ],
)
def test_lines_that_are_none_are_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"first": "a", "second": "b", "winner": "tie"}\n' + line)
    with pytest.raises(DataError, match=f"bad.jsonl:2: .*{why}"):
        read_comparisons([path])


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    conversation = {
        "format": "steelyard.conversation",
        "id": "c",
        "messages": [value],
        "feedback": [{"kind": "choice", "value": value}, value],
    }
    for row in (value, conversation, {"first": value, "second": "b", "winner": value, "item": value}):
        path = written(tmp_path_factory.getbasetemp() / "any.jsonl", row)
        try:
            read_comparisons([path])
        except DataError as error:
            assert "any.jsonl:1" in str(error)


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_comparisons([tmp_path / "nowhere.jsonl"])


def reply(store: Store, conversation: str, parent: str, model: str, levers: list | None = None) -> str:
    made = Generation(model, "print-" + model, levers=levers or [], settings={"temperature": 0.5}, reason="stop")
    id = store.answers.begin("ann", conversation, parent, made)
    store.answers.finish("ann", conversation, id, f"I am {model}", made)
    return id


def test_where_answers_stood_when_they_were_compared_is_kept_on_the_way_out_and_in(tmp_path: Path) -> None:
    with Store(str(tmp_path / "store.sqlite")) as store:
        conversation = store.conversations.create("ann")["id"]
        turn = store.messages.add("ann", conversation, None, "user", [TextPart(type="text", text="Hello")])["id"]
        one, other = reply(store, conversation, turn, "small"), reply(store, conversation, turn, "large")
        store.feedback.choose("ann", conversation, turn, one, other, 2, shown=(other, one))
        store.feedback.choose("ann", conversation, turn, None, None, 1, both_bad=True, shown=(one, other))
        lines = "".join(store.export_conversations("ann", False)).encode()
        store.import_conversations("bob", lines)
        (tmp_path / "bob.jsonl").write_text("".join(store.export_conversations("bob", False)), encoding="utf-8")
    found = read_comparisons([tmp_path / "bob.jsonl"]).all
    assert [(each.first, each.second, each.winner) for each in found] == [("large", "small", "second"), ("small", "large", "tie")]
    assert all(each.placed for each in found)


def test_choices_made_on_the_page_are_rated_as_the_server_exports_them(tmp_path: Path) -> None:
    brief = [{"prompt": {"system": "Be brief"}}]
    with Store(str(tmp_path / "store.sqlite")) as store:
        for number in range(8):
            conversation = store.conversations.create("ann")["id"]
            turn = store.messages.add("ann", conversation, None, "user", [TextPart(type="text", text="Hello")])["id"]
            one, other = reply(store, conversation, turn, "tiny"), reply(store, conversation, turn, "tiny", brief)
            if number == 7:
                store.feedback.choose("ann", conversation, turn, None, None, 1, both_bad=True)
            else:
                chosen, rejected = (one, other) if number < 2 else (other, one)
                store.feedback.choose("ann", conversation, turn, chosen, rejected, 1 + number % 3)
            edited = store.messages.add("ann", conversation, turn, "assistant", [TextPart(type="text", text="Mine")], edited_from=one)["id"]
            if number == 0:
                store.feedback.choose("ann", conversation, turn, edited, one, 3)
        export = tmp_path / "ann.jsonl"
        export.write_text("".join(store.export_conversations("ann", False)), encoding="utf-8")
    found = read_comparisons([export])
    name = 'tiny + prompt(system="Be brief")'
    assert sorted((one.first, one.winner) for one in found.all) == [("tiny", "first")] * 2 + [("tiny", "tie")] + [(name, "first")] * 5
    assert {one.rater for one in found.all} == {str(export)} and not any(one.placed for one in found.all)
    assert sum(found.left_out.values()) == 1  # the edited answer
    shown = CliRunner().invoke(app, ["arena", str(export), "--json", "--draws", "100"])
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout.splitlines()[-1])
    assert [(arm["arm"], arm["wins"], arm["losses"]) for arm in told["arms"]] == [(name, 5, 2), ("tiny", 2, 5)]
    assert told["place"]["value"] is None and "nobody recorded" in told["place"]["reason"]
    plain = CliRunner().invoke(app, ["arena", str(export)])
    assert "one rater's" in plain.stdout and "edited by a person" in plain.stdout
