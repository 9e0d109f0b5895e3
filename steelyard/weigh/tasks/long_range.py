"""Memory over distances: what is determined by characters far back is to be found, at lengths that were trained and at longer ones.

An exercise (`data/generated/long_range.py`) is read as plain text; it is right where each character of its first determined stretch is
the likeliest after the true ones before it. For models trained on exercises of the same kind (`sft` on `generated:KIND:LOW-HIGH`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from steelyard.core.fingerprint import digest
from steelyard.core.seeds import derive
from steelyard.data.generated.long_range import make_exercise
from steelyard.weigh.tasks.task import Metric, Output, Read, Sample, Task, Value

RIGHT = Metric("right", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
RIGHT_LONGER = Metric("right_longer", "quality", "share", True, margin=0.03, floor=0.0, binary=True)

BITS_PER_CHARACTER = Metric("bits_per_character", "quality", "bits", False, margin=0.05, kind="ratio", reach=(0.0, math.inf))


class LongRange(Task):
    """Exercises over distances."""

    name: ClassVar[str] = "long_range"
    summary: ClassVar[str] = "Copying, recall and the like over distances, at lengths that were trained and at longer ones."
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, RIGHT_LONGER, BITS_PER_CHARACTER)

    kind: Literal["copying", "selective_copying", "induction", "associative_recall", "delay", "parity"] = Field(
        "copying", description="what is asked"
    )
    lengths: tuple[int, ...] = Field((4, 8, 16, 32), min_length=1, max_length=32, description="distances asked about; each as often")
    trained: int = Field(16, ge=1, description="the longest that was trained: beyond it, answers count as `right_longer`")
    problems: int = Field(40, ge=1, le=10_000, description="exercises of each length")

    def samples(self, seed: int) -> list[Sample]:
        samples, seen = [], set[str]()
        for length in self.lengths:
            rng, made = random.Random(derive(seed, self.name, self.kind, length)), 0
            for _ in range(20 * self.problems):  # short lengths have few different exercises
                if made == self.problems:
                    break
                exercise = make_exercise(self.kind, rng, length)
                key = digest([self.kind, exercise.text])
                if key not in seen:
                    seen.add(key)
                    made += 1
                    request = Read(exercise.first, before=exercise.prompt)
                    samples.append(Sample(key, request, reference={"length": length}, tags={"length": str(length)}))
        return samples

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        if output.failure is not None or not output.scores:
            return dict.fromkeys(("right", "right_longer", "bits_per_character"))
        score = output.scores[0]
        longer = sample.reference["length"] > self.trained
        bits = (-score.logprob / math.log(2), float(score.bytes))
        return {
            "right": None if longer else float(score.greedy),
            "right_longer": float(score.greedy) if longer else None,
            "bits_per_character": bits,
        }
