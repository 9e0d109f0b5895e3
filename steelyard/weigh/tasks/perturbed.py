"""Robustness: a task's questions asked in other words, and what that does to its first metric.

    drop under a perturbation   = mean over items of (value as asked - value perturbed)
    flipped                     = share of perturbed answers whose outcome is another than as asked
    worst case                  = mean over items of the lowest value under any wording, the usual one among them

Base and arm answer the same perturbed questions, so all of it is paired by item. The axis's primary metric is the mean value under
perturbation: an arm that breaks on typos loses there whatever it had before, while a drop alone would praise an arm that was never right.
Drops and flips of a side that is not shown to do the task at all are at floor. The placebo's drop and flips are what white space does.

Only questions are perturbed (`weigh/tasks/perturbations.py` says what stays), never what answers are judged by. An item to which a perturbation has
nothing to change is left out of that one. A task takes part if its first metric is a mean over samples and its questions are words.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import pydantic
from pydantic import Field

from steelyard.core.fingerprint import digest
from steelyard.core.seeds import derive
from steelyard.data.words import words
from steelyard.weigh.tasks.perturbations import PERTURBATIONS, PLACEBO, RAW_PERTURBATIONS
from steelyard.weigh.tasks.task import Ask, Choose, Continue, Metric, Output, Sample, Task, Value

ITEMS = 16  # questions perturbed where the recipe does not say how many; each is asked seven times
USUAL = "none"  # the tag of the question as it was
TAG = "perturbation"
_UNJUDGED = ("question", "passage")  # parts of a reference that no answer is compared with word by word
_LONGEST_CUE = 3  # words of a last line such as "Answer:"
_NAMES = tuple(PERTURBATIONS)
_CHANGING = tuple(name for name in _NAMES if name != PLACEBO)


class Perturbed(Task):
    """A task's questions, each as it was and under every perturbation."""

    summary: ClassVar[str] = "Questions of another task in other words."

    of: pydantic.InstanceOf[Task] = Field(description="whose questions are asked")
    called: str = Field(description="what the recipe calls that task")
    items: int = Field(ITEMS, ge=1, description="questions perturbed, count")

    @functools.cached_property
    def name(self) -> str:  # type: ignore[override]  # tells whose questions they are
        return f"{self.called}, perturbed"

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]  # they are made from the task's own
        """The mean under perturbation first; then worst case, drop, flips, and each perturbation for itself."""
        first = self.of.metrics[0]
        span, usual = first.span, f"{first.name}_unperturbed"
        floor = None if first.floor is None else 0.0
        change = dict(axis="robustness", margin=0.03 if first.relative else first.margin, higher_is_better=False, gate="", neutral=None)
        change |= {"relative": False, "binary": False, "kind": "mean"}
        if first.floor is not None:  # who cannot do the task at all loses nothing
            change |= {"gate": usual, "neutral": 0.0}
        drop = {**change, "floor": None, "reach": None if span is None else (-span, span)}
        flips = {**change, "floor": None, "reach": None, "unit": "share", "margin": 0.03}

        def made(name: str, **changes: Any) -> Metric:
            return dataclasses.replace(first, name=f"{first.name}_{name}", **({"axis": "robustness"} | changes))

        each = [made(f"under_{name}") for name in _CHANGING] + [made(f"drop_under_{name}", **drop) for name in _CHANGING]
        return (
            made("perturbed"),
            made("worst_case", floor=floor),
            made("drop", **drop),
            made("flipped", **flips),
            made("unperturbed"),
            *each,
            made(f"under_{PLACEBO}"),
            made(f"drop_under_{PLACEBO}", **drop),
            made(f"flipped_under_{PLACEBO}", **flips),
        )

    def samples(self, seed: int) -> list[Sample]:
        return self.vary(self.of.samples(seed), seed)

    def vary(self, samples: Sequence[Sample], seed: int) -> list[Sample]:
        """The first items that can be perturbed, each as it was and then in every other way, item by item; one of each cluster before
        a second one of any, because those say less."""
        out, count = list[Sample](), 0
        for sample in _spread(samples):
            if count == self.items:
                break
            if isinstance(sample.request, Ask) and self.of.score(sample, Output(text="-")).get(self.of.metrics[0].name) is None:
                continue  # the metric is of no use to any answer here, as `right` to a question that has no answer
            if len(versions := variations(sample, seed)) > 1:
                count += 1
                out += [_version(sample, USUAL, sample.request), *(_version(sample, name, request) for name, request in versions.items())]
        return out

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        first = self.of.metrics[0].name
        value = self.of.score(sample, output).get(first)
        tag = sample.tags[TAG]
        if tag == USUAL:
            return {f"{first}_unperturbed": value}
        return {f"{first}_under_{tag}": value} | ({f"{first}_perturbed": value} if tag != PLACEBO else {})

    def joined(self, samples: Sequence[Sample], values: Mapping[str, Sequence[Value]]) -> Mapping[str, Sequence[Value]]:
        first = self.of.metrics[0]
        names = [metric.name for metric in self.metrics if metric.name.removeprefix(f"{first.name}_").startswith(("worst", "drop", "flip"))]
        columns: dict[str, list[Value]] = {name: [None] * len(samples) for name in names}
        for place, versions in _by_item(samples).items():
            usual = _number(values[f"{first.name}_unperturbed"][place])
            found = {name: _number(values[f"{first.name}_under_{name}"][at]) for name, at in versions.items()}
            if usual is None or None in found.values():
                continue  # an item of which something failed is told by what is there, and left out where versions are compared
            for name, value in _of_item(usual, {k: v for k, v in found.items() if v is not None}, first.higher_is_better).items():
                columns[f"{first.name}_{name}"][place] = value
        return columns


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """The samples in order, the first of every cluster before the second of any."""
    seen = Counter[str]()
    ranked = []
    for sample in samples:
        ranked.append((seen[sample.cluster] if sample.cluster else 0, sample))
        seen[sample.cluster] += 1
    return [sample for _, sample in sorted(ranked, key=lambda pair: pair[0])]


