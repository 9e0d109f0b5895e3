"""A GGUF file's own blocks: bits per byte within 1% of the floats', in fewer bytes. Blocks of the wrong rows are found out."""

from __future__ import annotations

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared
from acceptance.quantize import fewer
from steelyard.generate.engine import Engine
from steelyard.generate.numerics import Numerics
from steelyard.generate.spec import EngineSpec
from steelyard.model.linears.blocks import BlockStorage
from steelyard.model.linears.linear import Linear
from steelyard.model.load import STORED, load
from steelyard.model.model import Model
from steelyard.weigh.tasks.bits_per_byte import BITS_PER_BYTE, BitsPerByte
from steelyard.weigh.tasks.task import Output, Read


def misplaced() -> Model:
    """The control: the blocks of every value map's rows stand one row too low."""
    model = load(MODEL, STORED)
    for name, module in model.trunk.named_modules():
        if name.endswith("mixer.value") and isinstance(module, Linear) and isinstance(module.storage, BlockStorage):
            module.storage.data = module.storage.data.roll(1, 0)
    return model


def run(bench: Bench) -> Finding:
    task = BitsPerByte(pieces=bench.pick(40, 8), piece_bytes=bench.pick(600, 200))
    samples = task.samples(bench.seed)
    arms = {
        "base": (lambda: load(MODEL), Numerics(type="bfloat16")),
        "float32": (lambda: load(MODEL), Numerics(type="float32")),
        "stored": (lambda: load(MODEL, STORED), Numerics()),
        "misplaced": (misplaced, Numerics()),
    }
    megabytes, values = {}, {}
    for arm, (opened, lever) in arms.items():
        with Engine.from_spec(lever.decode(EngineSpec(opened(), deterministic=True, context=512))) as engine:
            megabytes[arm] = engine.trunk.weight_bytes() / 1e6
            scores = engine.score_text([sample.request.text for sample in samples if isinstance(sample.request, Read)])
            bench.say(f"{arm}: {megabytes[arm]:.0f} MB, {engine.spec.numerics}")
        bits = [task.score(sample, Output(scores=(score,))) for sample, score in zip(samples, scores, strict=True)]
        values[arm] = [each[BITS_PER_BYTE.name] for each in bits]
    cells = {arm: compared(arm, task.name, BITS_PER_BYTE, values["base"], values[arm]) for arm in list(arms)[1:]}
    return Finding(
        [
            Claim("blocks with activations in 8 bits stay within 1% of the bits per byte of bfloat16", cells["stored"], ("equivalent",)),
            Claim("so do floats of 32 bits", cells["float32"], ("equivalent", "identical")),
            Claim(
                "the running model's weights take fewer bytes than in bfloat16",
                fewer(megabytes["base"], megabytes["stored"], "stored"),
                ("better",),
            ),
            Claim("blocks of the wrong rows are found to be worse", cells["misplaced"], ("worse",), control=True),
        ],
        {"stored": [Numerics()], "float32": [Numerics(type="float32")]},
        ["The file is in 4 bits (Q4_1, table Q8_0): both sides hold the same weights, and differ in how they multiply them."],
    )


EXPERIMENT = Experiment(
    "numerics",
    "numerics",
    "A GGUF file run in its own blocks has the bits per byte of its floats, in fewer bytes.",
    "The same blocks with every value map's rows one place too low must come out worse.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
)
