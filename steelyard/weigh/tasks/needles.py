"""Needles: a number told in one sentence of a long text, asked for at its end, by where the sentence stands and how long the text is.

Everything is made up afresh for each seed. The text around is made of sentences about invented people that hold no number. Difficulty:
`lengths` (words), `depths` (0 the beginning, 1 the end), `needles` (sentences of the same form about other people: with more than one,
finding a number is no longer enough), `digits`. One problem is asked at every depth with the same words otherwise, and these versions
share a cluster, so a curve over depths is not blurred by which numbers were drawn. Right where the answer's first number is the one asked
for.

Refs: N. Liu et al., arXiv:2307.03172 (position); C. Hsieh et al., arXiv:2404.06654 (several needles).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.seeds import derive
from steelyard.data.generated.names import Names
from steelyard.weigh.scorers import calibration
from steelyard.weigh.scorers.numbers import read_numbers
from steelyard.weigh.tasks.right_answers import other_numbers
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

RIGHT = Metric("right", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
TOLD = "The secret number of {name} is {number}."
ASKED = "{text}\n\nWhat is the secret number of {name}? Answer with the number alone."

_DOES = (
    "waters the roses behind the school",
    "bakes rye bread for the harbour café",
    "walks along the river before breakfast",
    "repairs old clocks in a small workshop",
    "reads the newspaper aloud to the neighbours",
    "paints boats in bright colours",
    "sings in the choir of the old mill",
    "keeps bees at the edge of the forest",
    "collects postcards of lighthouses",
    "teaches children to fly kites",
    "sells pears at the weekly market",
    "writes long letters to a cousin abroad",
)
_WHEN = ("Most mornings", "On rainy days", "In late summer", "Every other weekend", "When the shop is closed", "After a long winter")


class Needles(Task):
    """Numbers told somewhere in a long text."""

    name: ClassVar[str] = "needles"
    summary: ClassVar[str] = "A number told once in a long text, asked for at its end, by depth and length."
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, *calibration.METRICS)

    problems: int = Field(6, ge=1, le=1000, description="problems of each length, count; each is asked at every depth")
    lengths: tuple[int, ...] = Field((40, 200), min_length=1, max_length=11, description="lengths of the text, words: the difficulty")
    depths: tuple[float, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        min_length=1,
        max_length=21,
        description="places of the sentence asked about, 0 the beginning, 1 the end",
    )
    needles: int = Field(1, ge=1, le=50, description="sentences of that form, count; the others are about other people")
    digits: int = Field(3, ge=1, le=12, description="digits of the number")
    max_tokens: int = Field(16, ge=1, le=256, description="longest answer, tokens")

    @field_validator("lengths")
    @classmethod
    def _lengths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1 or max(value) > 100_000 or len(set(value)) < len(value):
            raise ValueError("lengths are different whole numbers from 1 to 100000")
        return value

    @field_validator("depths")
    @classmethod
    def _depths(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= depth <= 1 for depth in value) or len(set(value)) < len(value):
            raise ValueError("depths are different numbers from 0 to 1")
        return value

    def samples(self, seed: int) -> list[Sample]:
        # Problem by problem, so that a run cut short has seen every depth of every length.
        return [
            self._sample(number, length, depth, seed) for number in range(self.problems) for length in self.lengths for depth in self.depths
        ]

    def _sample(self, number: int, length: int, depth: float, seed: int) -> Sample:
        rng = random.Random(derive(seed, self.name, number, length, self.needles, self.digits))
        names = Names(rng)
        people = [names.name("person") for _ in range(self.needles)]
        lowest = 10 ** (self.digits - 1)
        numbers = rng.sample(range(lowest, 10 * lowest), min(self.needles, 9 * lowest))
        numbers += [rng.randrange(lowest, 10 * lowest) for _ in range(self.needles - len(numbers))]
        told = [TOLD.format(name=name, number=value) for name, value in zip(people, numbers, strict=True)]
        hay, count = list[str](), len(" ".join(told).split())
        while count < length:
            hay.append(f"{rng.choice(_WHEN)} {names.name('person') if len(hay) < 200 else rng.choice(people)} {rng.choice(_DOES)}.")
            count += len(hay[-1].split())
        for other in told[1:]:
            hay.insert(rng.randrange(len(hay) + 1), other)
        hay.insert(round(depth * len(hay)), told[0])
        prompt = ASKED.format(text=" ".join(hay), name=people[0])
        expected = str(numbers[0])
        return Sample(
            id=f"{length}-words-{depth:g}-{digest([prompt, self.max_tokens])}",
            request=Ask((Message("user", prompt),), AnswerSettings(max_tokens=self.max_tokens, token_events=True)),
            reference={"expected": expected, "question": f"What is the secret number of {people[0]}?"},
            cluster=f"problem {number} of {length}",
            tags={"depth": f"{depth:g}", "length": str(length), "length_unit": "words", "needles": str(self.needles)},
        )

    def told_apart(self, sample: Sample) -> tuple[str, ...]:
        right = sample.reference["expected"]
        return (right, *other_numbers(right, sample.id))

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        if output.failure is not None:
            return dict.fromkeys(metric.name for metric in self.metrics)
        found = read_numbers(output.text)
        right = bool(found) and found[0].value == int(sample.reference["expected"])
        sure = calibration.sure_of(output, output.text)
        return {"right": float(right)} | calibration.values(sure, right, answered=bool(found))