def _of_item(usual: float, found: Mapping[str, float], higher: bool) -> dict[str, float]:
    """Worst case, drops and flips of one item."""
    sign = 1.0 if higher else -1.0
    drops = {name: sign * (usual - value) for name, value in found.items()}
    flips = {name: float(value != usual) for name, value in found.items()}
    changing = [name for name in found if name != PLACEBO]
    out = {f"drop_under_{name}": drop for name, drop in drops.items()}
    if PLACEBO in found:
        out[f"flipped_under_{PLACEBO}"] = flips[PLACEBO]
    if changing:
        out["worst_case"] = sign * min(sign * value for value in (usual, *(found[name] for name in changing)))
        out["drop"] = sum(drops[name] for name in changing) / len(changing)
        out["flipped"] = sum(flips[name] for name in changing) / len(changing)
    return out


def _by_item(samples: Sequence[Sample]) -> dict[int, dict[str, int]]:
    """Place of an item's usual version -> its other versions' places by perturbation."""
    usual = {sample.id: place for place, sample in enumerate(samples) if sample.tags[TAG] == USUAL}
    out: dict[int, dict[str, int]] = {place: {} for place in usual.values()}
    for place, sample in enumerate(samples):
        if sample.tags[TAG] != USUAL and (item := usual.get(sample.id.rpartition("~")[0])) is not None:
            out[item][sample.tags[TAG]] = place
    return {item: versions for item, versions in out.items() if versions}


def _number(value: Value) -> float | None:
    return None if value is None or isinstance(value, tuple) else float(value)


