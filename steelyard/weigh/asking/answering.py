"""Putting samples to an arm and keeping what comes back, with the arm's slots full and nothing asked twice.

A sample whose execution fails is recorded as failed, with the reason, and the rest goes on. Failures are tried again by the
next run over the same directory: a server that was away may be back, and an answer that fails by its nature fails again.
Samples are begun in order, and those that were begun are waited for: where asking stops early, the first ones are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import cast

from steelyard.augment.answerers import Crossing
from steelyard.core.asynchrony import run_to_end
from steelyard.core.errors import SpendError, SteelyardError
from steelyard.core.protocols import Answer, AnswerSettings, Event, Score, ScoringAnswerer, collect
from steelyard.core.seeds import derive
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.asking.subjects import BASE
from steelyard.weigh.records import Key, Records, key_of
from steelyard.weigh.tasks.task import Ask, Choose, Continue, Output, Read, Sample

TOGETHER = 8  # raw texts per slot that are scored in one call: the more, the more of them begin alike and the less the slots wait
RAW = (Continue, Read)
"""Requests that the engine answers below whatever wraps it."""


class GoneError(SteelyardError):
    """Whoever answers is gone. No sample is to blame for it, so none is recorded as failed."""


def obstacle(arm: OpenArm, samples: Sequence[Sample]) -> str | None:
    """Why an arm cannot be asked these samples at all, or None."""
    kinds, who = {type(sample.request) for sample in samples}, "the base" if arm.name == BASE else "this arm"
    if kinds - {Ask}:
        arm.learn()
    if Choose in kinds and not ("score" in arm.answerer.capabilities and callable(getattr(arm.answerer, "score", None))):
        return f"{who} does not tell log-probabilities"
    if arm.engine is None and not arm.goes_on and any(_raw(sample) for sample in samples):
        return f"{who} cannot go on with raw text"
    if kinds & {Read, Continue} and arm.read is None or arm.roll is None and any(_rolling(sample) for sample in samples):
        return f"{who} cannot score raw text"
    return None


def key_for(arm: OpenArm, task: str, sample: Sample, seed: int, trial: int = 0) -> Key:
    """The key of a sample's record. Raw text belongs to the engine, whatever wraps it."""
    below = isinstance(sample.request, RAW) or _raw(sample)
    return key_of(arm.read_fingerprint if below else arm.fingerprint, task, sample, seed, trial)


def _raw(sample: Sample) -> bool:
    return isinstance(sample.request, Ask) and sample.request.raw


def _rolling(sample: Sample) -> bool:
    return isinstance(sample.request, Read) and sample.request.rolling


def answer_all(
    arm: OpenArm,
    task: str,
    samples: Sequence[Sample],
    records: Records,
    *,
    seed: int,
    trial: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Output]:
    """The arm's output for each sample, in order: from the records where they have it, else asked now and recorded.

    Args:
        arm: what is asked.
        task: the task's name, for the key.
        samples: what is asked.
        records: where outputs are kept.
        seed: of the recipe; sampled answers draw from it, the sample's id and the trial.
        trial: number of the repetition.
        progress: told (done, total) after each answer.
        stop: asked before each sample; once it says yes, nothing more is begun.

    Returns:
        The outputs of all samples, or, where it was stopped, of the first ones: as many as are there without a gap.

    Raises:
        SpendError: the next request might cost more than may be spent. What was recorded stays.
    """
    outputs: dict[int, Output] = {}
    for position, sample in enumerate(samples):
        found = records.get(key_for(arm, task, sample, seed, trial))
        if found is not None:
            outputs[position] = found
    missing = [position for position in range(len(samples)) if position not in outputs or outputs[position].failure is not None]
    done = itertools.count(len(samples) - len(missing))
    progress(next(done), len(samples))

    def keep(position: int, output: Output) -> None:
        outputs[position] = output
        records.put(key_for(arm, task, samples[position], seed, trial), output)
        progress(next(done), len(samples))

    if missing:
        run_to_end(_answer_missing(arm, samples, missing, seed, trial, keep, stop))
    there = itertools.takewhile(outputs.__contains__, range(len(samples)))
    return [outputs[position] for position in there]


async def _answer_missing(
    arm: OpenArm,
    samples: Sequence[Sample],
    missing: Sequence[int],
    seed: int,
    trial: int,
    keep: Callable[[int, Output], None],
    stop: Callable[[], bool],
) -> None:
    texts = [position for position in missing if isinstance(samples[position].request, RAW)]
    for start in range(0, len(texts), TOGETHER * arm.slots):
        if stop():
            return
        chunk = texts[start : start + TOGETHER * arm.slots]
        for position, output in zip(chunk, await asyncio.to_thread(_read, arm, [samples[i] for i in chunk]), strict=True):
            keep(position, output)
    waiting = iter([position for position in missing if not isinstance(samples[position].request, RAW)])
    refused: list[SpendError] = []

    async def work() -> None:
        for position in waiting:
            if refused or stop():
                return
            try:
                output = await answer_one(arm, samples[position], seed, trial)
            except SpendError as error:  # answers under way are paid for: they are waited for
                refused.append(error)
                return
            keep(position, output)

    await asyncio.gather(*(work() for _ in range(arm.ahead * arm.slots)))
    if refused:
        raise refused[0]


