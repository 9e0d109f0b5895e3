"""Arms for tests of the weighing: answerers that calculate, and are wrong as often as their name says.

The answer depends on the question, the arm's skill and (when sampled) the seed, so everything repeats exactly.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from steelyard.core import recipe as recipes
from steelyard.core.errors import SteelyardError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import Done, Failure, Message, Score, Text, Usage
from steelyard.core.seeds import derive
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.cells.checks import is_defect


def luck(*keys: object) -> float:
    return derive(*keys) / 2**63


class Calculator:
    """Right on `skill` of the questions. `noise`: share of sampled answers that chance decides."""

    capabilities = frozenset({"score"})

    def __init__(self, skill: float, *, noise: float = 0.3, fails: float = 0.0, restless: bool = False, name: str = ""):
        self.skill, self.noise, self.fails, self.restless, self.name = skill, noise, fails, restless, name
        self.asked: list[str] = []

    @property
    def fingerprint(self) -> str:
        return digest(["calculator", self.skill, self.noise, self.fails, self.name])

    def right(self, question: str, sampled: bool, seed: int) -> bool:
        if sampled and luck("chance", question, seed) < self.noise:
            return luck("sampled", question, seed) < self.skill
        return luck("skill", question) < self.skill

    async def answer(self, conversation, settings):
        question = conversation[-1].content
        self.asked.append(question)
        await asyncio.sleep(0)
        if luck("fails", question) < self.fails:
            raise ValueError("the abacus fell down")
        if self.skill < 0:
            yield Failure("nobody is there")
            yield Done("error")
            return
        expected = calculated(question)
        right = self.right(question, settings.temperature > 0, settings.seed)
        yield Text(str(expected if right else expected + 1) + " " * len(self.asked) * self.restless)
        yield Usage(10, 2)
        yield Done("stop")

    async def score(self, conversation, continuations):
        question = conversation[-1].content
        best = 0 if self.right(question, False, 0) else 1
        return [Score(-1.0 if i == best else -5.0, False, 1, len(text.encode())) for i, text in enumerate(continuations)]


class Silent(Calculator):
    """Has no probabilities."""

    capabilities = frozenset()


def calculated(question: str) -> int:
    total, sign = 0, "+"
    for part in re.findall(r"-?\d+|[+-]", question):
        if part in "+-":
            sign = part
        else:
            total += int(part) if sign == "+" else -int(part)
    return total


class Bench:
    """Opens arms by what their source is called: `skill-80` is right on 80 %, `fails-10` breaks on 10 %, and so on."""

    def __init__(self, **options):
        self.options, self.opened, self.open_now = options, [], 0

    def find(self, arm):
        if Path(arm.source.name).name.startswith("nowhere"):
            raise SteelyardError(f"nothing is called `{Path(arm.source.name).name}`", where=f"arm `{arm.name}`")

    def open(self, arm, seed=None, *, deterministic=True):
        assert self.open_now == 0, "one engine at a time"
        self.open_now += 1
        name = Path(arm.source.name).name
        kind, _, amount = name.partition("-")
        if kind == "broken":
            self.open_now -= 1
            raise RuntimeError("the lever came off") if amount == "crash" else SteelyardError("the weights are not numbers", where=name)
        share = int(amount.split("-")[0] or 0) / 100
        build = {
            "skill": lambda: Calculator(share, **self.options),
            "fails": lambda: Calculator(0.8, fails=share),
            "absent": lambda: Calculator(-1.0),
            "silent": lambda: Silent(share),
            "twin": lambda: Calculator(share, name="twin", **self.options),
            "seeded": lambda: Calculator(share + 0.02 * ((seed or 0) % 5), name=str(seed)),
        }[kind]
        answerer = build()
        if is_defect(arm):
            answerer = Calculator(answerer.skill / 4, name="defect")
        self.opened.append((arm.name, answerer))

        def closing():
            self.open_now -= 1

        read = (
            None
            if kind == "silent"
            else lambda texts: [Score(-float(len(t)) * (1.5 - share), False, len(t), len(t.encode())) for _, t in texts]
        )
        return OpenArm(arm.name, answerer, answerer.fingerprint, slots=4, read=read, read_fingerprint=f"reads-{share}", closing=closing)

    def close(self):
        pass


def recipe(base="skill-70", arms=None, problems=60, **changes):
    value = {
        "base": base,
        "arms": {name: {"base": source} for name, source in (arms or {}).items()},
        "tasks": [{"arithmetic": {"problems": problems}}],
        "axes": ["quality", "format", "repeatability", "diversity"],
        "seed": 7,
    }  # a change to None leaves the key out
    return recipes.from_mapping({key: item for key, item in (value | changes).items() if item is not None}, name="test")


def user(text):
    return (Message("user", text),)
