"""Position and languages: a task's first metric by what its samples' tags say.

Samples tagged `depth` (0 the beginning, 1 the end) and `length` tell where in a text something is found; samples tagged `language` tell
in which language. Any task may tag, so any task has these cells. What opens each axis is one number about its weak side: the metric in
the middle (all but the first and last depth: Liu et al., arXiv:2307.03172, found the dip there), and in all languages but English. Beside
it stand the contrast with the strong side, and every depth, length and language for itself.

Contrasts are means of one group less means of the other, by their influence (`weigh/statistics/whole_set.py`): where versions of one item share a
cluster, what makes the item hard cancels. Who is not shown to do the task at all does it everywhere alike: the task's first metric is their gate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from steelyard.weigh.tasks.task import Metric, Sample, Task, Value

MOST_LEVELS = 11  # depths or lengths with a cell of their own; more depths are told by fifths
FIFTHS = 5
ENGLISH = "en"


@dataclass(frozen=True)
class Breakdown:
    """A metric over some of a task's samples.

    Attributes:
        metric: the cell's.
        side: +1 or -1 where the sample counts (which of two groups, for a contrast), None where it does not.
    """

    metric: Metric
    side: Callable[[Sample], int | None]

    def value(self, sample: Sample, value: Value) -> Value:
        """What the sample gives, from its value of the task's first metric."""
        side = self.side(sample)
        if side is None or value is None:
            return None
        return (value, float(side)) if self.metric.kind == "contrast" and not isinstance(value, tuple) else value


def metrics_of(task: Task, samples: Sequence[Sample]) -> tuple[Metric, ...]:
    """All metrics of a task on these samples: its own, and those by tags."""
    return (*task.metrics, *(one.metric for one in breakdowns(task.metrics, samples)))


def filled(task: Task, samples: Sequence[Sample], values: Mapping[str, Sequence[Value]]) -> dict[str, Sequence[Value]]:
    """A task's values with those beside them that need several samples of an item, and those by tags."""
    out = {**values, **task.joined(samples, values)}
    for one in breakdowns(task.metrics, samples):
        column = values[task.metrics[0].name]
        out[one.metric.name] = [one.value(sample, value) for sample, value in zip(samples, column, strict=True)]
    return out


def breakdowns(metrics: Sequence[Metric], samples: Sequence[Sample]) -> list[Breakdown]:
    """The breakdowns that the tags of these samples allow; of quality metrics that are a mean or a ratio over samples."""
    first = metrics[0]
    if first.axis != "quality" or first.kind not in ("mean", "ratio"):
        return []
    taken = {metric.name for metric in metrics}
    found = [*_by_depth(first, samples), *_by_length(first, samples), *_by_language(first, samples)]
    return [one for one in found if one.metric.name not in taken]


def depth_of(sample: Sample) -> float | None:
    """Where in its text a sample's answer stands, from 0 to 1; None where its tags do not say."""
    found = _number(sample, "depth")
    return found if found is not None and 0 <= found <= 1 else None


def length_of(sample: Sample) -> float | None:
    """How long a sample's text is, in the unit of its tag `length_unit`; None where its tags do not say."""
    return _number(sample, "length")


def _number(sample: Sample, tag: str) -> float | None:
    try:
        found = float(sample.tags.get(tag, ""))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _by_depth(first: Metric, samples: Sequence[Sample]) -> list[Breakdown]:
    depths = sorted({depth for sample in samples if (depth := depth_of(sample)) is not None})
    if len(depths) < 2:
        return []
    ends = (depths[0], depths[-1])

    def edge(sample: Sample) -> int | None:
        depth = depth_of(sample)
        return None if depth is None else 1 if depth in ends else -1

    out = []
    if len(depths) > 2:
        out.append(Breakdown(_named(first, "in_the_middle", "position"), lambda sample: 1 if edge(sample) == -1 else None))
        out += _contrast(first, "edges_less_middle", "position", edge)
    if len(depths) <= MOST_LEVELS:
        for depth in depths:
            metric = _named(first, f"at_depth_{depth:g}", "position")
            out.append(Breakdown(metric, lambda sample, depth=depth: 1 if depth_of(sample) == depth else None))
        return out
    for fifth in range(FIFTHS):
        metric = _named(first, f"at_depth_{fifth / FIFTHS:g}-{(fifth + 1) / FIFTHS:g}", "position")
        out.append(Breakdown(metric, lambda sample, fifth=fifth: 1 if _fifth(sample) == fifth else None))
    return out


def _fifth(sample: Sample) -> int | None:
    depth = depth_of(sample)
    return None if depth is None else min(int(depth * FIFTHS), FIFTHS - 1)


def _by_length(first: Metric, samples: Sequence[Sample]) -> list[Breakdown]:
    lengths = sorted({length for sample in samples if (length := length_of(sample)) is not None})
    if not 2 <= len(lengths) <= MOST_LEVELS:
        return []
    return [
        Breakdown(
            _named(first, f"at_length_{length:g}", "position"), lambda sample, length=length: 1 if length_of(sample) == length else None
        )
        for length in lengths
    ]


def _by_language(first: Metric, samples: Sequence[Sample]) -> list[Breakdown]:
    languages = sorted({language for sample in samples if (language := sample.tags.get("language"))})
    if len(languages) < 2:
        return []

    def english(sample: Sample) -> int | None:
        language = sample.tags.get("language")
        return None if not language else 1 if language == ENGLISH else -1

    out = []
    if ENGLISH in languages:
        metric = _named(first, "in_other_languages", "languages")
        out.append(Breakdown(metric, lambda sample: 1 if english(sample) == -1 else None))
        out += _contrast(first, "english_less_others", "languages", english)
    for language in languages:
        metric = _named(first, f"in_{language}", "languages")
        out.append(Breakdown(metric, lambda sample, language=language: 1 if sample.tags.get("language") == language else None))
    return out


def _named(first: Metric, name: str, axis: str) -> Metric:
    return dataclasses.replace(first, name=f"{first.name}_{name}", axis=axis)  # type: ignore[arg-type]


def _contrast(first: Metric, name: str, axis: str, side: Callable[[Sample], int | None]) -> list[Breakdown]:
    if first.kind != "mean":
        return []
    span = first.span
    metric = dataclasses.replace(
        _named(first, name, axis),
        kind="contrast",
        floor=None,
        gate="" if first.floor is None else first.name,
        neutral=0.0,
        binary=False,
        relative=False,
        higher_is_better=not first.higher_is_better,
        reach=None if span is None else (-span, span),
    )
    return [Breakdown(metric, side)]
