"""A cache in 8, 4 and 2 bits: bits per byte of texts far longer than the float window, and the memory a full slot really takes."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import torch

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared
from steelyard.core.meters import memory
from steelyard.core.seeds import derive
from steelyard.data import encyclopedia
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.states.kv_cache import KvCache
from steelyard.model.load import load
from steelyard.model.state import Dense, KeyValuePool, Storage
from steelyard.model.step import Step
from steelyard.weigh.report.report import Cell
from steelyard.weigh.tasks.bits_per_byte import BITS_PER_BYTE

WHAT = "joined encyclopedia articles"
PIECE = 1024


def texts(bench: Bench, count: int, size: int) -> list[str]:
    """Texts of about `size` bytes, each of held-out articles that no other text holds: cached tokens must be of use."""
    articles = [article.extract for article in encyclopedia.read().values() if encyclopedia.held_out(article.title)]
    random.Random(derive(bench.seed, "articles")).shuffle(articles)
    out, text = [], ""
    for article in articles:
        text = f"{text}\n\n{article}" if text else article
        if len(text.encode()) >= size:
            out.append(text)
            text = ""
    return out[:count]


def resident(bits: int, layers: int, heads: int, width: int, tokens: int) -> tuple[float, float]:
    """Megabytes that one full slot takes: how resident memory grows as it is written, and what the state says itself."""
    storage = Dense() if bits == 16 else KvCache(bits=bits).plan.storage(torch.float32, torch.device("cpu"), 0)
    piece = torch.randn(1, heads, PIECE, width)
    written(storage, 1, heads, width, PIECE, piece)  # whatever else the first step takes
    memory.hand_back()  # what was freed counts as the process's own until then, more or less of it by chance
    before = memory.resident() or 0
    pools = written(storage, layers, heads, width, tokens, piece)
    memory.hand_back()
    return ((memory.resident() or 0) - before) / 1e6, sum(pool.bytes() for pool in pools) / 1e6


def written(storage: Storage, layers: int, heads: int, width: int, tokens: int, piece: torch.Tensor) -> list[KeyValuePool]:
    """The pools of a slot in every layer, full."""
    pools = [
        KeyValuePool(storage.tokens(1, heads, tokens, width, "keys"), storage.tokens(1, heads, tokens, width, "values"), 1)
        for _ in range(layers)
    ]
    for start in range(0, tokens, PIECE):
        step = Step((0,), (start,), (PIECE,), PIECE, torch.device("cpu"), capacity=tokens)
        for pool in pools:
            pool.write(step, piece, piece)
            for _ in pool.views(step, slice(None), start + PIECE):
                pass  # what is staged for reading is let go of
    return pools


def apart(*numbers: int) -> tuple[float, float]:
    """`resident` in a process of its own: memory that others have freed would be taken for nothing."""
    command = [sys.executable, "-m", "acceptance.kv_cache", *map(str, numbers)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    grown, said = json.loads(done.stdout.splitlines()[-1])
    return grown, said


def smaller(arm: str, tokens: int, plain: float, few: float, said: float) -> Cell:
    """Resident megabytes of one full slot: a count, so there is no interval to speak of."""
    change = few - plain
    return Cell(
        arm, "", "memory", "cache", "MB", False, plain, None, few, None, change, change, change, 1, False,
        "better" if change < 0 and abs(few - said) < 0.2 * plain else "worse",
        note=f"growth of resident memory as {tokens} tokens are written; the state counts {said:.1f} MB",
    )  # fmt: skip


def run(bench: Bench) -> Finding:
    model = load(MODEL)
    read = texts(bench, bench.pick(12, 3), bench.pick(2400, 1200))
    levers = {f"bits_{bits}": KvCache(bits=bits) for bits in bench.pick((8, 4, 2), (8, 2))}
    if bench.reduced:  # short texts: the window must be shorter still
        levers = {arm: KvCache(bits=lever.bits, window=32) for arm, lever in levers.items()}
    per_token = levers["bits_2"].model_copy(update={"keys": "token"})
    values = {}
    for arm, lever in {"base": KvCache(bits=16), **levers, "per_token": per_token}.items():
        with Engine.from_spec(lever.decode(EngineSpec(model, deterministic=True, slots=4, context=2048))) as engine:
            scores = engine.score_text(read)
        values[arm] = [(-score.logprob / math.log(2), float(score.bytes)) for score in scores]
        bench.say(f"{arm}: {sum(bits for bits, _ in values[arm]) / sum(size for _, size in values[arm]):.4f} bits a byte")
    tokens = bench.pick(8192, 2048)
    attention = model.trunk.blocks[0].mixer.plan
    shape = (len(model.trunk.blocks), attention.key_value_heads, attention.head_width, tokens)
    plain, _ = apart(16, *shape)
    sizes = {
        arm: smaller(arm, tokens, plain, *apart(lever.bits, *shape))
        for arm, lever in levers.items()
        if arm == "bits_2" or not bench.reduced
    }

    def beside(arm: str, base: str = "base") -> Cell:
        return compared(arm, WHAT, BITS_PER_BYTE, values[base], values[arm])

    four = [] if bench.reduced else [Claim("in 4 bits, bits per byte stay within 1%", beside("bits_4"), ("equivalent",))]
    return Finding(
        [
            Claim("in 8 bits, bits per byte stay within 1% of the float cache's", beside("bits_8"), ("equivalent",)),
            *four,
            *(Claim(f"a full slot in {arm.removeprefix('bits_')} bits takes less memory", cell, ("better",)) for arm, cell in sizes.items()),
            Claim("2-bit keys per token are worse than the float cache", beside("per_token"), ("worse",), control=True),
            Claim("and worse than 2-bit keys per channel", beside("per_token", "bits_2"), ("worse",), control=True),
        ],
        {arm: [lever] for arm, lever in levers.items()},
        [
            "2 bits per channel beside the float cache: "
            + "{value:.4f} bits a byte against {base:.4f}.".format(**vars(beside("bits_2"))),
            f"Texts have {min(score.tokens for score in scores)} to {max(score.tokens for score in scores)} tokens; queries see the latest "
            f"{levers['bits_8'].window} in floats, at least. Prompts are read through the rounded cache like answers.",
        ],
    )  # fmt: skip


EXPERIMENT = Experiment(
    "kv_cache",
    "kv_cache",
    "Keys per channel and values per token in 8 bits cost nothing that can be seen, in 4 bits little, and take a fraction of the memory.",
    "2-bit keys that share a scale along a token instead must come out clearly worse than the float cache and than 2 bits per channel.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
    in_ci=False,
)

if __name__ == "__main__":
    print(json.dumps(resident(*map(int, sys.argv[1:]))))
