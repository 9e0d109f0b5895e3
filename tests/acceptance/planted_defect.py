"""A known defect must come out worse, a change that changes nothing identical, and raw text must not see a wrong template.

A begin token that is left out is tried on a small model that was taught with one: SmolLM2 does not mind (its begin token opens turns; of
60 facts it names 0.55 with and 0.50 without it, and raw text reads better after a line end). Rounding to 2 bits is in `quantize.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from acceptance.experiment import Bench, Claim, Experiment, Finding, cells, compared
from acceptance.planted_exposure import BRIEF, Planted, asked, facts, taught
from steelyard.augment.answerers import LocalAnswerer
from steelyard.core.levers import Lever
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.model.template import ChatTemplate
from steelyard.weigh.planted_defect import PlantedDefect
from steelyard.weigh.report.report import Cell
from steelyard.weigh.tasks.bits_per_byte import BitsPerByte
from steelyard.weigh.tasks.chat import RIGHT
from steelyard.weigh.tasks.facts import Facts


class SameTemplate(Lever):
    """The control that is no defect: the model's own template, put in its own place the way the wrong one is."""

    name: ClassVar[str] = "control_same_template"
    idea: ClassVar[str] = "Put the model's own template where the planted defect puts a wrong one."
    identity: ClassVar[dict] = {}

    def decode(self, spec: EngineSpec) -> EngineSpec:
        own = spec.model.template
        assert own is not None
        # The remark changes the fingerprint and nothing else: the questions are really asked again.
        return dataclasses.replace(spec, template=ChatTemplate("{# the same #}" + own.source, own.variables))


BEGIN = "<|begin|>"


def without_begin_token(bench: Bench) -> tuple[Cell, Cell]:
    """A small model that was taught with a begin token before every text, without it; and with it once more."""
    known = [Planted(fact.name, fact.value, 60) for fact in facts(bench.seed, 60)]
    model = taught(bench, known, BEGIN + BRIEF)
    assert model.template is not None
    right: list[list[float]] = []
    for start in (BEGIN, "", BEGIN + "{# the same #}"):
        template = ChatTemplate(start + BRIEF, model.template.variables)
        with Engine(dataclasses.replace(model, template=template), dtype="float32", deterministic=True, slots=32, context=160) as engine:
            right.append([float(told.right) for told in asked(LocalAnswerer(engine), known)])
    base, dropped, same = right
    dropped_cell = compared("without_begin_token", "planted facts", RIGHT, base, dropped)
    return dropped_cell, compared("same_begin_token", "planted facts", RIGHT, base, same)


def run(bench: Bench) -> Finding:
    arms: dict[str, Sequence[Lever]] = {"wrong_template": [PlantedDefect()]}
    if not bench.reduced:
        arms["scrambled"] = [PlantedDefect(kind="scrambled_prompt")]
    dropped = (
        []
        if bench.reduced
        else [*zip(("a begin token left out is found to be worse", "put back: identical"), without_begin_token(bench), strict=True)]
    )
    task = Facts(answerable=bench.pick(60, 14), invented=0, max_tokens=bench.pick(24, 12))
    answers = bench.ask(task, {**arms, "same_template": [SameTemplate()]})
    found = {arm: cells(task, answers, arm)["right"] for arm in answers if arm != "base"}
    text = BitsPerByte(pieces=bench.pick(16, 2), piece_bytes=200)
    raw = cells(text, bench.ask(text, {"wrong_template": arms["wrong_template"]}), "wrong_template")["bits_per_byte"]
    return Finding(
        [
            *(Claim(f"the planted defect ({arm.replace('_', ' ')}) is found to be worse", found[arm], ("worse",)) for arm in arms),
            *(Claim(what, cell, ("worse",)) for what, cell in dropped[:1]),
            *(Claim(what, cell, ("identical",), control=True) for what, cell in dropped[1:]),
            Claim("the model's own template in its own place: identical", found["same_template"], ("identical",), control=True),
            Claim("raw text, which sees no template: identical", raw, ("identical",), control=True),
        ],
        arms,
    )


EXPERIMENT = Experiment(
    "planted_defect",
    "planted_defect",
    "A wrong chat template, words in random order, and a begin token that is left out are each found to be worse.",
    "The model's own template put in place the same way, and raw text that sees no template, must be identical record by record.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
)
