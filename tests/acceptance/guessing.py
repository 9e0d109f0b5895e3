"""What the experiments about guessing models share: the same text, the same distribution, fewer passes, and faults that are caught."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from unittest import mock

import scipy.stats
import torch
from torch import Tensor

from acceptance.experiment import Bench, Claim, Finding, compared, counted
from acceptance.prompt_lookup import PASSES, caught, differing, quoting
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings, Done
from steelyard.core.seeds import derive
from steelyard.generate import rejection
from steelyard.generate.engine import Engine
from steelyard.generate.processor import FunctionProcessor
from steelyard.generate.sampling import filtered
from steelyard.generate.sequences import Generation
from steelyard.generate.spec import EngineSpec
from steelyard.model.model import Model
from steelyard.weigh.report.report import Cell

FAIR = 1e-3
"""Chi-square's p-value below which a distribution counts as another one."""
OPENING = "The three travellers went"
WORDS = (" the", " and")
SHORT = AnswerSettings(max_tokens=5, temperature=2.0, ignore_eos=True)
"""Five draws between two words: 32 strings, all of whose probabilities can be written down. (A filter like top-k would cut elsewhere in
the engine's numerics than in the model's where two tokens are all but tied.)"""
SAVES_NOTHING = ("identical", "equivalent", "underpowered", "worse")


def requested(engine: Engine, prompts: list, settings: list[AnswerSettings]) -> list[Generation]:
    """Requests that have ended, with their counts of guesses."""
    waiting: list[tuple[Future[None], Generation]] = []
    for prompt, wanted in zip(prompts, settings, strict=True):
        ended: Future[None] = Future()
        heard = lambda event, ended=ended: ended.set_result(None) if isinstance(event, Done) else None  # noqa: E731
        waiting.append((ended, engine.submit(prompt, wanted, heard)))
    for ended, _ in waiting:
        ended.result()
    return [request for _, request in waiting]


@dataclass(frozen=True)
class OnlyWords:
    """A processor that rules out all other tokens."""

    words: tuple[int, ...]

    def __call__(self, tokens: list[int], logits: Tensor) -> Tensor:
        return torch.full_like(logits, -torch.inf).index_copy_(0, torch.tensor(self.words), logits[list(self.words)])


def only_words(model: Model) -> OnlyWords:
    return OnlyWords(tuple(model.tokenizer.encode(word)[0] for word in WORDS))  # type: ignore[union-attr]


def expected(model: Model) -> dict[tuple[int, ...], float]:
    """Every short string and how likely it is: whole sequences through the model, without the engine."""
    prompt = model.tokenizer.encode(OPENING)  # type: ignore[union-attr]
    strings: dict[tuple[int, ...], float] = {(): 1.0}
    only = only_words(model)
    for _ in range(SHORT.max_tokens):
        rows = model.logits([[*prompt, *string] for string in strings])[:, -1]
        strings = {
            (*string, int(token)): share * float(chances[token])
            for (string, share), chances in zip(strings.items(), (filtered(only([], row), SHORT) for row in rows), strict=True)
            for token in chances.nonzero()[:, 0]
        }
    return strings


def fit(bench: Bench, name: str, engine: Engine, strings: dict[tuple[int, ...], float], samples: int) -> Cell:
    """Whether an engine says every short string as often as the model does."""
    settings = [replace(SHORT, seed=derive(bench.seed, "short", number) % 2**31) for number in range(samples)]
    prompt = engine.encode(OPENING)
    seen = Counter(tuple(request.generated) for request in requested(engine, [prompt] * samples, settings))
    often = [string for string, share in strings.items() if share * samples >= 5]
    pairs = [(seen[string], strings[string] * samples) for string in often]
    rest = samples - sum(count for count, _ in pairs), samples - sum(wanted for _, wanted in pairs)
    pairs += [rest] if rest[1] >= 5 else []
    statistic = sum((count - wanted) ** 2 / wanted for count, wanted in pairs)
    p = float(scipy.stats.chi2.sf(statistic, len(pairs) - 1))
    shared = round(sum(min(count, wanted) for count, wanted in pairs))
    bench.say(f"{name}: chi-square p = {p:.3g}")
    task = f"{len(strings)} short strings, {samples} answers"
    return counted(
        name, task, "overlap", shared, samples, "worse" if p < FAIR else "identical", note=f"chi-square, {len(pairs)} cells: p = {p:.3g}"
    )


