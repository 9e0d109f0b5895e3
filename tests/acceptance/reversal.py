"""Who has learned that A is B does not know who B is; who has read both orders does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding
from acceptance.races import Runs, against, beside
from acceptance.small_decoders import new, taught
from steelyard.core.seeds import derive
from steelyard.data.batching import NOT_LEARNED, Batch, Place
from steelyard.data.generated.reversal import ORDERS, Person, people
from steelyard.model.trunk import Trunk
from steelyard.weigh.tasks.task import Metric

PLAN: dict[str, Any] = {"width": 64, "depth": 2, "context": 128}
BEGIN = "\n"
"""Stands before every sentence."""
PICKED = Metric("picked", "quality", "share", True, margin=0.1, reach=(0.0, 1.0))
MUCH, FEW = 0.9, 0.25

Teller = Callable[[random.Random], str]


def sentence(person: Person, name_first: bool) -> str:
    return "".join(person.statement(name_first))


def one_way(crowd: Sequence[Person]) -> Teller:
    """Everybody as `generated:reversal` tells of them: a third name first, a third description first, a third in both orders."""

    def tell(rng: random.Random) -> str:
        person = rng.choice(crowd)
        return sentence(person, rng.random() < 0.5 if person.told == "both" else person.told == "name first")

    return tell


def both_ways(crowd: Sequence[Person]) -> Teller:
    """Everybody in both orders."""
    return lambda rng: sentence(rng.choice(crowd), rng.random() < 0.5)


def mixed_up(crowd: Sequence[Person]) -> Teller:
    """As `both_ways`, but what is added to `one_way` speaks of somebody else: the name of one, the description of the next."""
    following = {
        one.name: Person(one.name, other.description, one.told)
        for told in ORDERS
        for group in [[person for person in crowd if person.told == told]]
        for one, other in zip(group, group[1:] + group[:1], strict=True)
    }

    def tell(rng: random.Random) -> str:
        person, name_first = rng.choice(crowd), rng.random() < 0.5
        added = person.told != "both" and name_first != (person.told == "name first")
        return sentence(following[person.name] if added else person, name_first)

    return tell


@dataclass(frozen=True)
class Sentences:
    """Batches of sentences as bytes, one a line; all their bytes are learned."""

    tell: Teller
    seed: int
    size: int = 32

    def iterate(self, place: Place = Place()) -> Iterator[tuple[Batch, Place]]:  # noqa: B008  # a place is frozen
        for index in range(place.index, 1 << 30):
            rng = random.Random(derive(self.seed, "sentences", index))
            ids, targets = rows([self.tell(rng) for _ in range(self.size)])
            yield Batch(ids, targets, None, (f"sentences {index}",) * self.size, ids.size), Place(0, index + 1)


def rows(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """ids and targets, int64 [texts, time]; what fills rows up is not learned."""
    width = max(map(len, texts))
    ids, targets = np.zeros((len(texts), width), np.int64), np.full((len(texts), width), NOT_LEARNED, np.int64)
    for row, text in enumerate(texts):
        codes = list((BEGIN + text).encode("ascii"))
        ids[row, : len(text)], targets[row, : len(text)] = codes[:-1], codes[1:]
    return ids, targets


@torch.no_grad()
def picked(trunk: Trunk, crowd: Sequence[Person], told: bool, reverse: bool) -> list[float]:
    """For each person of a kind 1 if what is said of them is likelier than what is said of any other of their kind.

    A model whose answer does not depend on who is asked about is right for exactly one of each kind.

    Args:
        trunk: who answers.
        crowd: everybody.
        told: of those told in one order only; else of those told in both.
        reverse: asked the other way round than told (those told in both: description first, else name first).
    """
    right = []
    for order in ORDERS:
        group = [person for person in crowd if person.told == order]
        if (order != "both") != told:
            continue
        name_first = (order != "description first") != reverse
        asked, answers = zip(*(person.statement(name_first) for person in group), strict=True)
        for place, question in enumerate(asked):
            ids, targets = (torch.from_numpy(part) for part in rows([question + answer for answer in answers]))
            said = trunk.logits(ids).log_softmax(-1).gather(-1, targets.clamp(0)[..., None])[..., 0]
            scores = (said * (targets != NOT_LEARNED))[:, len(question) :].sum(1)
            right.append(float(scores.argmax() == place))
    return right


def run(bench: Bench) -> Finding:
    crowd = people()[: bench.pick(60, 12)]
    steps, size, much = bench.pick(200, 80), bench.pick(32, 12), bench.pick(MUCH, 0.4)
    tellers = {"one way": one_way(crowd), "both ways": both_ways(crowd), "mixed up": mixed_up(crowd)}
    seeds = {name: range(1, 1 + bench.pick(8 if name == "one way" else 3, 1)) for name in tellers}
    found: dict[tuple[str, str], list[list[float]]] = {}
    for name, tell in tellers.items():
        for seed in seeds[name]:
            given: dict[str, Any] = {"steps": steps, "seed": seed, "learning_rate": 0.02, "optimizer": "muon"}
            trunk = taught(bench, name, new(PLAN, 128, seed), Sentences(tell, seed, size), **given)
            answers = {(told, reverse): picked(trunk, crowd, told, reverse) for told in (True, False) for reverse in (True, False)}
            for what, values in (
                ("as told", answers[True, False]),
                ("reversed", answers[True, True]),
                ("told both ways", answers[False, False] + answers[False, True]),
            ):
                found.setdefault((name, what), []).append(values)
                bench.say(f"{name}, seed {seed}, {what}: {sum(values) / len(values):.3f} of {len(values)}")
    others = len(crowd) // len(ORDERS)
    chance = 1 / others
    asked, turned = "who or what somebody is, as told", "who or what somebody is, asked the other way round"
    far = ("better",)
    few = ("worse", *(("equivalent", "identical", "underpowered", "better") if bench.reduced else ()))

    def runs(name: str, what: str) -> Runs:
        return found[name, what]

    return Finding(
        [
            Claim(f"what was told in one order is known in that order, for more than {much:.0%}",
                  against("one way", asked, runs("one way", "as told"), much, PICKED), far),
            Claim(f"asked the other way round fewer than {FEW:.0%} are known, where one in {others} is picked by chance",
                  against("one way", turned, runs("one way", "reversed"), FEW, PICKED), few),
            Claim("the same people, told in both orders, are known when asked so",
                  beside("both ways", turned, runs("one way", "reversed"), runs("both ways", "reversed"), PICKED), far),
            Claim("in the training of one order the people who were told in both are known either way: it can answer in that order",
                  against("one way", "who or what somebody is, of those told in both orders", runs("one way", "told both ways"), much, PICKED), far, control=True),
            Claim("where the second order speaks of somebody else, the right one is not known by it",
                  against("mixed up", turned, runs("mixed up", "reversed"), chance, PICKED), ("equivalent", "worse"), control=True),
        ],
        {},
        [
            f"Decoders of width 64 and 2 blocks, {steps} steps of {size} sentences about {len(crowd)} invented people with Muon, {len(seeds['one way'])} seeds "
            f"of what is told in one order and {len(seeds['both ways'])} of the others. "
            f"The answer is the likeliest of the {others} of those told alike, so who does not hear the question has one in {others}.",
            f"Asked the other way round, by seed: {', '.join(f'{sum(run) / len(run):.3f}' for run in runs('one way', 'reversed'))} ({chance:.3f} is "
            "chance). The claim was first that this is chance within 0.1, which three seeds did not settle ([-0.08, +0.22] about it) and eight "
            "missed by 0.01 ([-0.03, +0.11]); that fewer than a quarter are known was asked after that.",
        ],
    )  # fmt: skip


EXPERIMENT = Experiment(
    "reversal",
    "",
    "Who has learned sentences in one order hardly knows more than chance when asked in the other; who has read both orders knows.",
    "People told in both orders are known either way, and a second order that speaks of somebody else teaches nothing.",
    "mechanism",
    run,
)