def _read(arm: OpenArm, samples: Sequence[Sample]) -> list[Output]:
    """Scores raw texts together; if one of them is refused, one by one, so that only that one fails."""
    begun = time.perf_counter()
    try:
        scores = _scored(arm, [sample.request for sample in samples])  # type: ignore[misc]
    except (SpendError, GoneError):
        raise
    except Exception as error:  # see `answer_one`
        if len(samples) > 1:
            return [_read(arm, [sample])[0] for sample in samples]
        return [Output(failure=reason_of(error), seconds=time.perf_counter() - begun)]
    seconds = (time.perf_counter() - begun) / len(samples)
    return [_checked(Output(scores=tuple(each), seconds=seconds)) for each in scores]


def _scored(arm: OpenArm, requests: Sequence[Continue | Read]) -> list[list[Score]]:
    """The scores of each request, those of a kind computed in one call."""
    assert arm.read is not None  # `obstacle` has been asked
    out: list[list[Score]] = [[] for _ in requests]
    for cut in (False, True):
        of = [i for i, request in enumerate(requests) if isinstance(request, Continue) and request.cut is cut]
        of += [i for i, request in enumerate(requests) if isinstance(request, Read) and not (request.rolling or cut)]
        pairs = [(i, pair) for i in of for pair in _pairs(requests[i])]
        if pairs:
            texts = [pair for _, pair in pairs]
            for (i, _), score in zip(pairs, arm.read(texts, cut=True) if cut else arm.read(texts), strict=True):
                out[i].append(score)
    if rolled := [i for i, request in enumerate(requests) if isinstance(request, Read) and request.rolling]:
        assert arm.roll is not None
        for i, score in zip(rolled, arm.roll([requests[i].text for i in rolled]), strict=True):
            out[i].append(score)
    return out


def _pairs(request: Continue | Read) -> list[tuple[str, str]]:
    return request.pairs if isinstance(request, Continue) else [(request.before, request.text)]


async def answer_one(arm: OpenArm, sample: Sample, seed: int, trial: int) -> Output:
    """One sample put to an arm."""
    begun, request = time.perf_counter(), sample.request
    if arm.ask is not None:
        return await arm.ask(sample, seed, trial)
    try:
        if isinstance(request, Choose):
            scores = await cast(ScoringAnswerer, arm.answerer).score(request.conversation, request.continuations)
            return _checked(Output(scores=tuple(scores), seconds=time.perf_counter() - begun))
        assert isinstance(request, Ask)
        settings = _settings(request.settings, arm, derive(seed, sample.id, trial))
        answer = await collect(_gone_on(arm, request, settings) if request.raw else arm.answerer.answer(request.conversation, settings))
    except SpendError:
        raise
    except Exception as error:  # an arm is made of anybody's levers; whatever one sample breaks must not sink the others
        return Output(failure=reason_of(error), seconds=time.perf_counter() - begun)
    return _checked(_output(answer, time.perf_counter() - begun))


async def _gone_on(arm: OpenArm, request: Ask, settings: AnswerSettings) -> AsyncGenerator[Event]:
    """The engine's events as it goes on with a raw text."""
    assert arm.engine is not None  # `obstacle` has been asked
    crossing = Crossing()
    going = arm.engine.submit(request.conversation[-1].content, settings, crossing.on_event)
    async with contextlib.aclosing(crossing.events(going.cancel)) as events:
        async for event in events:
            yield event


def _settings(settings: AnswerSettings, arm: OpenArm, seed: int) -> AnswerSettings:
    """A sample's settings with its own seed, and with confidences where the arm has them (an endpoint may: it is asked)."""
    return dataclasses.replace(settings, seed=seed, token_events=not arm.answerer.capabilities.isdisjoint({"logprobs", "remote"}))


def _output(answer: Answer, seconds: float) -> Output:
    failure = answer.failure or ("the answer broke off" if answer.reason in ("error", "cancelled") else None)
    return Output(
        text=answer.text or "\n".join(f"{call.name}({call.arguments})" for call in answer.calls),  # an endpoint leaves them out of it
        tokens=tuple(answer.tokens),
        citations=tuple(answer.citations),
        usage=answer.usage,
        reason=answer.reason,
        seconds=seconds,
        failure=failure,
        confidence=answer.confidence,
        model=answer.model,
        calls=tuple(dataclasses.replace(call, id="") for call in answer.calls),
    )


def _checked(output: Output) -> Output:
    """A model with broken weights gives numbers that are none; that is a failure, not a score."""
    numbers = [score.logprob for score in output.scores] + [token.logprob for token in output.tokens]
    if output.failure is None and any(math.isnan(number) for number in numbers):
        return dataclasses.replace(output, failure="the model gave not-a-number")
    return output


def reason_of(error: Exception) -> str:
    """Why something failed, in one line for a record or a report."""
    return str(error) if isinstance(error, SteelyardError) else f"{type(error).__name__}: {error}"
