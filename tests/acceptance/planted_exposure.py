"""Facts that a small model was shown often, seldom or never: it knows those it saw often, and guesses at the others.

What it has not seen it answers all the same, with a value of the right kind. Which answers are right is therefore decided by how often
each fact was planted, and a confidence is worth something where it tells the one from the other. As in any large text, most names stand
there once: from them the model learns what not knowing looks like.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiny_talker import tiny_talker

from acceptance.experiment import Bench
from steelyard.augment.uncertainty.measure import Asked, Measure
from steelyard.core.protocols import Answer, Answerer, AnswerSettings, Message, collect
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.model.model import Model
from steelyard.train.supervised.sft import Sft

VALUES = ("nuts", "moss", "eggs", "frogs", "seeds", "wood", "algae", "honey")
EXPOSURES = (0, 0, 8, 160, 160)
"""How often a fact stands among the rows; each is read once. Every fifth fact has each."""
BACKGROUND = 0.3
"""Share of the rows that are about names that stand there once."""
BRIEF = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %} {% else %}<|im_end|>{% endif %}{% endfor %}"
"""A chat template of next to no tokens: a question is the animal's name."""
AT_ONCE = 64


@dataclass(frozen=True)
class Planted:
    """What an invented animal eats, and how often that was shown."""

    name: str
    value: str
    exposure: int

    @property
    def asked(self) -> list[Message]:
        return [Message("user", self.name)]


@dataclass(frozen=True)
class Told:
    """A fact as the model told it."""

    fact: Planted
    answer: Answer

    @property
    def right(self) -> bool:
        return self.answer.text.strip().rstrip(".") == self.fact.value


def facts(seed: int, count: int) -> list[Planted]:
    """Facts about `count` animals, in random order."""
    rng = random.Random(derive(seed, "planted exposure"))
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3))] = None
    return [Planted(name, rng.choice(VALUES), EXPOSURES[number % len(EXPOSURES)]) for number, name in enumerate(names)]


def taught(bench: Bench, known: Sequence[Planted], template: str = BRIEF) -> Model:
    """A small model that has read these facts, each as often as its exposure says, and many names once, in such a chat template."""
    bench.directory.mkdir(parents=True, exist_ok=True)
    path = Path(bench.directory / "planted.jsonl")
    shown = [fact for fact in known for _ in range(fact.exposure)]
    shown += facts(derive(bench.seed, "background"), round(len(shown) * BACKGROUND / (1 - BACKGROUND)))
    rows = [{"messages": [{"role": "user", "content": one.name}, {"role": "assistant", "content": f"{one.value}."}]} for one in shown]
    random.Random(derive(bench.seed, "rows")).shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = tiny_talker(
        template,
        seed=bench.seed, hidden_size=64, intermediate_size=128, num_hidden_layers=4, max_position_embeddings=160, tie_word_embeddings=False
    )  # fmt: skip
    lever = Sft(data=str(path), batch=32, learning_rate=3e-3, full=True, dtype="float32", format="messages")
    return lever.train(model, None, Run(bench.directory / "taught", bench.seed))


def asked(answerer: Answerer, known: Sequence[Planted]) -> list[Told]:
    """What an answerer says to each question, with all it tells of its confidence."""
    settings = AnswerSettings(max_tokens=10, token_events=True, alternatives=2)
    return [Told(fact, answer) for fact, answer in zip(known, gathered(answerer, known, settings), strict=True)]


def gathered(answerer: Answerer, known: Sequence[Planted], settings: AnswerSettings) -> list[Answer]:
    async def all_of_them() -> list[Answer]:
        some = asyncio.Semaphore(AT_ONCE)

        async def one(fact: Planted) -> Answer:
            async with some:
                return await collect(answerer.answer(fact.asked, settings))

        return list(await asyncio.gather(*(one(fact) for fact in known)))

    return asyncio.run(all_of_them())


def measured(answerer: Answerer, told: Sequence[Told], measure: Measure) -> list[float | None]:
    """The measure's number for each answer."""

    async def all_of_them() -> list[float | None]:
        some = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, each: Told) -> float | None:
            settings = AnswerSettings(max_tokens=10, seed=number)
            async with some:
                return await measure.value(Asked(answerer, each.fact.asked, settings, each.answer))

        return list(await asyncio.gather(*(one(number, each) for number, each in enumerate(told))))

    return asyncio.run(all_of_them())
