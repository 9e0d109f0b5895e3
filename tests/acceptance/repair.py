"""Repair: forms that SmolLM2-135M fills in, asked again with their faults named, with faults of other answers, and blindly.

The detector reads the form's schema, which says what keys and types are wanted; the values are judged by the task, which alone knows them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared, counted
from steelyard.augment.answerers import LocalAnswerer
from steelyard.augment.repair.faults import Fault
from steelyard.augment.repair.repair import Repair
from steelyard.core.protocols import Answer, Answerer, collect
from steelyard.core.seeds import derive
from steelyard.generate.engine import Engine
from steelyard.model.load import load
from steelyard.weigh.tasks.json_forms import FIELDS, VALID, JsonForms
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Value

TASK = "json_forms"
TIMES = 2
WRITTEN = Metric("tokens_written", "money", "tokens an answer", False, margin=0.05, relative=True)
READ = Metric("tokens_read", "money", "tokens an answer", False, margin=0.05, relative=True)
RIGHT = Metric("fields_when_valid", "quality", "share", True, margin=0.05, kind="ratio", reach=(0.0, 1.0))


class Foreign(Repair):
    """Complains of what was wrong with another answer: as long and as earnest a complaint, about something else."""

    others: tuple[str, ...] = ()

    def complaint(self, faults: Sequence[Fault], settings: Any) -> str:
        strange = random.Random(derive("foreign", *(fault.what for fault in faults))).choice(self.others)
        return super().complaint([Fault(strange)], settings)


class Blind(Repair):
    """Complains without a reason."""

    def complaint(self, faults: Sequence[Fault], settings: Any) -> str:
        return "Mind this: an earlier answer could not be used. Write only the JSON."


class Counting:
    """Counts the requests that reach the model."""

    fingerprint, capabilities = "counting", frozenset({"local"})

    def __init__(self, inner: Answerer):
        self.inner, self.requests = inner, 0

    def answer(self, conversation, settings):
        self.requests += 1
        return self.inner.answer(conversation, settings)


def answers(inner: Answerer, samples: Sequence[Sample], levers: Sequence[Repair]) -> list[Answer]:
    """Each sample's answer through its own lever: the form's schema is a setting."""

    async def all_of_them() -> list[Answer]:
        free = asyncio.Semaphore(8)

        async def one(sample: Sample, lever: Repair) -> Answer:
            assert isinstance(sample.request, Ask)
            async with free:
                return await collect(lever.wrap(inner).answer(sample.request.conversation, sample.request.settings))

        return await asyncio.gather(*(one(sample, lever) for sample, lever in zip(samples, levers, strict=True)))

    return asyncio.run(all_of_them())


def run(bench: Bench) -> Finding:
    task = JsonForms.model_validate({"forms": bench.pick(80, 2), "max_tokens": 48})
    samples = task.samples(derive(bench.seed, "repair") % 2**31)  # forms that nothing of the lever was chosen on
    schemas = [sample.reference["schema"] for sample in samples]
    kinds: dict[str, tuple[type[Repair], dict[str, Any]]] = {
        "base": (Repair, {"times": 0, "fix": False}),
        "fixed": (Repair, {"times": 0}),
        "repair": (Repair, {"times": TIMES, "fix": False}),
        "both": (Repair, {"times": TIMES}),
        "blind": (Blind, {"times": TIMES, "fix": False}),
        "foreign": (Foreign, {"times": TIMES, "fix": False}),
        "shown": (Repair, {"times": TIMES, "fix": False, "show": True}),
    }
    found: dict[str, list[Answer]] = {}
    requests: dict[str, int] = {}
    levers: dict[str, list[Repair]] = {}
    with Engine(load(MODEL), deterministic=True, slots=8, context=1024) as engine:
        for name, (kind, settings) in kinds.items():
            levers[name] = [kind(json_schema=schema, **settings, **_strange(name, found, samples)) for schema in schemas]
            counting = Counting(LocalAnswerer(engine))
            found[name] = answers(counting, samples, levers[name])
            requests[name] = counting.requests
            valid = sum(_column(task, samples, found[name], "valid"))
            bench.say(f"{name}: {len(samples)} answers, {valid:g} valid, {counting.requests} requests")
    told = {name: sum(answer.usage.calls for answer in each if answer.usage) for name, each in found.items()}
    valid = {name: _column(task, samples, each, "valid") for name, each in found.items()}
    right = {name: _column(task, samples, each, "fields_when_valid") for name, each in found.items()}
    fields = {name: _column(task, samples, each, "fields") for name, each in found.items()}
    written = {name: [float(answer.usage.completion_tokens) if answer.usage else 0.0 for answer in each] for name, each in found.items()}
    read = {name: [float(answer.usage.prompt_tokens) if answer.usage else 0.0 for answer in each] for name, each in found.items()}
    not_worse = ("better", "equivalent", "identical", "underpowered", "floor")
    n = len(samples)
    return Finding(
        [
            Claim("asked again with the fault named, more answers are valid", compared("repair", TASK, VALID, valid["base"], valid["repair"]), ("better",)),
            Claim("the form alone put right, more answers are valid", compared("fixed", TASK, VALID, valid["base"], valid["fixed"]), ("better",)),
            Claim("both together, more than the form alone", compared("both", TASK, VALID, valid["fixed"], valid["both"]), ("better",)),
            Claim("of what is valid no smaller share of fields is right", compared("both", TASK, RIGHT, right["base"], right["both"]), not_worse),
            Claim("over all answers no fewer fields are right", compared("both", TASK, FIELDS, fields["base"], fields["both"]), not_worse),
            Claim(
                "usage counts every request that reached the model",
                counted("both", TASK, "requests told", told["both"], requests["both"], "identical" if told == requests else "worse"),
                ("identical",),
            ),
            Claim("tokens written rise", compared("both", TASK, WRITTEN, written["base"], written["both"]), ("worse",)),
            Claim("tokens read rise", compared("both", TASK, READ, read["base"], read["both"]), ("worse",)),
            Claim("putting the form right writes no token", compared("fixed", TASK, WRITTEN, written["base"], written["fixed"]), ("identical",)),
            Claim(
                "naming the fault does more than a complaint without a reason",
                compared("repair", TASK, VALID, valid["blind"], valid["repair"]),
                ("better",),
            ),
            Claim(
                "naming the fault does more than naming a fault of another answer",
                compared("repair", TASK, VALID, valid["foreign"], valid["repair"]),
                ("better",),
            ),
            Claim(
                "where the faulty answer is shown with the complaint, fewer answers become valid",
                compared("shown", TASK, VALID, valid["repair"], valid["shown"]),
                ("worse",),
            ),
            Claim(
                "complaints about other answers do not do more than those about their own",
                compared("foreign", TASK, VALID, valid["repair"], valid["foreign"]),
                ("worse", "underpowered", "identical", "equivalent", "floor"),
                control=True,
            ),
        ],
        {name: levers[name][:1] for name in ("fixed", "repair", "both", "shown")},
        [
            f"{n} forms of two fields. Valid: " + ", ".join(f"{name} {sum(each):.0f}" for name, each in valid.items()) + ".",
            "Requests: " + ", ".join(f"{name} {count}" for name, count in requests.items()) + ".",
            "Tokens written an answer: " + ", ".join(f"{name} {sum(each) / n:.1f}" for name, each in written.items()) + ".",
            "Share of fields right: " + ", ".join(f"{name} {sum(each) / n:.2f}" for name, each in fields.items()) + ".",
        ],
    )  # fmt: skip


def _strange(name: str, found: dict[str, list[Answer]], samples: Sequence[Sample]) -> dict[str, Any]:
    """For the foreign arm: what was wrong with the base's answers."""
    if name != "foreign":
        return {}
    lines = []
    for sample, answer in zip(samples, found["base"], strict=True):
        lever = Repair.model_validate({"json_schema": sample.reference["schema"]})
        lines += [fault.what for fault in lever.faults(answer.text, sample.request.conversation, sample.request.settings)]  # type: ignore[union-attr]
    return {"others": tuple(sorted(set(lines))) or ("it is not JSON",)}


def _column(task: JsonForms, samples: Sequence[Sample], found: Sequence[Answer], metric: str) -> list[Any]:
    scored: list[Value] = [task.score(sample, Output(text=answer.text)).get(metric) for sample, answer in zip(samples, found, strict=True)]
    return scored


EXPERIMENT = Experiment(
    "repair",
    "repair",
    "Asking again with the fault named makes more of a small model's forms valid, at a counted cost and with no fewer fields right.",
    "Faults of other answers, named as earnestly, must not do more.",
    "real model",
    run,
    needs=("smollm",),
)
