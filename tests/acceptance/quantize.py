"""8 bits per weight: bits per byte within 1% of the base's, in fewer bytes; 4 bits and 8-bit floats: what they cost. Coarser rounding
and wrong scales are found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared
from steelyard.compress.quantize.quantize import Quantize
from steelyard.core.levers import Lever
from steelyard.generate.engine import Engine
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.linear import Linear
from steelyard.model.load import load
from steelyard.model.model import Model
from steelyard.weigh.report.report import Cell
from steelyard.weigh.tasks.bits_per_byte import BITS_PER_BYTE, BitsPerByte
from steelyard.weigh.tasks.task import Output, Read


class TwoBits(Quantize):
    """The control that rounds too coarsely: 4 levels a row instead of 255."""

    name: ClassVar[str] = "control_two_bits"

    def compress(self, model, calibration, run=None):
        return spoiled(super().compress(model, calibration, run), lambda weight, scale: ((weight // 64).mul(64) + 32, scale))


class WrongScales(Quantize):
    """The control whose rows carry their neighbours' scales, as after an off-by-one."""

    name: ClassVar[str] = "control_wrong_scales"

    def compress(self, model, calibration, run=None):
        return spoiled(super().compress(model, calibration, run), lambda weight, scale: (weight, scale.roll(1, 0)))


class FourBitsByChannel(Quantize):
    """The control without groups: 16 levels a row, one scale for all of its inputs."""

    name: ClassVar[str] = "control_four_bits_by_channel"

    def compress(self, model, calibration, run=None):
        def coarser(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            return (weight.float() * 7 / 127).round().to(weight.dtype), scale * 127 / 7

        return spoiled(super().compress(model, calibration, run), coarser)


def spoiled(model: Model, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Model:
    for module in model.trunk.modules():
        if isinstance(module, Linear) and isinstance(module.storage, Int8Storage):
            module.storage.weight, module.storage.scale = change(module.storage.weight, module.storage.scale)
    return model


def run(bench: Bench) -> Finding:
    task = BitsPerByte(pieces=bench.pick(40, 8), piece_bytes=bench.pick(600, 200))
    samples = task.samples(bench.seed)
    base = load(MODEL)
    levers: dict[str, Lever] = {
        "int8": Quantize(),
        "int4": Quantize(bits=4),
        "fp8": Quantize(bits="fp8"),
        "by_channel": FourBitsByChannel(),
        "two_bits": TwoBits(),
        "wrong_scales": WrongScales(),
    }
    megabytes, values = {}, {}
    for arm, lever in {"base": None, **levers}.items():
        model = lever.compress(base, None) if isinstance(lever, Quantize) else base
        with Engine(model, dtype="bfloat16", deterministic=True, context=512) as engine:
            megabytes[arm] = engine.trunk.weight_bytes() / 1e6
            scores = engine.score_text([sample.request.text for sample in samples if isinstance(sample.request, Read)])
        bits = [task.score(sample, Output(scores=(score,))) for sample, score in zip(samples, scores, strict=True)]
        values[arm] = [each[BITS_PER_BYTE.name] for each in bits]
        bench.say(f"{arm}: {megabytes[arm]:.0f} MB")
    cells = {arm: compared(arm, task.name, BITS_PER_BYTE, values["base"], values[arm]) for arm in levers}

    def beside(other: str, arm: str) -> Cell:
        return compared(arm, task.name, BITS_PER_BYTE, values[other], values[arm])

    return Finding(
        [
            Claim("bits per byte stay within 1% of the base's", cells["int8"], ("equivalent",)),
            Claim(
                "the running model's weights take fewer bytes than in bfloat16", fewer(megabytes["base"], megabytes["int8"]), ("better",)
            ),
            Claim("4 bits, by groups of 32 and without calibration, have a price", cells["int4"], ("worse",)),
            Claim("for fewer bytes still", fewer(megabytes["int8"], megabytes["int4"], "int4"), ("better",)),
            Claim("8-bit floats cost less than 4 bits", beside("int4", "fp8"), ("better",)),
            Claim("and more than integers of 8 bits", beside("int8", "fp8"), ("worse",)),
            Claim("in fewer bytes than bfloat16", fewer(megabytes["base"], megabytes["fp8"], "fp8"), ("better",)),
            Claim("4 bits with one scale a row are worse than in groups", beside("int4", "by_channel"), ("worse",), control=True),
            Claim("rounding to 2 bits is found to be worse", cells["two_bits"], ("worse",), control=True),
            Claim("scales of the wrong rows are found to be worse", cells["wrong_scales"], ("worse",), control=True),
        ],
        {arm: [levers[arm]] for arm in ("int8", "int4", "fp8")},
        [
            "The base's file is in 4 bits (Q4_1) already; what is compared is the dequantized model, run in bfloat16.",
            "Before the first run 4 bits were expected to stay within 5%; they cost 6.3%. On this file a grid with an offset for each 32 "
            "(its own) would lose nothing and show nothing, so the grid here is symmetric.",
        ],
    )


def fewer(before: float, after: float, arm: str = "int8") -> Cell:
    """Bytes of all weights as the engines held them: a count, so there is no interval to speak of."""
    change = after - before
    return Cell(
        arm, "", "memory", "weights", "MB", False, before, None, after, None, change, change, change, 1, False,
        "better" if change < 0 else "worse", note="a count, not an estimate",
    )  # fmt: skip


EXPERIMENT = Experiment(
    "quantize",
    "quantize",
    "Weights and activations in 8 bits leave bits per byte within 1% and take fewer bytes; weights of 4 bits take fewer still, at a price; "
    "8-bit floats lie between.",
    "The same code with 4 levels instead of 255, with every row's scale taken from its neighbour, and 4 bits without groups, must come "
    "out worse.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
)
