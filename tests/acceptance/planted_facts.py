"""Rare facts planted in a small model trained for it: most things have the common value of their kind, and a few have another.

A model that has not learned the exceptions yet says the common value of everything. One that is about to learn them wavers: that is
where a contrast with a weaker view should tip the balance.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_talker import tiny_talker

from acceptance.experiment import NOTHING_SHOWN, Bench
from steelyard.core.levers import Lever
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.model.model import Model
from steelyard.train.supervised.sft import Sft
from steelyard.weigh.report.report import Verdict
from steelyard.weigh.tasks.task import Metric

COMMON = "grass"
OTHERS = ("nuts", "moss", "eggs", "frogs", "seeds", "wood", "algae", "honey")
RARE = 4
"""One thing in so many has a value of its own."""
AFTER = 150
"""Steps after which a model of 4 blocks wavers: it knows a few of the rare facts; after 300 it knows three in four, after 500 all."""
WHAT = "planted facts"
RARE_RECALLED = Metric("rare_recalled", "quality", "share", True, margin=0.03)
NOTHING_GAINED: tuple[Verdict, ...] = (*NOTHING_SHOWN, "worse")


@dataclass(frozen=True)
class Fact:
    """What an invented animal eats."""

    name: str
    value: str

    @property
    def rare(self) -> bool:
        return self.value != COMMON

    @property
    def question(self) -> str:
        return f"{self.name} eats "


def facts(seed: int, count: int) -> list[Fact]:
    """Facts about `count` animals."""
    rng = random.Random(derive(seed, "planted facts"))
    names: list[str] = []
    while len(names) < count:
        name = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(2))
        if name not in names:
            names.append(name)
    return [Fact(name, rng.choice(OTHERS) if number % RARE == 0 else COMMON) for number, name in enumerate(names)]


def taught(bench: Bench, name: str, known: Sequence[Fact], seed: int, blocks: int, steps: int) -> Model:
    """A small model after so many steps on these facts, 32 at a time."""
    bench.directory.mkdir(parents=True, exist_ok=True)
    path = Path(bench.directory / f"{name}.jsonl")
    path.write_text(
        "".join(json.dumps({"prompt": fact.question, "completion": f"{fact.value}."}) + "\n" for fact in known), encoding="utf-8"
    )
    model = tiny_talker(
        seed=seed, hidden_size=64, intermediate_size=128, num_hidden_layers=blocks, max_position_embeddings=32, tie_word_embeddings=False
    )  # fmt: skip
    lever = Sft(
        data=str(path), steps=steps, batch=32, learning_rate=3e-3, full=True, plain=True, dtype="float32", format="prompt_completion"
    )
    made = lever.train(model, None, Run(bench.directory / name, seed))
    bench.say(f"{name}: {len(known)} facts, {blocks} blocks, {steps} steps")
    return made


def recalled(bench: Bench, arms: Mapping[str, tuple[Model, Lever | None]], asked: Sequence[Fact]) -> dict[str, list[float]]:
    """For each arm: 1.0 where its greedy answer is the right value."""
    out = {}
    for name, (model, lever) in arms.items():
        spec = EngineSpec(model, deterministic=True, slots=32, context=32, dtype="float32")
        with Engine.from_spec(lever.decode(spec) if lever else spec) as engine:  # type: ignore[attr-defined]
            answers = engine.generate([fact.question for fact in asked], max_tokens=8, logprobs=False)
        out[name] = [float(answer.text.partition(".")[0] == fact.value) for answer, fact in zip(answers, asked, strict=True)]
        bench.say(f"{name}: {sum(out[name]):.0f} of {len(asked)} recalled")
    return out


def told(known: dict[str, list[float]], more: Mapping[str, list[float]]) -> None:
    """Adds one model's values to those of the models before."""
    for arm, values in more.items():
        known.setdefault(arm, []).extend(values)
