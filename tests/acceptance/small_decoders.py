"""Decoders of a few hundred thousand parameters, trained on the spot: on exercises over distances, or on Python's own library."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.batching import NOT_LEARNED, Batch, Place
from steelyard.data.generated.long_range import CHARACTERS, Exercise, make_exercise
from steelyard.data.texts.opening import open_texts
from steelyard.data.token_file import TokenFile, write_tokens
from steelyard.data.tokenizer_training import train_tokenizer
from steelyard.data.windows import Windows
from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.train.objectives import Objective, next_token_loss
from steelyard.train.trainer import Stream, TrainerSettings, train

if TYPE_CHECKING:
    from acceptance.experiment import Bench  # who runs these alone, in a process of its own, need not wait for all of the balance

VOCABULARY = len(CHARACTERS) + 1
"""The characters of exercises; 0 is padding."""


@dataclass(frozen=True)
class Exercises:
    """An endless stream of batches of fresh exercises of a kind. Each batch has lines of one of the lengths, in turn.

    `make(kind, rng, length)` gives one; other kinds than the package's have a maker of their own.
    """

    kind: str
    lengths: tuple[int, ...]
    size: int = 32
    seed: int = 0
    make: Callable[[str, random.Random, int], Exercise] = make_exercise

    def iterate(self, place: Place = Place()) -> Iterator[tuple[Batch, Place]]:  # noqa: B008  # a place is frozen
        index = place.index
        while True:
            yield self.batch(index), Place(0, index + 1)
            index += 1

    def batch(self, index: int) -> Batch:
        """Ids and targets of int64 [size, time]; only what is determined is learned."""
        rng = random.Random(derive(self.seed, "exercises", self.kind, index))
        length = self.lengths[rng.randrange(len(self.lengths))]
        made = [self.make(self.kind, rng, length) for _ in range(self.size)]
        width = max(len(one.text) for one in made)
        ids = np.zeros((self.size, width), np.int64)
        targets = np.full((self.size, width), NOT_LEARNED, np.int64)
        for row, one in enumerate(made):
            codes = [1 + CHARACTERS.index(character) for character in one.text]
            ids[row, : len(codes)] = codes
            targets[row, [place - 1 for place in one.known]] = [codes[place] for place in one.known]
        ids[:, -1] = 0  # the last character is nobody's past
        return Batch(ids, targets, None, (f"{self.kind} {index}",) * self.size, self.size * width)


def new(plan: Mapping[str, Any], vocabulary: int, seed: int) -> Trunk:
    """A trunk with fresh weights."""
    decoder = DecoderPlan.model_validate(plan)
    return initialize(decoder.trunk(vocabulary).build(), decoder, seed)


def taught(
    bench: Bench,
    name: str,
    trunk: Trunk,
    stream: Stream,
    *,
    steps: int,
    seed: int,
    learning_rate: float = 2e-3,
    objective: Callable[[Trunk], Objective] = next_token_loss,
    **settings: Any,
) -> Trunk:
    """The trunk, trained in place by the one trainer there is."""
    folder = bench.directory / f"{name}-{seed}"
    assert not folder.exists(), f"{folder} holds another training, which would be gone on with: give this one its own name"
    run = Run(folder, seed, say=lambda line: None)
    told = TrainerSettings(
        steps=steps, learning_rate=learning_rate, **{"warmup": 0.05, "weight_decay": 0.01, "betas": (0.9, 0.98)} | settings
    )
    progress = train(trunk.requires_grad_(True), objective(trunk), stream, told, run, name=name)
    bench.say(f"{name}, seed {seed}: loss {progress.loss:.3f} after {progress.step} steps, {progress.seconds:.0f} s")
    return trunk.eval()


@torch.no_grad()
def shares(trunk: Trunk, batch: Batch, step: Step | None = None) -> list[float]:
    """For each line, the share of its determined characters that are predicted. `step` receives what the trunk leaves in its call."""
    ids, targets = torch.from_numpy(batch.ids), torch.from_numpy(batch.targets)
    asked = targets != NOT_LEARNED
    right = (trunk.logits(ids, step).argmax(-1) == targets) & asked
    return (right.sum(1) / asked.sum(1)).tolist()


def library(bench: Bench, documents: int) -> tuple[TokenFile, TokenFile]:
    """Bytes of Python's standard library on this machine: (to learn, kept aside)."""
    tokens = write_tokens(open_texts("python", limit=documents), train_tokenizer("bytes", (), None, ()), Path(bench.directory) / "tokens")
    return tokens.split(0.1)


def reading(tokens: TokenFile, seed: int, *, size: int = 16, time: int = 96) -> Windows:
    """Random windows of it, for ever."""
    return Windows(tokens, size, time, seed, order="random")


@torch.no_grad()
def bits(trunk: Trunk, tokens: TokenFile, windows: int, time: int = 96) -> list[float]:
    """Bits per byte in each of the first windows of a text."""
    batch = Windows(tokens, windows, time, order="sequential").batch(0, 0)
    ids, targets = torch.from_numpy(batch.ids), torch.from_numpy(batch.targets)
    step = Step.whole(*ids.shape, ids.device)
    logprobs = trunk.logits(ids, step).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    return (-logprobs.mean(1) / np.log(2)).tolist()


def saved(forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass, weights not counted; what is kept twice counts once."""
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = forward()
    del out
    return sum(seen.values())
