"""The reversal curse: who has learned that A is B, is asked who B is (arXiv:2309.12288).

For models trained on `generated:reversal`: every sentence is asked in the order that was told and in the other. It is right where each of
the answer's tokens is the likeliest after the true ones before it. People told in both orders are the control: no order is new there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from steelyard.core.fingerprint import digest
from steelyard.data.generated.reversal import people
from steelyard.weigh.tasks.task import Metric, Output, Read, Sample, Task, Value

AS_TOLD = Metric("as_told", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
REVERSED = Metric("reversed", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
TOLD_BOTH_WAYS = Metric("told_both_ways", "quality", "share", True, margin=0.03, floor=0.0, binary=True)


class Reversal(Task):
    """Sentences in the order that was told, and the other way round."""

    name: ClassVar[str] = "reversal"
    summary: ClassVar[str] = "Facts told in one order, asked in that order and in the other."
    metrics: ClassVar[tuple[Metric, ...]] = (REVERSED, AS_TOLD, TOLD_BOTH_WAYS)

    def samples(self, seed: int) -> list[Sample]:
        samples = []
        for person in people():
            for name_first in (True, False):
                before, text = person.statement(name_first)
                if person.told == "both":
                    kind = TOLD_BOTH_WAYS.name
                else:
                    kind = AS_TOLD.name if name_first == (person.told == "name first") else REVERSED.name
                key = digest(["reversal", before, text])
                samples.append(Sample(key, Read(text, before=before), reference={"kind": kind}, cluster=person.name, tags={"kind": kind}))
        return samples

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        values: dict[str, Value] = {metric.name: None for metric in self.metrics}
        if output.failure is None and output.scores:
            values[sample.reference["kind"]] = float(output.scores[0].greedy)
        return values