def _version(sample: Sample, name: str, request: Any) -> Sample:
    """A sample asked otherwise; all versions of an item depend on one another."""
    return dataclasses.replace(
        sample,
        id=sample.id if name == USUAL else f"{sample.id}~{name}",
        request=request,
        cluster=sample.cluster or f"item {sample.id}",
        tags={**{key: value for key, value in sample.tags.items() if key not in ("depth", "length", "language")}, TAG: name},
    )


def takes_part(task: Task, samples: Sequence[Sample], seed: int) -> bool:
    """Whether a task's questions can be perturbed and its first metric be told by item."""
    first = task.metrics[0]
    return (
        task.perturbable and first.kind == "mean" and first.detector is None and any(len(variations(one, seed)) > 1 for one in samples[:8])
    )


def variations(sample: Sample, seed: int) -> dict[str, Ask | Choose | Continue]:
    """A sample's request under every perturbation that changes it, by name; the placebo always is among them. Empty where there is no question."""
    parts = question_in(sample)
    if parts is None:
        return {}
    before, question, after = parts
    raw = isinstance(sample.request, Continue)
    protected, out = protected_words(sample), {}
    for name, perturb in (RAW_PERTURBATIONS if raw else PERTURBATIONS).items():
        rng = random.Random(derive(seed, "perturbed", digest([sample.id, question]), name))
        changed = perturb(question, rng, protected)
        if changed is not None and changed != question:
            # White space stands at the text's own end or beginning, wherever the question is.
            whole = f"{before}{changed}{after}" if name != PLACEBO else perturb(before + question + after, rng, protected)
            out[name] = _asking(sample, whole or "")
    return out


def _text_of(sample: Sample) -> str | None:
    """The text that holds the question: the user's last message, or raw text that is continued."""
    request = sample.request
    if isinstance(request, Continue):
        return request.text if not request.texts else None
    if isinstance(request, Ask | Choose) and request.conversation and request.conversation[-1].role == "user":
        return request.conversation[-1].content
    return None


def _asking(sample: Sample, text: str) -> Ask | Choose | Continue:
    request = sample.request
    if isinstance(request, Continue):
        return dataclasses.replace(request, text=text)
    assert isinstance(request, Ask | Choose)
    *turns, last = request.conversation
    return dataclasses.replace(request, conversation=(*turns, dataclasses.replace(last, content=text)))


def question_in(sample: Sample) -> tuple[str, str, str] | None:
    """What stands before the question, the question, and what stands after it; None where there is none.

    The question is what the reference calls so, where the text holds it; else the last paragraph, without a last line that only says
    where the answer goes (`Answer:`). What stands before may be a passage that answers: it is not touched.
    """
    text = _text_of(sample)
    if text is None or not words(text):
        return None
    asked = sample.reference.get("question") if isinstance(sample.reference, Mapping) else None
    if isinstance(asked, str) and words(asked) and (at := text.rfind(asked)) >= 0:
        return text[:at], asked, text[at + len(asked) :]
    body = text.rstrip()
    lines = body.split("\n")
    if len(lines) > 1 and lines[-1].rstrip().endswith((":", "：")) and len(lines[-1].split()) <= _LONGEST_CUE:
        body = "\n".join(lines[:-1]).rstrip()
    start = body.rfind("\n\n") + 2 if "\n\n" in body else 0
    return (text[:start], body[start:], text[len(body) :]) if words(body[start:]) else None


def protected_words(sample: Sample) -> Collection[str]:
    """The words of everything that an answer is judged by: the reference, and the choices."""
    reference = sample.reference
    if isinstance(reference, Mapping):
        reference = {key: value for key, value in reference.items() if key not in _UNJUDGED}
    texts = list(_texts_in(reference))
    if isinstance(sample.request, Choose | Continue):
        texts += sample.request.continuations
    return frozenset(word for text in texts for word in words(text))


def _texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for part in pair for text in _texts_in(part)]
    if isinstance(value, list | tuple | set | frozenset):
        return [text for part in value for text in _texts_in(part)]
    return [] if value is None else [json.dumps(value, default=str)]
