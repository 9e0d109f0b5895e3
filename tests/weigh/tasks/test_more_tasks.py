"""Preference pairs and conversations of several turns: planted answers score as they should, hostile rows are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.errors import DataError
from steelyard.core.protocols import Score
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.task import Ask, Choose, Output, Sample, Task


def pairs(folder: Path, rows: list[dict[str, Any]]) -> Task:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return registry.make("preferences", {"path": str(path)})


TALK = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Two?\n\nAssistant:"


def test_the_likelier_answer_per_token_is_the_preferred_one(tmp_path: Path) -> None:
    task = pairs(tmp_path, [{"prompt": "Hi", "chosen": "Good day to you", "rejected": "No"}])
    (sample,) = task.samples(0)
    assert isinstance(sample.request, Choose) and sample.request.continuations == ("Good day to you", "No")
    found = task.score(sample, Output(scores=(Score(-4.0, False, 4, 15), Score(-3.0, False, 1, 2))))
    assert found == {"preferred": 1.0, "preferred_sum": 0.0, "margin": 2.0}
    assert set(task.score(sample, Output(failure="x")).values()) == {None}
    assert task.score(sample, Output(scores=(Score(float("-inf"), False, 4, 15), Score(-3.0, False, 1, 2))))["margin"] is None


def test_transcripts_are_read_as_conversations(tmp_path: Path) -> None:
    (sample,) = pairs(tmp_path, [{"chosen": f"{TALK} It is 2.", "rejected": f"{TALK} It isn't."}]).samples(0)
    assert isinstance(sample.request, Choose)
    assert [(turn.role, turn.content) for turn in sample.request.conversation] == [("user", "Hello"), ("assistant", "Hi"), ("user", "Two?")]
    assert sample.request.continuations == ("It is 2.", "It isn't.")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"chosen": f"{TALK} a", "rejected": f"{TALK} a"}, "same"),
        ({"chosen": f"{TALK} a", "rejected": f"{TALK}"}, "empty"),
        ({"chosen": f"{TALK} a", "rejected": "\n\nHuman: Else\n\nAssistant: b"}, "differ before"),
        ({"chosen": f"{TALK} a", "rejected": 3}, "not a text"),
        ({"chosen": f"{TALK} a\n\nHuman: more", "rejected": f"{TALK} b\n\nHuman: more"}, "differ before"),
        ({"chosen": f"x{TALK} a", "rejected": f"x{TALK} b"}, "does not begin"),
        ({"chosen": "a", "rejected": "b"}, "missing"),
        ({"prompt": "x", "chosen": "a", "rejected": " "}, "empty|nothing|text"),
        ({"chosen": f"{TALK} \ud800", "rejected": f"{TALK} b"}, "surrogate"),
    ],
)
def test_a_pair_that_is_none_is_named(row: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as caught:
        pairs(tmp_path, [{"prompt": "Hi", "chosen": "a", "rejected": "b"}, row]).samples(0)
    assert "line 2" in str(caught.value)


def test_every_real_pair_is_usable_but_those_with_an_empty_answer(shared_data: Path) -> None:
    path = str(shared_data / "hh_harmless_pairs_1200.jsonl")
    samples = registry.make("preferences", {"path": path, "empty": "skip"}).samples(0)
    assert len(samples) == len({sample.id for sample in samples}) == 1196
    with pytest.raises(DataError, match="4 of 1200 rows cannot be used"):
        registry.make("preferences", {"path": path}).samples(0)
    assert all(isinstance(one.request, Choose) and one.request.conversation[-1].role == "user" for one in samples)


def turns(sample: Sample) -> list[tuple[str, str]]:
    assert isinstance(sample.request, Ask)
    return [(turn.role, turn.content) for turn in sample.request.conversation]


@pytest.mark.parametrize("corrected", [False, True])
def test_what_was_told_last_of_a_thing_is_right_and_stands_in_the_conversation(corrected: bool) -> None:
    task = registry.make("recollection", {"turns": 5, "corrected": corrected, "conversations": 20})
    samples = task.samples(2)
    assert samples == task.samples(2) and len({one.id for one in samples}) == 20 and {one.tags["depth"] for one in samples} == {
        "0.00", "0.25", "0.50", "0.75", "1.00"
    }  # fmt: skip
    for sample in samples:
        said = turns(sample)
        assert [role for role, _ in said] == ["user", "assistant"] * (5 + corrected) + ["user"]
        asked = said[-1][1].removeprefix("What is my ").removesuffix(" called?")
        last = [text for role, text in said[:-1] if role == "user" and f"my {asked} is" in text.lower()][-1]
        right = sample.reference["expected"]
        assert last.endswith(f"{right}.")
        assert task.score(sample, Output(text=f"Your {asked} is called {right}.", reason="stop"))["right"] == 1.0
        other = task.score(sample, Output(text=f"{sample.reference['rivals'][0]}, or {right}.", reason="stop"))
        assert other["right"] == 0.0 and task.score(sample, Output(reason="stop"))["right"] == 0.0
        old = task.score(sample, Output(text=f"It is {sample.reference['old']}.", reason="stop"))["old_word"]
        assert old == (1.0 if corrected else None)
