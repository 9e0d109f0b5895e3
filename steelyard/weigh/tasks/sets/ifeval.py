"""IFEval: prompts with instructions that can be checked (J. Zhou et al., arXiv:2311.07911; Apache-2.0, google/IFEval).

Rows: `{"key": 1000, "prompt": ..., "instruction_id_list": ["punctuation:no_comma", ...], "kwargs": [{...}, ...]}`. The four figures are those of
the paper: `prompt_strict` and `prompt_loose` are the shares of prompts with every instruction kept, `instruction_strict` and `instruction_loose`
the shares of instructions kept. Checkers: `scorers/instructions.py`, which say what lm-eval's say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from steelyard.core.protocols import AnswerSettings, Message
from steelyard.weigh.scorers import instructions
from steelyard.weigh.tasks.chat import FINISHED
from steelyard.weigh.tasks.rows import BadValue, Row, take
from steelyard.weigh.tasks.sets.asked import text_at, texts_at
from steelyard.weigh.tasks.sets.hub import HubRows
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

PROMPT_STRICT = Metric("prompt_strict", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
PROMPT_LOOSE = Metric("prompt_loose", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
INSTRUCTION_STRICT = Metric("instruction_strict", "format", "share", True, margin=0.03, kind="ratio")
INSTRUCTION_LOOSE = Metric("instruction_loose", "format", "share", True, margin=0.03, kind="ratio")
METRICS = (PROMPT_STRICT, PROMPT_LOOSE, INSTRUCTION_STRICT, INSTRUCTION_LOOSE, FINISHED)


class IfEval(HubRows, Task):
    """Instructions that can be checked."""

    name: ClassVar[str] = "ifeval"
    summary: ClassVar[str] = "IFEval: prompts with instructions that can be checked, strict and loose."
    metrics: ClassVar[tuple[Metric, ...]] = METRICS
    dataset: ClassVar[str] = "google/IFEval"
    split: ClassVar[str] = "train"
    evidence: ClassVar[str] = "format-tested: checkers equal lm-eval's on made-up answers; no row of the set has been seen"

    limit: int | None = Field(None, ge=1, description="most prompts, count; drawn by the seed")
    max_tokens: int = Field(1280, ge=1, le=32_768, description="longest answer, tokens; 1280 in lm-eval")

    def samples(self, seed: int) -> list[Sample]:
        rows = self.rows(lambda value: self._sample(Row(0, value, "")) and None)
        return [self._sample(row) for row in take(rows, self.limit, seed, self.name)]

    def _sample(self, row: Row) -> Sample:
        prompt, kinds, given = text_at(row.value, "prompt"), texts_at(row.value, "instruction_id_list"), row.value.get("kwargs")
        if not isinstance(given, list) or len(given) != len(kinds) or not all(isinstance(one, dict) for one in given):
            raise BadValue("`kwargs` is not a list with one object for each of `instruction_id_list`")
        asked = [[kind, instructions.read_arguments(kind, one)] for kind, one in zip(kinds, given, strict=True)]
        return Sample(
            row.id,
            Ask((Message("user", prompt),), AnswerSettings(max_tokens=self.max_tokens)),
            reference={"expected": ", ".join(kinds), "instructions": asked},
            tags={"key": str(row.value.get("key", "")), "instructions": str(len(kinds))},
        )

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        return scored(sample.reference["instructions"], output)


def scored(asked: list[list[Any]], output: Output) -> dict[str, Value]:
    """The metrics of one answer; `asked` holds (kind, arguments) of each instruction."""
    if output.failure is not None:
        return dict.fromkeys(metric.name for metric in METRICS)
    strict = [instructions.strict(kind, of, output.text) for kind, of in asked]
    loose = [instructions.loose(kind, of, output.text) for kind, of in asked]
    count = float(len(asked))
    return {
        "prompt_strict": float(all(strict)),
        "prompt_loose": float(all(loose)),
        "instruction_strict": (float(sum(strict)), count),
        "instruction_loose": (float(sum(loose)), count),
        "finished": float(output.reason in ("stop", "tool_calls")) if output.reason else None,
    }
