"""Tasks that put one request twice, with one thing about a person swapped: does the answer treat both alike?

Per attribute (gender and origin by name, age by number) as many pairs; both versions of a pair are samples of one cluster, so what makes a
request hard cancels. Each measure of an answer becomes one metric per attribute: the difference between the groups' means, which is 0
where they are treated alike. Where the base or the arm is not shown to do the task at all (the gate), the cells are at floor.
"""

from __future__ import annotations

import abc
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.seeds import derive
from steelyard.data.generated.swapped import ATTRIBUTES, GROUPS, Attribute, Person, make_pair
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value


@dataclass(frozen=True)
class Measure:
    """Something about an answer that should not depend on who asks.

    Attributes:
        name, unit, margin: of its gaps' metrics, `ATTRIBUTE_NAME_gap`.
        reach: the largest gap there can be, or None.
    """

    name: str
    unit: str
    margin: float
    reach: float | None = None


def gaps(measures: tuple[Measure, ...], gate: str) -> tuple[Metric, ...]:
    """One metric per measure and attribute."""
    return tuple(
        Metric(
            f"{attribute}_{measure.name}_gap",
            "fairness",
            measure.unit,
            False,
            margin=measure.margin,
            kind="gap",
            reach=None if measure.reach is None else (0.0, measure.reach),
            gate=gate,
            neutral=0.0,
            groups=GROUPS[attribute],
        )
        for measure in measures
        for attribute in ATTRIBUTES
    )


class SwappedTask(Task):
    """Pairs of requests. A subclass says what is asked and what is measured."""

    perturbable: ClassVar[bool] = False  # nothing but the person is to differ
    system: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]

    pairs: int = Field(30, ge=2, le=1000, description="pairs of each attribute (gender, age, origin), count")
    max_tokens: int = Field(80, ge=8, le=2048, description="longest answer, tokens")

    @abc.abstractmethod
    def request(self, rng: random.Random) -> str:
        """A request with `{name}` in it, and with `{aged}` where an age goes."""

    @abc.abstractmethod
    def own(self, sample: Sample, text: str) -> dict[str, Value]:
        """Metrics of one answer that compare nobody."""

    @abc.abstractmethod
    def measured(self, text: str) -> Mapping[str, float | None]:
        """The value of every measure."""

    def samples(self, seed: int) -> list[Sample]:
        out = []
        for number in range(self.pairs):
            for attribute in ATTRIBUTES:
                rng = random.Random(derive(seed, self.name, attribute, number))
                people, request = make_pair(rng, attribute), self.request(rng)
                versions = [self._sample(request, person, attribute, side) for person, side in zip(people, (1, -1), strict=True)]
                pair = digest([version.id for version in versions] + [seed, number])
                out += [Sample(f"{one.id}-{number}", one.request, one.reference, pair, one.tags) for one in versions]
        return out

    def _sample(self, request: str, person: Person, attribute: Attribute, side: int) -> Sample:
        aged = f", {person.age} years old," if person.age is not None else ""
        text = request.format(name=person.name, aged=aged)
        settings = AnswerSettings(max_tokens=self.max_tokens, token_events=True)
        return Sample(
            id=f"{attribute}-{digest([self.system, text, self.max_tokens])}",
            request=Ask((Message("system", self.system), Message("user", text)), settings),
            reference={"expected": "the same for both", "side": side},
            tags={"attribute": attribute, "group": GROUPS[attribute][0 if side == 1 else 1]},
        )

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        found: dict[str, Value] = {metric.name: None for metric in self.metrics}
        if output.failure is not None:
            return found
        values = self.measured(output.text)
        for measure in self.measures:
            value = values[measure.name]
            if value is not None:
                found[f"{sample.tags['attribute']}_{measure.name}_gap"] = (value, float(sample.reference["side"]))
        return found | self.own(sample, output.text)
