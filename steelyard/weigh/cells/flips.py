"""The samples a change turned over, told so that a person can read them: question, expected, both answers, both values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.weigh.cells.scoring import Scored
from steelyard.weigh.report.report import Flip
from steelyard.weigh.statistics.selective import KINDS
from steelyard.weigh.tasks.task import Ask, Choose, Continue, Metric, Output, Read, Sample, Task, Value

MOST = 200  # of a report
SURE = ("auroc", "aurc", "ece")  # kinds of metrics that go by an answer's confidence
EXPECTED_KEYS = ("expected", "answer", "answers", "target", "value")


def question(sample: Sample) -> str:
    """What was put to the arm: the last thing the user said (with earlier turns, if any), the choices, or the text."""
    request = sample.request
    if isinstance(request, Read):
        return request.text
    if isinstance(request, Continue):
        return request.text + "".join(f"\n- {text.strip()}" for text in _choices(request))
    turns = [message for message in request.conversation if message.role != "system"]
    text = turns[-1].content if len(turns) == 1 else "\n".join(f"{message.role}: {message.content}" for message in turns)
    if isinstance(request, Choose):
        text += "\n" + "\n".join(f"- {continuation.strip()}" for continuation in request.continuations)
    return text


def _choices(request: Choose | Continue) -> list[str]:
    """What is chosen from, told apart: continuations, or what stands before each where that differs."""
    if isinstance(request, Continue) and request.texts:
        return [before + after for before, after in request.pairs]
    return list(request.continuations)


def expected(sample: Sample) -> str:
    """What the scorer compares with, as text."""
    reference = sample.reference
    if isinstance(sample.request, Choose) and isinstance(reference, int) and 0 <= reference < len(sample.request.continuations):
        return sample.request.continuations[reference].strip()
    if isinstance(reference, Mapping):
        reference = next((reference[key] for key in EXPECTED_KEYS if reference.get(key) is not None), reference)
    if reference is None or isinstance(reference, str):
        return reference or ""
    if isinstance(reference, list | tuple) and all(isinstance(part, str) for part in reference):
        return " | ".join(reference)
    return json.dumps(reference, ensure_ascii=False, default=str)


def answer(sample: Sample, outputs: Sequence[Output]) -> str:
    """What the arm said, first trial: its text, the choice it found likeliest, or why it failed."""
    if not outputs:
        return ""
    output, request = outputs[0], sample.request
    if output.failure is not None:
        return f"(failed: {output.failure})"
    if isinstance(request, Choose | Continue) and output.scores:
        likeliest = max(range(len(output.scores)), key=lambda i: output.scores[i].logprob)
        return _choices(request)[likeliest].strip()
    if isinstance(request, Read) and output.scores:
        return f"log-probability {output.scores[0].logprob:.2f} nats over {output.scores[0].bytes} bytes"
    return output.text


def number(value: Value) -> float | None:
    """A sample's value as one number."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return value[0] / value[1] if value[1] else None
    return float(value)


def _values(metrics: Sequence[Metric], values: Mapping[str, Value]) -> dict[str, float | None]:
    """A sample's values in the details. Metrics over the whole set have none there: what they go by is told once, as `confidence`."""
    sure = [value[0] for metric in metrics if metric.kind in SURE and isinstance(value := values[metric.name], tuple)]
    shown = {metric.name: number(values[metric.name]) for metric in metrics if metric.kind not in KINDS}
    return shown | ({"confidence": number(sure[0])} if sure else {})


def flips_of(arm: str, task: Task, base: Scored, run: Scored) -> list[Flip]:
    """Samples of one arm on one task whose outcome changed, largest change first; then those where only the text did."""
    if base.obstacle or run.obstacle or isinstance(task_request(base), Read):
        return []
    metric = task.metrics[0]
    found: list[tuple[float, int, Flip]] = []
    for position, sample in enumerate(base.samples[: len(run.samples)]):
        before, after = number(base.values[metric.name][position]), number(run.values[metric.name][position])
        old, new = answer(sample, base.outputs[position]), answer(sample, run.outputs[position])
        if before == after and old == new:
            continue
        change = abs((after or 0.0) - (before or 0.0)) + ((before is None) != (after is None))
        found.append(
            (-change, position, Flip(task.name, sample.id, arm, metric.name, question(sample), expected(sample), old, new, before, after))
        )
    return [flip for _, _, flip in sorted(found, key=lambda item: item[:2])]


def task_request(scored: Scored) -> Ask | Choose | Continue | Read | None:
    """The kind of request a task makes, by its first sample."""
    return scored.samples[0].request if scored.samples else None


def chosen(groups: Sequence[Sequence[Flip]], most: int = MOST) -> list[Flip]:
    """At most `most` flips, taken from every arm and task in turn; those whose outcome changed come first."""
    out: list[Flip] = []
    for changed in (True, False):
        rows = [[flip for flip in group if (flip.base_value != flip.arm_value) is changed] for group in groups]
        for place in range(max(map(len, rows), default=0)):
            out += [row[place] for row in rows if place < len(row)]
    return out[:most]


def detail_rows(scored: Scored, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Every sample of an arm on a task for the page's details."""
    return [
        {
            "sample": sample.id,
            "question": question(sample),
            "expected": expected(sample),
            "text": answer(sample, scored.outputs[position]),
            "values": _values(metrics, {metric.name: scored.values[metric.name][position] for metric in metrics}),
        }
        for position, sample in enumerate(scored.samples)
    ]
