"""Typical sampling: words come nearer the surprise the model expects; its opposite takes them further away."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from acceptance.stories import written
from steelyard.generate.engine import Completion
from steelyard.generate.processor import SHAPE, FunctionProcessor
from steelyard.generate.processors.typical import Typical
from steelyard.generate.sampling import cutoff
from steelyard.generate.spec import EngineSpec
from steelyard.weigh.tasks.task import Metric

DISTANCE = Metric("distance_from_entropy", "quality", "nats/token", False, margin=0.02)
SURPRISE = Metric("nats_per_token", "quality", "nats/token", False, margin=0.02)
WHAT = "made-up stories"


class Atypical(Typical):
    """The control: the same mass, filled from the other end, with the tokens furthest from the entropy."""

    def decode(self, spec: EngineSpec) -> EngineSpec:
        return replace(spec, processors=(*spec.processors, Furthest(self.mass)))


@dataclass(frozen=True)
class Furthest:
    mass: float
    order = SHAPE
    fingerprint = "furthest"

    def start(self, settings):
        return FunctionProcessor(self.shape).start(settings)

    def shape(self, tokens: list[int], logits: torch.Tensor) -> torch.Tensor:
        logprobs = torch.log_softmax(logits, -1)
        distance = (logprobs + torch.special.entr(logprobs.exp()).sum()).abs()
        return torch.where(distance >= cutoff(distance, logprobs.exp(), self.mass), logits, float("-inf"))


def distance(story: Completion) -> float:
    """Mean distance of a word's surprise from the entropy at its place, both under the unfiltered distribution: nats."""
    return sum(abs(-token.logprob - token.entropy) for token in story.tokens) / len(story.tokens)


def surprise(story: Completion) -> float:
    return -sum(story.logprobs) / len(story.logprobs)


def run(bench: Bench) -> Finding:
    lever, narrow = Typical(), Typical(mass=0.2)
    arms = {"plain": None, "narrow": narrow, "atypical": Atypical(mass=0.2), "off": Typical(mass=1.0)}
    # What mass 0.95 changes is too little to be judged on the reduced form's few words.
    arms |= {} if bench.reduced else {"typical": lever}
    count = bench.pick(32, 12)
    _, stories = written(bench, arms, count, bench.pick(120, 16))
    far = {arm: [distance(story) for story in each] for arm, each in stories.items()}
    nats = {arm: [surprise(story) for story in each] for arm, each in stories.items()}
    same = sum(off.text == plain.text for off, plain in zip(stories["off"], stories["plain"], strict=True))
    wide = [] if bench.reduced else [
        Claim("words come nearer the entropy with mass 0.95", compared("typical", WHAT, DISTANCE, far["plain"], far["typical"]), ("better",)),
        Claim("and these stories are likelier under the model", compared("typical", WHAT, SURPRISE, nats["plain"], nats["typical"]), ("better",)),
        Claim("mass 0.2 goes further than 0.95", compared("narrow", WHAT, DISTANCE, far["typical"], far["narrow"]), ("better",)),
    ]  # fmt: skip
    return Finding(
        [
            *wide,
            Claim(
                "words come nearer the entropy with mass 0.2", compared("narrow", WHAT, DISTANCE, far["plain"], far["narrow"]), ("better",)
            ),
            Claim(
                "the set filled from the other end takes words further away",
                compared("atypical", WHAT, DISTANCE, far["plain"], far["atypical"]),
                ("worse",),
                control=True,
            ),
            Claim(
                "with mass 1 no story changes",
                counted("off", WHAT, "same text", same, count, "identical" if same == count else "worse"),
                ("identical",),
                control=True,
            ),
        ],
        {"typical": [lever], "narrow": [narrow]},
        notes=("Nothing is said here of how people like the stories: the paper asked people, this experiment asks the model.",),
    )


EXPERIMENT = Experiment(
    "typical",
    "typical",
    "Sampling from the typical set draws words whose surprise lies nearer the entropy, the more so the smaller the set.",
    "A set of the same mass filled from the other end must take words further away, and a mass of 1 must change nothing.",
    "real model",
    run,
    needs=("smollm",),
)
