"""Steering: a direction from bad to good makes praise likelier, the more of it the more; random directions of its length do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from acceptance.experiment import MODEL, NOTHING_SHOWN, Bench, Claim, Experiment, Finding, compared
from steelyard.core.seeds import derive
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.steering.directions import Direction, load
from steelyard.generate.steering.steering import Steering, steered
from steelyard.model.load import load as load_model
from steelyard.model.sites import SiteProgram
from steelyard.weigh.report.report import Cell
from steelyard.weigh.tasks.bits_per_byte import BITS_PER_BYTE, BitsPerByte
from steelyard.weigh.tasks.task import Metric, Output, Read, Value

LOG_ODDS = Metric("log_odds", "quality", "nats", True, margin=0.2)
WHAT = "praise"

FRAMES = (
    "The film was {}.", "I thought the food was {}.", "What a {} day it was.", "The hotel room looked {}.", "Her new book is {}.",
    "We had a {} time there.", "The service at the shop was {}.", "My trip to the sea was {}.", "The music sounded {}.",
    "It turned out to be a {} idea.",
)  # fmt: skip
FITTED_ON = (("wonderful", "terrible"), ("excellent", "awful"), ("lovely", "horrible"))
ASKED = (
    "The weather this morning was", "My neighbour said that the concert was", "The soup they served us tasted",
    "People who saw the play called it", "Honestly, the new teacher is", "The view from the window was",
)  # fmt: skip
WORDS = (("great", "bad"), ("beautiful", "ugly"), ("amazing", "boring"), ("good", "poor"))
"""Neither the frames nor the words that are asked for were fitted on."""


def pairs(path: Path) -> Path:
    rows = [{"positive": frame.format(good), "negative": frame.format(bad)} for frame in FRAMES for good, bad in FITTED_ON]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def log_odds(engine: Engine, frames: Sequence[str], words: Sequence[tuple[str, str]]) -> list[float]:
    """How much likelier praise is than its opposite, frame by frame and word by word."""
    asked = [(frame, f" {word}") for frame in frames for pair in words for word in pair]
    scores = [score.logprob for score in engine.score(asked)]
    return [good - bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]


def run(bench: Bench) -> Finding:
    model, folder = load_model(MODEL), bench.directory / "fitted"
    lever = Steering(pairs=pairs(bench.directory / "pairs.jsonl"), strength=2.0)
    plain = EngineSpec(model, dtype="bfloat16", deterministic=True, context=256, folder=folder)
    specs = {"plain": plain, "2 sd": lever.decode(plain)}
    specs |= {
        f"{strength:g} sd": lever.model_copy(update={"strength": strength}).decode(plain)
        for strength in bench.pick((-2.0, 1.0, 4.0), (4.0,))
    }
    ((site, one),) = load(next(folder.iterdir()), model.trunk).items()
    generator = torch.Generator().manual_seed(derive(bench.seed, "random directions") % 2**63)
    count = bench.pick(8, 4)
    for number in range(count):
        vector = torch.randn(len(one.vector), generator=generator)
        other = {site: Direction(vector / vector.norm(), one.spread)}
        specs[f"random {number}"] = replace(plain, program=steered(SiteProgram(), other, 4.0))
    frames, words = bench.pick(ASKED, ASKED[:4]), bench.pick(WORDS, WORDS[:3])
    task = BitsPerByte(pieces=bench.pick(24, 4), piece_bytes=bench.pick(400, 150))
    samples = task.samples(bench.seed)
    odds: dict[str, list[float]] = {}
    bits: dict[str, list[Value]] = {}
    said: dict[str, str] = {}
    for arm, spec in specs.items():
        with Engine.from_spec(spec) as engine:
            odds[arm] = log_odds(engine, frames, words)
            if not arm.startswith("random"):
                scores = engine.score_text([sample.request.text for sample in samples if isinstance(sample.request, Read)])
                scored = [task.score(sample, Output(scores=(score,))) for sample, score in zip(samples, scores, strict=True)]
                bits[arm] = [each[BITS_PER_BYTE.name] for each in scored]
                question = {"role": "user", "content": "How was the restaurant?"}
                said[arm] = engine.generate([[question]], max_tokens=bench.pick(24, 1), logprobs=False)[0].text
        bench.say(f"{arm}: log-odds {sum(odds[arm]) / len(odds[arm]):+.2f}")
    clusters = [frame for frame in frames for _ in words]

    def moved(arm: str, base: str = "plain") -> Cell:
        return compared(arm, WHAT, LOG_ODDS, odds[base], odds[arm], clusters, note="" if base == "plain" else f"the base is {base}")

    drift = [sum(odds[arm]) / len(odds[arm]) - sum(odds["plain"]) / len(odds["plain"]) for arm in specs if arm.startswith("random")]
    luckiest = f"random {max(range(count), key=drift.__getitem__)}"
    backwards = [] if bench.reduced else [
        Claim("backwards it makes it less likely", moved("-2 sd"), ("worse",)),
        Claim("at 1 standard deviation other text keeps its bits within 1%", compared("1 sd", task.name, BITS_PER_BYTE, bits["plain"], bits["1 sd"]), ("equivalent",)),
        Claim("at 4 it costs some: the price", compared("4 sd", task.name, BITS_PER_BYTE, bits["plain"], bits["4 sd"]), ("worse",)),
    ]  # fmt: skip
    return Finding(
        [
            *([] if bench.reduced else [Claim("1 standard deviation makes praise likelier", moved("1 sd"), ("better",))]),
            Claim("2 make it likelier", moved("2 sd"), ("better",)),
            Claim("4 make it likelier still", moved("4 sd", "2 sd"), ("better",)),
            Claim(f"and do more than the luckiest of {count} random directions of the same length", moved("4 sd", luckiest), ("better",)),
            *backwards,
            Claim(
                f"{count} random directions of that length do nothing on average",
                compared("random", WHAT, LOG_ODDS, [0.0] * count, drift, note="one value a direction: the mean change of the log-odds"),
                (*NOTHING_SHOWN, "worse"),
                control=True,
            ),
        ],
        {"2 sd": [Steering(pairs=Path("pairs.jsonl"), strength=2.0)]},
        notes=(
            f"Fitted on {len(FRAMES) * len(FITTED_ON)} pairs at {site}; frames and words asked for are others.",
            *(f"Asked how the restaurant was, at {arm}: {text!r}" for arm, text in said.items() if not bench.reduced),
        ),
    )


EXPERIMENT = Experiment(
    "steering",
    "steering",
    "A direction fitted from pairs of praise and its opposite makes other words of praise likelier, the more the further it is followed.",
    "Random directions of the same length must do nothing on average.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
)
