"""BIG-Bench Hard: tasks on which language models fell behind people (Suzgun et al., arXiv:2210.09261; MIT).

Files `TASK.json` of `{"examples": [{"input": ..., "target": ...}]}`; the path is one of them or their folder. The tag `set` names the
task. A target is a number (the answer's last number must equal it), an option such as `(B)`, or a word such as `Yes`; then the last one
of the file's targets that stands in the answer must be it, because the reasoning before it may name others.
The files carry a canary: never train on them.
"""

from __future__ import annotations

import functools
import re
from typing import ClassVar

from pydantic import Field

from steelyard.weigh.scorers.numbers import read_numbers, same_number
from steelyard.weigh.tasks.rows import Row
from steelyard.weigh.tasks.sets.asked import AskedSet, text_at
from steelyard.weigh.tasks.sets.shots import Plain
from steelyard.weigh.tasks.task import Sample

ASKED = "Think briefly. End with the answer alone."


class Bbh(AskedSet):
    """BIG-Bench Hard."""

    name: ClassVar[str] = "bbh"
    summary: ClassVar[str] = "BIG-Bench Hard: reasoning tasks with short exact answers."
    at: ClassVar[str] = "examples"
    ending: ClassVar[str] = ".json"

    description: str = Field("", description="text before the examples where `raw`; lm-eval has a sentence of its own for each task")

    @functools.cached_property
    def _targets(self) -> dict[str, list[str]]:
        """The different targets of each task."""
        found: dict[str, dict[str, None]] = {}
        for row in self.rows():
            found.setdefault(row.value["set"], {})[row.value["target"].strip()] = None
        return {name: sorted(targets) for name, targets in found.items()}

    def samples(self, seed: int) -> list[Sample]:
        out = []
        for sample in super().samples(seed):
            rivals = [] if _is_number(sample.reference["expected"]) else self._targets[sample.tags["set"]]
            out.append(Sample(sample.id, sample.request, sample.reference | {"targets": rivals}, sample.cluster, sample.tags))
        return out

    def sample(self, row: Row) -> Sample:
        asked, target = text_at(row.value, "input"), text_at(row.value, "target").strip()
        tags = {"set": str(row.value.get("set", "")), "line": str(row.line)}
        return Sample(row.id, self.ask(f"{asked}\n\n{ASKED}"), reference={"expected": target}, tags=tags)

    def plain(self, row: Row) -> Plain:
        return Plain(f"Q: {row.value['input']}\nA:", row.value["target"], ("</s>", "Q:", "<|im_end|>"), self.description)

    def right(self, sample: Sample, text: str) -> bool:
        expected, targets = sample.reference["expected"], sample.reference["targets"]
        if _is_number(expected):
            return same_number(text, expected)
        said = [
            (match.start(), target)
            for target in targets
            for match in re.finditer(rf"(?<!\w){re.escape(target)}(?!\w)", text, re.IGNORECASE)
        ]
        return bool(said) and max(said)[1] == expected


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None and len(read_numbers(text)) == 1
