"""What a task is: samples to put to an arm, and a scorer that turns each output into metrics.

The runner executes requests and keeps records; scoring reads records only, so it can be repeated without generating again. A task
is written against this module: what samples and outputs are made of (`weigh/samples.py`) can be imported from here.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pydantic

from steelyard.core.numbers import Numbers
from steelyard.weigh.samples import Ask, Choose, Continue, Metric, Output, Read, Sample, Value

__all__ = ["Ask", "Choose", "Continue", "Metric", "Output", "Read", "Sample", "Task", "Value"]


class Task(Numbers):
    """Base of all tasks: settings as fields, samples by seed, a scorer over outputs.

    Class variables: `name` as recipes call it, `summary` one sentence, `metrics` in order (the first is the primary one), `evidence` how far
    it has been tried where not on its own data, `perturbable` whether its questions are words that may be put otherwise. Entry-point group `steelyard.tasks`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    summary: ClassVar[str]
    evidence: ClassVar[str] = ""
    perturbable: ClassVar[bool] = True
    metrics: ClassVar[tuple[Metric, ...]]

    @abc.abstractmethod
    def samples(self, seed: int) -> list[Sample]:
        """The samples for a seed; the same seed gives the same samples in the same order on every machine."""

    @abc.abstractmethod
    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        """Metric name -> value for one sample; None where the metric does not apply to it."""

    def joined(self, samples: Sequence[Sample], values: Mapping[str, Sequence[Value]]) -> Mapping[str, Sequence[Value]]:
        """Metrics that need several samples of one item: metric name -> a value per sample, None but at one sample of each item.

        Args:
            samples: what was asked.
            values: what `score` gave, by metric.
        """
        return {}

    def told_apart(self, sample: Sample) -> tuple[str, ...]:
        """A right answer and then wrong ones of its kind, as an arm would write them: how much likelier the right one is stands beside
        right and wrong. Empty where none are known."""
        return ()
