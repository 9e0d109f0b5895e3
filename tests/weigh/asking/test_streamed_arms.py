"""An arm that streams its weights never holds them whole, and is another arm than the base."""

from __future__ import annotations

from pathlib import Path

from tiny_talker import tiny_talker

from steelyard.compress.quantize.quantize import Quantize
from steelyard.core.levers import Lever
from steelyard.core.recipe import Arm, ModelSource
from steelyard.core.run import Run
from steelyard.generate.offload import Offload
from steelyard.model.linears.streamed import readers
from steelyard.weigh.asking.arms import ArmOpener, OpenArm


def opened(opener: ArmOpener, directory: Path, *levers: Lever) -> OpenArm:
    return opener.open(Arm(name="arm", source=ModelSource(name=str(directory)), levers=levers))


def test_an_arm_is_loaded_with_its_blocks_on_disk_and_counts_what_is_in_memory(tmp_path):
    tiny_talker(num_hidden_layers=6).save(tmp_path / "model")
    opener = ArmOpener(Run(tmp_path / "run"))
    base = opened(opener, tmp_path / "model")
    streamed = opened(opener, tmp_path / "model", Offload())
    assert streamed.engine is not None and readers(streamed.engine.model.trunk) and readers(streamed.engine.trunk)
    assert streamed.weight_bytes < base.weight_bytes and streamed.parameters == base.parameters  # type: ignore[operator]
    assert streamed.fingerprint != base.fingerprint and "disk" in streamed.kernels
    again = opened(opener, tmp_path / "model")
    assert again.engine is not None and not readers(again.engine.trunk) and again.fingerprint == base.fingerprint
    for arm in (base, streamed, again):
        arm.close()
    opener.close()


def test_what_weight_levers_made_is_streamed_too(tmp_path):
    tiny_talker(num_hidden_layers=6).save(tmp_path / "model")
    opener = ArmOpener(Run(tmp_path / "run"))
    whole, streamed = opened(opener, tmp_path / "model", Quantize()), opened(opener, tmp_path / "model", Quantize(), Offload())
    assert whole.engine is not None and streamed.engine is not None and readers(streamed.engine.trunk)
    answers = [arm.engine.generate(["one, two"], max_tokens=8, ignore_eos=True)[0].text for arm in (whole, streamed) if arm.engine]
    assert answers[0] == answers[1]
    for thing in (whole, streamed, opener):
        thing.close()
