"""Instructions that can be checked: generated ones can be kept and broken, rows of the set are read in the hub's form, bad rows are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.errors import DataError
from steelyard.weigh.scorers.instructions import loose, strict
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.task import Ask, Output, Sample, Task

EMPTY = {"num_words": None, "relation": None, "keywords": None, "letter": None, "end_phrase": None, "language": None}
ROW: dict[str, Any] = {
    "key": 1000,
    "prompt": "Write about tea. Use no commas and at least 3 words.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [EMPTY, {**EMPTY, "num_words": 3.0, "relation": "at least"}],
}


def keeping(sample: Sample) -> str:
    """An answer that keeps to every instruction that the generated task knows."""
    of = dict(sample.reference["instructions"])
    text = "aeost " * 8
    if "length_constraints:number_words" in of:
        text += "word " * (20 if of["length_constraints:number_words"]["relation"] == "at least" else 0)
    text += " ".join(of.get("keywords:existence", {}).get("keywords", []))
    if "detectable_content:number_placeholders" in of:
        text += " [a] [b]"
    if "detectable_format:number_bullet_lists" in of:
        text = "\n".join([text, *["* x"] * of["detectable_format:number_bullet_lists"]["num_bullets"]])
    if "detectable_format:title" in of:
        text = f"<<{text}>>"
    if "detectable_content:postscript" in of:
        text += " P.S. yes"
    if "startend:end_checker" in of:
        text += "\n" + of["startend:end_checker"]["end_phrase"]
    return f'"{text}"' if "startend:quotation" in of else text


def over(folder: Path, rows: list[dict[str, Any]]) -> Task:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return registry.make("ifeval", {"path": str(path)})


@pytest.mark.parametrize("constraints", [1, 3, 5])
def test_generated_instructions_can_all_be_kept_together_and_all_are_asked_for(constraints: int) -> None:
    task = registry.make("instructions", {"prompts": 33, "constraints": constraints})
    samples = task.samples(4)
    assert samples == task.samples(4) and samples != task.samples(5) and len({sample.id for sample in samples}) == 33
    assert len({sample.tags["first"] for sample in samples}) == 11
    for sample in samples:
        assert isinstance(sample.request, Ask) and len(sample.reference["instructions"]) == constraints
        found = task.score(sample, Output(text=keeping(sample), reason="stop"))
        assert found["prompt_strict"] == 1.0 and found["instruction_strict"] == (float(constraints), float(constraints)), sample
        empty = task.score(sample, Output(text=" \n", reason="stop"))
        assert empty["prompt_loose"] == 0.0 and empty["instruction_loose"] == (0.0, float(constraints))
        assert set(task.score(sample, Output(failure="x")).values()) == {None}


def test_a_prompt_counts_when_every_instruction_is_kept_and_instructions_count_apart(tmp_path: Path) -> None:
    task = over(tmp_path, [ROW])
    (sample,) = task.samples(0)
    assert isinstance(sample.request, Ask) and sample.request.conversation[-1].content == ROW["prompt"]
    found = task.score(sample, Output(text="Tea, two", reason="stop"))
    assert found["prompt_strict"] == 0.0 and found["instruction_strict"] == (0.0, 2.0)
    found = task.score(sample, Output(text="Tea is good", reason="length"))
    assert found["prompt_strict"] == 1.0 and found["finished"] == 0.0
    found = task.score(sample, Output(text="Sure, here it is:\nTea is good", reason="stop"))
    assert (found["prompt_strict"], found["prompt_loose"]) == (0.0, 1.0)


def test_loose_forgives_asterisks_and_a_first_or_last_line() -> None:
    end = {"end_phrase": "The end."}
    for answer in ("Once. *The end.*", "Once. The end.\nAnything else?", "**Once. The end.**"):
        assert not strict("startend:end_checker", end, answer) and loose("startend:end_checker", end, answer)
    assert not loose("startend:end_checker", end, "The end. Or not.")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": ""}, "`prompt`"),
        ({"instruction_id_list": ["punctuation:no_comma"]}, "`kwargs`"),
        ({"instruction_id_list": ["punctuation:no_comma", "punctuation:none"]}, "no known instruction"),
        ({"kwargs": [EMPTY, EMPTY]}, "`num_words`"),
        ({"kwargs": [EMPTY, {"num_words": 3, "relation": "around"}]}, "`relation`"),
        ({"kwargs": [EMPTY, {"num_words": 2.5, "relation": "at least"}]}, "`num_words`"),
        ({"kwargs": [EMPTY, {"num_words": True, "relation": "at least"}]}, "`num_words`"),
        ({"kwargs": None}, "`kwargs`"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as caught:
        over(tmp_path, [ROW, {**ROW, **change}]).samples(0)
    assert "line 2" in str(caught.value)


def test_a_keyword_that_is_a_pattern_without_end_does_not_hang() -> None:
    assert not strict("keywords:existence", {"keywords": ["(a+)+$"]}, "a" * 40 + "!")


def test_without_a_commit_the_set_is_not_downloaded() -> None:
    with pytest.raises(DataError, match="says no revision"):
        registry.make("ifeval").samples(0)
