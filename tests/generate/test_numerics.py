"""The type an engine multiplies in, as a lever: what it sets, what it refuses, and that an arm is loaded for it."""

from __future__ import annotations

import pytest
from tiny_engines import talker

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.levers import check_chain, parse_try
from steelyard.core.recipe_parts import Arm, ModelSource
from steelyard.core.run import Run
from steelyard.generate.engine import Engine
from steelyard.generate.numerics import Numerics, stays_stored
from steelyard.generate.spec import EngineSpec
from steelyard.model.load import load
from steelyard.weigh.asking.arms import ArmOpener


@pytest.mark.parametrize("type", ["float32", "bfloat16"])
def test_floats_are_multiplied_in_the_type_asked_for(type):
    with Engine.from_spec(Numerics(type=type).decode(EngineSpec(talker(), context=64))) as engine:
        assert engine.spec.numerics["weights"] == type and engine.generate(["Hello"], max_tokens=2)


def test_auto_changes_nothing():
    spec = EngineSpec(talker())
    assert Numerics(type="auto").decode(spec) is spec


def test_what_holds_no_blocks_cannot_run_in_blocks(smollm):
    for model in (talker(), load(smollm)):
        with pytest.raises(UnsupportedError, match="not kept in blocks"):
            Numerics().decode(EngineSpec(model))
    assert Numerics().decode(EngineSpec(load(smollm, "stored"))).numerics["weights"] == "stored in Q4_1+Q8_0"


def test_an_arm_is_loaded_as_its_numerics_want_it(smollm, tmp_path):
    levers = tuple(parse_try("numerics:stored"))
    assert stays_stored(levers) and not stays_stored(parse_try("numerics:bfloat16"))
    opener = ArmOpener(Run(tmp_path / "run"))
    for chosen, weights in ((levers, "weights stored in Q4_1+Q8_0"), ((), None)):
        arm = opener.open(Arm(name="arm", source=ModelSource(name=str(smollm)), levers=chosen))
        assert weights is None or weights in str(arm.kernels)
        assert arm.engine is not None and (weights is None) == ("stored" not in str(arm.kernels))
        arm.close()
    opener.close()


def test_two_numerics_or_streamed_blocks_are_refused_together():
    for text in ("numerics:stored,numerics:float32", "numerics:stored,offload"):
        with pytest.raises(SteelyardError, match="numerics"):
            check_chain(parse_try(text), {"weights"}, "--try")
