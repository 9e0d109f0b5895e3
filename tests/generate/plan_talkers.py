"""Random models of any plan that engines can be tried on: what `new:` says, with weights large enough to have something to say."""

from __future__ import annotations

from typing import Any

from tiny_engines import talker

from steelyard.model.model import Model
from steelyard.model.new import DecoderPlan, initialize


def plan_talker(new: dict[str, Any], initial: float = 0.6, seed: int = 0, **config: object) -> Model:
    """A talker with the trunk of a plan."""
    model = talker(**config)
    sizes = {"width": 32, "depth": 2, "tied": False, "initial": initial, "context": model.context_length}
    plan = DecoderPlan.model_validate(sizes | new)
    return model.with_trunk(initialize(plan.trunk(model.trunk.plan.inputs.vocabulary).build(), plan, seed).eval())
