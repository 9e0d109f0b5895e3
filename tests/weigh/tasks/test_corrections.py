"""The task over answers that should have been given: what is asked, how it is scored, and which rows are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.errors import DataError
from steelyard.core.protocols import Score
from steelyard.weigh.tasks.corrections import Corrections
from steelyard.weigh.tasks.task import Choose, Output, Sample


def row(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def task(path: Path, rows: list[Any], **settings: Any) -> Corrections:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return Corrections(path=path, **settings)


def asked(sample: Sample) -> Choose:
    assert isinstance(sample.request, Choose)
    return sample.request


ROWS = [row(f"question {number}", f"answer {number}", conversation=f"c{number}", consent=True, source="correction") for number in range(6)]


def test_each_answer_is_held_against_those_of_other_rows_drawn_by_the_seed(tmp_path):
    one = task(tmp_path / "rows.jsonl", ROWS)
    for number, sample in enumerate(one.samples(1)):
        own, *others = asked(sample).continuations
        assert own == f"answer {number}" and own not in others and len(set(others)) == 3
        assert [message.content for message in asked(sample).conversation] == [f"question {number}"]
    assert one.samples(1) == one.samples(1) != one.samples(2)


def test_the_last_answer_counts_and_what_was_said_before_is_read(tmp_path):
    turns = [("user", "hi"), ("assistant", "yes?"), ("user", "when?"), ("assistant", "at nine")]
    messages = [{"role": role, "content": text} | ({"weight": 0} if text == "yes?" else {}) for role, text in turns]
    (sample, other) = task(tmp_path / "rows.jsonl", [{"messages": messages}, row("hi", "no")]).samples(0)
    assert [message.content for message in asked(sample).conversation] == ["hi", "yes?", "when?"]
    assert asked(sample).continuations == ("at nine", "no")
    assert sample.cluster == other.cluster  # they begin alike: one conversation


def test_figures_are_bits_a_byte_and_what_makes_all_answers_likelier_cancels_out_of_own_answer(tmp_path):
    one = task(tmp_path / "rows.jsonl", [row("a", "four"), row("b", "eight888")], others=1)
    sample = one.samples(0)[0]
    scores = [Score(-8 * math.log(2), False, 1, 4), Score(-24 * math.log(2), False, 2, 8)]
    found = one.score(sample, Output(scores=tuple(scores)))
    assert found["bits_per_byte"] == (pytest.approx(8), 4)
    assert found["own_answer"] == pytest.approx(3 - 2)
    easier = [Score(-4 * math.log(2), False, 1, 4), Score(-16 * math.log(2), False, 2, 8)]
    better = one.score(sample, Output(scores=tuple(easier)))
    assert better["own_answer"] == pytest.approx(found["own_answer"]) and better["bits_per_byte"] == (pytest.approx(4), 4)
    for broken in (Output(failure="oops"), Output(), Output(scores=(scores[0], Score(-math.inf, False, 1, 8)))):
        assert one.score(sample, broken) == {"own_answer": None, "bits_per_byte": None}


def test_equal_rows_are_samples_of_their_own_and_equal_answers_are_no_rivals(tmp_path):
    samples = task(tmp_path / "rows.jsonl", [row("a", "x"), row("a", "x"), row("b", "y")]).samples(0)
    assert len({sample.id for sample in samples}) == 3
    assert all(len(asked(sample).continuations) == 2 for sample in samples)


CALL = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([row("a", "same"), row("b", "same")], "all answers are the same"),
        ([row("a", "x"), {"messages": [{"role": "assistant", "content": "first"}]}], "nothing was said before"),
        ([row("a", "x"), {"messages": [{"role": "user", "content": "b"}, CALL]}], "about tools"),
        ([row("a", "x"), {"messages": [{"role": "user", "content": "b"}]}], "no assistant turn"),
        (["text"], "cannot be used"),
        ([], "empty"),
    ],
)
def test_rows_that_cannot_be_asked_are_refused_with_the_reason(tmp_path, rows, why):
    with pytest.raises(DataError, match=why):
        task(tmp_path / "rows.jsonl", rows).samples(0)
