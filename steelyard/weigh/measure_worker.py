"""One arm in a process of its own, answering a few prompts at a time while it is metered.

`python -m steelyard.weigh.measure_worker DIRECTORY ARM` opens the arm of `DIRECTORY/recipe.resolved.yaml`, says so in one line of
JSON, then answers one line per line it is sent, until its input ends. The engine is not deterministic here: what is measured is
how the arm would run for people. Whatever libraries print goes to standard error, so that the lines stay clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from steelyard.augment.endpoint import EndpointAnswerer
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.meters import Meter, memory, money
from steelyard.core.meters.energy import Idle, idle_power
from steelyard.core.protocols import Answerer, AnswerSettings, Done, Failure, Message, Text, Token, Usage
from steelyard.core.recipe import Arm, EndpointSource, read
from steelyard.core.run import Run
from steelyard.model.released import release
from steelyard.weigh.asking.arms import ArmOpener, OpenArm
from steelyard.weigh.directory import RECIPE

AT_ONCE = 0.01
"""Share of an answer's time within which tokens come from elsewhere that were not told one by one: a server or a proxy held them back."""


def as_it_comes(answerer: Answerer) -> None:
    """Has an endpoint's answers passed on as they come. Elsewhere they are kept until they are whole, so that one that breaks off can
    be asked for again: no clock could then tell when its tokens came."""
    inner: Answerer | None = answerer
    while inner is not None and not isinstance(inner, EndpointAnswerer):
        inner = getattr(inner, "inner", None)
    if inner is not None:
        inner.requests.whole = False


async def timed_answer(arm: OpenArm, conversation: list[Message], max_tokens: int) -> dict[str, Any]:
    """One answer with its clock readings: seconds to the first token, gaps between tokens, tokens read and written. A model of ours that
    ends at once, as one trained for minutes may, is timed past the end it wanted.

    Raises:
        SteelyardError: the answer failed or was empty, so there is nothing to time.
    """
    settings = AnswerSettings(max_tokens=max_tokens, token_events="logprobs" in arm.answerer.capabilities)
    timed = await _timed(arm, conversation, settings)
    if timed is None and arm.engine is not None:
        with contextlib.suppress(UnsupportedError):  # a constraint: where its form is complete nothing can follow
            timed = await _timed(arm, conversation, dataclasses.replace(settings, ignore_eos=True))
    if timed is None:
        raise SteelyardError("the answer was empty, so it has no speed", where=f"arm `{arm.name}`")
    return timed


async def _timed(arm: OpenArm, conversation: list[Message], settings: AnswerSettings) -> dict[str, Any] | None:
    """The same, or None of an answer that was empty."""
    begun, moments, texts, usage = time.perf_counter(), [], [], None
    async for event in arm.answerer.answer(conversation, settings):
        now = time.perf_counter() - begun
        match event:
            case Token():
                moments.append(now)
            case Text(text) if text:
                texts.append(now)
            case Usage():
                usage = event
            case Failure(message):
                raise SteelyardError(message, where=f"arm `{arm.name}`")
            case Done():
                break
    moments = moments or texts
    if not moments:
        return None
    tokens = usage.completion_tokens if usage else len(moments)
    if arm.engine is not None:
        at_once = arm.engine.spec.search is not None
    else:
        at_once = tokens > 1 and moments[-1] - moments[0] < AT_ONCE * moments[-1]
    if at_once:  # told at the end: the whole of it was the decoding
        return {
            "first_token": moments[0],
            "gaps": [],
            "decode_seconds": moments[-1],
            "decoded": tokens,
            "tokens": tokens,
            "prompt_tokens": usage.prompt_tokens if usage else 0,
        }
    return {
        "first_token": moments[0],
        "gaps": [after - before for before, after in zip(moments, moments[1:], strict=False)],
        "decode_seconds": moments[-1] - moments[0],
        "decoded": max(tokens - 1, 0),
        "tokens": tokens,
        "prompt_tokens": usage.prompt_tokens if usage else 0,
    }


def block(arm: OpenArm, conversations: list[list[Message]], max_tokens: int, paid: str | None, idle: Idle | None = None) -> dict[str, Any]:
    """Several answers one after the other, under one meter."""

    async def one_by_one() -> list[dict[str, Any]]:
        return [await timed_answer(arm, conversation, max_tokens) for conversation in conversations]

    with Meter(idle=idle) as meter:
        answers = asyncio.run(one_by_one())
    reading = dataclasses.asdict(meter.reading)
    if paid is not None:  # an endpoint: its tokens have a price, our waiting has none
        read, written = sum(a["prompt_tokens"] for a in answers), sum(a["tokens"] for a in answers)
        reading["money_low"] = reading["money_high"] = money.of_tokens(money.prices(), paid, read, written)
    return {"answers": answers, "reading": reading}


def serve(directory: Path, name: str, lines: IO[str], out: IO[str]) -> None:
    """Opens the arm and answers line after line."""

    def say(value: Mapping[str, Any]) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    try:
        recipe = read(directory / RECIPE)
        arm: Arm = recipe.arms[name]
        begun = time.perf_counter()
        opened = ArmOpener(Run(directory, recipe.seed, recipe.run.place)).open(
            arm, arm.seeds[0] if arm.seeds else None, deterministic=False
        )
        if opened.engine is not None:  # this process only answers: the floats that the engine was made from would count as its memory
            release(opened.engine.model, opened.engine.trunk)
            memory.hand_back()
        as_it_comes(opened.answerer)
        seconds = time.perf_counter() - begun
        idle = idle_power()  # nothing is asked of any arm yet
    except SteelyardError as error:
        return say({"error": str(error)})
    paid = arm.source.model if isinstance(arm.source, EndpointSource) else None
    say({"ready": True, "seconds": seconds, "weight_bytes": opened.weight_bytes, "resident": memory.resident(), "kernels": opened.kernels})
    for line in lines:
        asked = json.loads(line)
        conversations = [[Message(**turn) for turn in turns] for turns in asked["conversations"]]
        try:
            say(block(opened, conversations, asked["max_tokens"], paid, idle))
        except SteelyardError as error:
            say({"error": str(error)})
    opened.close()


def main() -> None:
    """Keeps the real standard output for the lines and sends everything else that is printed to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Path(sys.argv[1]), sys.argv[2], sys.stdin, lines)


if __name__ == "__main__":
    main()
