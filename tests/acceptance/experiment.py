"""What an experiment is, how its outcome is decided, and the form its result is kept in.

An experiment makes claims. Each claim is a cell, as in a report, with the verdicts it is expected to get. Claims of the
hypothesis may come out as "no effect at this scale", which is a result like any other; claims of the negative control may not:
an experiment whose control does not behave shows nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from acceptance import NAMES
from steelyard.core import hardware
from steelyard.core.files import write_json
from steelyard.core.levers import Lever
from steelyard.core.meters import memory
from steelyard.core.recipe_parts import Arm, ModelSource, written_lever
from steelyard.core.run import Run
from steelyard.model.families.config import Config
from steelyard.model.model import Model
from steelyard.weigh.asking.answering import answer_all
from steelyard.weigh.asking.arms import ArmOpener, is_trained
from steelyard.weigh.asking.subjects import BASE
from steelyard.weigh.cells.cells import Draft, contrast, draft_cells, finish
from steelyard.weigh.cells.scoring import Scored, score
from steelyard.weigh.records import Records
from steelyard.weigh.report.report import Cell, Verdict
from steelyard.weigh.statistics.intervals import wilson
from steelyard.weigh.tasks.task import Metric, Task, Value

MODEL = "smollm2-135m-instruct"
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
"""Of a random model that stands in its place in reduced forms (`untrained`)."""
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
QUIET = 0.5
"""Load average before the start, per usable core, above which a result is marked as taken on a busy machine."""
NOTHING_SHOWN: tuple[Verdict, ...] = ("underpowered", "equivalent", "identical", "floor", "not measurable")

Outcome = Literal["as expected", "no effect at this scale", "contrary", "control failed"]
Size = TypeVar("Size")


@dataclass(frozen=True)
class Claim:
    """One sentence that a figure can bear out.

    Attributes:
        what: the sentence.
        cell: the figure.
        expected: verdicts under which the sentence holds.
        control: whether it belongs to the negative control.
    """

    what: str
    cell: Cell
    expected: tuple[Verdict, ...]
    control: bool = False

    @property
    def holds(self) -> bool:
        return self.cell.verdict in self.expected


@dataclass(frozen=True)
class Bench:
    """Where an experiment works.

    Attributes:
        directory: an empty folder.
        reduced: whether only a few seconds are to be spent.
        seed: the root of every random number.
        say: receives lines for a person.
    """

    directory: Path
    reduced: bool = False
    seed: int = 7
    say: Callable[[str], None] = print

    def pick(self, full: Size, reduced: Size) -> Size:
        """A size for the full experiment, or for its reduced form."""
        return reduced if self.reduced else full

    def ask(
        self, task: Task, arms: Mapping[str, Sequence[Lever]], seeds: Sequence[int] = (), model: str = MODEL
    ) -> dict[str, list[Scored]]:
        """What the base and every arm answered, scored: arm -> one entry, or one per training seed.

        Arms are given as levers themselves, so that controls need not be registered. `model` is a got name or a directory.
        """
        samples, out = task.samples(self.seed), {}
        opener = ArmOpener(Run(self.directory, self.seed, say=self.say))
        try:
            with Records(self.directory / "records.sqlite") as records:
                for name, levers in {BASE: (), **arms}.items():
                    arm = Arm(name=name, source=ModelSource(name=model), levers=tuple(levers))
                    for seed in seeds if is_trained(arm) and seeds else (None,):
                        opened, begun = opener.open(arm, seed), time.perf_counter()
                        try:
                            outputs = answer_all(opened, task.name, samples, records, seed=self.seed)
                        finally:
                            opened.close()
                        out.setdefault(name, []).append(score(task, samples, [outputs]))
                    self.say(f"{name}: {len(samples)} answers, {time.perf_counter() - begun:.0f} s")
        finally:
            opener.close()
        return out


def cells(task: Task, asked: Mapping[str, Sequence[Scored]], arm: str) -> dict[str, Cell]:
    """Metric -> cell of one arm beside the base, as a report would have it."""
    return {draft.metric.name: finish(draft) for draft in draft_cells(arm, task, asked[BASE][0], asked[arm])}


def untrained(model: Model, **sizes: int) -> Model:
    """A model of the same family and tokenizer, of other sizes (config.json's words), with random weights: for mechanisms that need no more."""
    config = {**model.config, **sizes}
    torch.manual_seed(0)
    return dataclasses.replace(model, trunk=model.family.plan(Config(config)).build().eval(), config=config)


@dataclass(frozen=True)
class Finding:
    """What an experiment found: its claims, the levers of each arm they speak of, and remarks for a reader."""

    claims: Sequence[Claim]
    arms: Mapping[str, Sequence[Lever]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: the module's.
        lever: whose it is, or "" where it is about the balance itself.
        hypothesis, control: one sentence each.
        evidence: how far the claim reaches.
        run: does it.
        needs: what must have been got, as the fixtures of tests/conftest.py name it.
        timed: whether its figures depend on how busy the machine is.
        in_ci: whether its reduced form is short enough for every change (some 25 s); the longer ones are run by hand.
    """

    name: str
    lever: str
    hypothesis: str
    control: str
    evidence: Literal["mechanism", "real model"]
    run: Callable[[Bench], Finding]
    needs: tuple[str, ...] = ()
    timed: bool = False
    in_ci: bool = True


def find(name: str) -> Experiment:
    """The experiment of this name."""
    return importlib.import_module(f"acceptance.{name}").EXPERIMENT


def outcome(claims: Sequence[Claim]) -> Outcome:
    """What the claims come to together."""
    missed = [claim for claim in claims if not claim.holds]
    if any(claim.control for claim in missed):
        return "control failed"
    if any(claim.cell.verdict not in NOTHING_SHOWN for claim in missed):
        return "contrary"
    return "no effect at this scale" if missed else "as expected"


def carry_out(experiment: Experiment, bench: Bench) -> dict[str, Any]:
    """Runs an experiment; its result as plain data, in a form that `steelyard levers NAME` and the docs read."""
    load, started, begun, worked = os.getloadavg()[0], datetime.datetime.now(datetime.UTC), time.perf_counter(), processor_seconds()
    found = experiment.run(bench)
    memory.hand_back()  # the next experiment measures its own
    busy = load > QUIET * hardware.usable_cores()
    notes = list(found.notes)
    if experiment.timed and busy:
        notes.append(f"Taken on a busy machine (load average {load:.1f} at the start): times and speeds are not to be relied on.")
    return {
        "experiment": experiment.name,
        "lever": experiment.lever,
        "hypothesis": experiment.hypothesis,
        "control": experiment.control,
        "evidence": experiment.evidence,
        "outcome": outcome(found.claims),
        "command": f"make accept NAME={experiment.name}",
        "reduced": bench.reduced,
        "seed": bench.seed,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begun, 1),
        "processor_seconds": round(processor_seconds() - worked, 1),
        "load_average": round(load, 2),
        "notes": notes,
        "arms": {name: {"levers": [written_lever(lever) for lever in levers]} for name, levers in found.arms.items()},
        "cells": [_written(claim) for claim in found.claims if not claim.control],
        "controls": [_written(claim) for claim in found.claims if claim.control],
        "machine": {key: value for key, value in hardware.describe().items() if key not in ("versions", "memory_available_bytes")},
        "versions": hardware.versions(),
    }


def processor_seconds() -> float:
    """What this process and those it started and saw end have worked, on all cores together."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _written(claim: Claim) -> dict[str, Any]:
    cell = dataclasses.asdict(claim.cell) | {"primary": not claim.control}
    return {"claim": claim.what, "expected": list(claim.expected), "holds": claim.holds, **cell}


def store(result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Keeps a result, atomically; only full experiments are kept."""
    path = folder / f"{result['experiment']}.json"
    write_json(path, result)
    return path


def compared(
    arm: str, task: str, metric: Metric, base: Sequence[Value], values: Sequence[Value], clusters: Sequence[str] = (), note: str = ""
) -> Cell:
    """A cell from per-sample values of base and arm, as a report would have it; without `clusters` every sample is its own."""
    comparison = contrast(metric, base, [values], clusters or [""] * len(base))
    same = list(base) == list(values)
    return finish(Draft(arm, task, metric, comparison, identical=same, notes=(note,)))


def counted(
    arm: str,
    task: str,
    metric: str,
    hits: int,
    n: int,
    verdict: Verdict,
    *,
    base: float = 1.0,
    higher_is_better: bool = True,
    note: str = "",
) -> Cell:
    """A cell about a count: `hits` of `n`, Wilson's interval, beside the share there should be (`base`)."""
    low, high = wilson(hits, n, 0.05)
    return Cell(
        arm, task, "quality", metric, "share", higher_is_better, base, None, hits / n, (low, high), hits / n - base, low - base, high - base,
        n, False, verdict, note=note,
    )  # fmt: skip


def all_names() -> tuple[str, ...]:
    """The experiments there are."""
    return NAMES
