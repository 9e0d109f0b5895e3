"""A known defect must come out worse, a change that changes nothing identical, and raw text must not see a wrong template."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from acceptance.experiment import Bench, Claim, Experiment, Finding, cells
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec
from steelyard.model.template import ChatTemplate
from steelyard.weigh.planted_defect import PlantedDefect
from steelyard.weigh.tasks.bits_per_byte import BitsPerByte
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


def run(bench: Bench) -> Finding:
    arms: dict[str, Sequence[Lever]] = {"wrong_template": [PlantedDefect()]}
    if not bench.reduced:
        arms["scrambled"] = [PlantedDefect(kind="scrambled_prompt")]
    task = Facts(answerable=bench.pick(60, 14), invented=0, max_tokens=bench.pick(24, 12))
    asked = bench.ask(task, {**arms, "same_template": [SameTemplate()]})
    found = {arm: cells(task, asked, arm)["right"] for arm in asked if arm != "base"}
    text = BitsPerByte(pieces=bench.pick(16, 2), piece_bytes=200)
    raw = cells(text, bench.ask(text, {"wrong_template": arms["wrong_template"]}), "wrong_template")["bits_per_byte"]
    return Finding(
        [
            *(Claim(f"the planted defect ({arm.replace('_', ' ')}) is found to be worse", found[arm], ("worse",)) for arm in arms),
            Claim("the model's own template in its own place: identical", found["same_template"], ("identical",), control=True),
            Claim("raw text, which sees no template: identical", raw, ("identical",), control=True),
        ],
        arms,
    )


EXPERIMENT = Experiment(
    "planted_defect",
    "planted_defect",
    "A wrong chat template, and words in random order, are each found to be worse.",
    "The model's own template put in place the same way, and raw text that sees no template, must be identical record by record.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
)