@contextlib.contextmanager
def replaced_from_the_model_itself() -> Iterator[None]:
    """The fault of drawing from p at a rejection, not from max(0, p - q)."""
    with mock.patch.object(rejection, "left_over", lambda probabilities, guessed: probabilities):
        yield


def passes_of(bench: Bench, engine: Engine, count: int) -> tuple[list[tuple[float, float]], float]:
    """(passes, tokens) of each of some sampled answers, and the share of guesses that were right."""
    prompts = [engine.encode(quoting(random.Random(derive(bench.seed, "asked", number)), 2)) for number in range(count)]
    settings = [AnswerSettings(max_tokens=bench.pick(32, 12), temperature=0.7, seed=number, ignore_eos=True) for number in range(count)]
    requests = requested(engine, prompts, settings)
    right = sum(request.agreed for request in requests) / max(1, sum(request.guessed for request in requests))
    return [(float(request.passes), float(len(request.generated))) for request in requests], right


def finding(bench: Bench, model: Model, arm: str, lever: Lever, hopeless: Lever, what_is_hopeless: str) -> Finding:
    """The claims about one lever (`verify` at its default, rejection), and its controls."""
    spec = EngineSpec(model, deterministic=True, slots=4, context=512)
    coupled = lever.model_copy(update={"verify": "coupled"})
    batches, sampled, count = bench.pick(12, 1), bench.pick(6, 1), bench.pick(8, 1)
    strings, samples = expected(model), bench.pick(250, 12)
    with contextlib.ExitStack() as stack:
        plain, rejecting, coupling, lost = (
            stack.enter_context(Engine.from_spec(one.decode(spec) if one else spec))  # type: ignore[attr-defined]
            for one in (None, lever, coupled, hopeless)
        )
        moved = differing(bench, plain, coupling, batches)
        noticed = caught(bench, plain, coupling, sampled)
        base, _ = passes_of(bench, plain, count)
        guessed, right = passes_of(bench, rejecting, count)
        in_step, alike = passes_of(bench, coupling, count)
        in_vain, seldom = passes_of(bench, lost, count)
    two_words = replace(spec, processors=(FunctionProcessor(only_words(model)),))
    with Engine.from_spec(lever.decode(two_words)) as engine:  # type: ignore[attr-defined]
        fair = fit(bench, arm, engine, strings, samples)
    with Engine.from_spec(hopeless.decode(two_words)) as engine, replaced_from_the_model_itself():  # type: ignore[attr-defined]
        unfair = fit(bench, "wrong replacement", engine, strings, samples)
    task = "passages to be written again, sampled at 0.7"
    same = counted("coupled", f"{batches} random batches", "same text", batches - moved, batches, "worse" if moved else "identical")
    seen = counted("wrong keys", f"{sampled} sampled answers", "same text", sampled - noticed, sampled, "worse" if noticed else "identical")
    # Few samples cannot tell a fault: the reduced form only runs the code.
    telling = ("worse", "identical") if bench.reduced else ("worse",)
    return Finding(
        [
            Claim("verified by rejection, every short string is said as often as by plain decoding", fair, ("identical",)),
            Claim("verified coupled, text, tokens and endings equal plain decoding", same, ("identical",)),
            Claim("verified by rejection, fewer passes of the whole model", compared(arm, task, PASSES, base, guessed), ("better",)),
            Claim("verified coupled too", compared("coupled", task, PASSES, base, in_step), ("better",)),
            Claim("a replacement drawn from p, not from max(0, p - q), is caught", unfair, telling, control=True),
            Claim("wrong noise keys are caught by the comparison of texts", seen, telling, control=True),
            Claim(f"{what_is_hopeless} saves no passes", compared("hopeless", task, PASSES, base, in_vain), SAVES_NOTHING, control=True),
        ],
        {arm: [lever]},
        [f"Guesses that were right: {right:.2f} by rejection, {alike:.2f} coupled, {seldom:.2f} by the control."],
    )
