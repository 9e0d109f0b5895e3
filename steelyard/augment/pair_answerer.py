"""An encoder-decoder as an answerer: it reads the last message and writes a text about it, token by token.

The engine runs trunks that go on with one text; this one reads one text and writes another, so it answers by itself: one question at
a time, without a prefix cache, speculation or processors. Tokens are drawn as the engine draws them, from the same settings, seeds and
positions (the border stands at position 0). What was said before the last message is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import fields
from typing import Any

import torch

from steelyard.augment.answerers import Crossing
from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Conversation, Done, Event, Failure, Score, Text, Token, Usage
from steelyard.core.threads import apart
from steelyard.generate import sampling
from steelyard.generate.sequences import TextStream, said
from steelyard.model.encoder_decoder import EncoderDecoder, Writing
from steelyard.model.model import Model

logger = logging.getLogger(__name__)

REFUSED = frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty", "constraint", "logit_bias"})
"""Settings that only the engine follows."""
ONE_MESSAGE = "This model reads one message at a time: what was said before is not read."
TOGETHER = 16
"""Continuations that are scored at once."""


class PairAnswerer:
    """Satisfies `core.protocols.ScoringAnswerer`.

    Args:
        model: whose trunk is an `EncoderDecoder`.

    Raises:
        UnsupportedError: it is none, or has no tokenizer.
    """

    capabilities: frozenset[str] = frozenset({"local", "logprobs", "score"})

    def __init__(self, model: Model):
        if not isinstance(model.trunk, EncoderDecoder) or model.tokenizer is None:
            raise UnsupportedError(f"{model.name} is no encoder-decoder with a tokenizer", do="Open it in the engine.")
        self.model, self.tokenizer = model, model.tokenizer
        self.trunk: EncoderDecoder = model.trunk
        self._alone = threading.Lock()

    @property
    def fingerprint(self) -> str:
        return digest(["pairs", self.model.fingerprint])

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """Yields the text as it is written, what was used, and `Done`; it stops writing where nobody listens any more.

        Raises:
            SteelyardError: a conversation without a question, a message longer than the context, or settings it does not follow.
        """
        ids = self.read(conversation, settings)
        crossing, left = Crossing(), threading.Event()
        writing = asyncio.ensure_future(asyncio.to_thread(lambda: apart(lambda: self._told(ids, settings, crossing.on_event, left))))
        async with contextlib.aclosing(crossing.events(left.set)) as events:
            async for event in events:
                yield event
        await writing

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the beginning of what it writes about the last message.

        Raises:
            SteelyardError: see `answer`; or an empty continuation.
        """
        ids = self.read(conversation, AnswerSettings())
        targets = [self.tokenizer.encode(text) for text in continuations]
        for text, target in zip(continuations, targets, strict=True):
            if not target:
                raise SteelyardError(f"the continuation {text!r} has no tokens to score", do="Score a longer text.")
            if len(target) >= self.trunk.plan.context:
                raise ContextLengthError(f"{len(target)} tokens to score, but {self.model.name} writes at most {self.room(conversation)}")
            self.model.check_ids(target)
        found = await asyncio.to_thread(lambda: apart(lambda: self._scored(ids, targets)))
        return [
            Score(logprob, greedy, len(target), len(text.encode()))
            for (logprob, greedy), target, text in zip(found, targets, continuations, strict=True)
        ]

    def room(self, conversation: Conversation) -> int:
        """Tokens of the longest answer: reading takes none of them."""
        return self.trunk.plan.context - 1

    def count(self, text: str) -> int:
        """Tokens that the model reads a text as."""
        return len(self.tokenizer.encode(text))

    def read(self, conversation: Conversation, settings: AnswerSettings) -> list[int]:
        """The tokens of the last message, which is all that is read.

        Raises:
            SteelyardError: see `answer`.
        """
        sampling.check(settings)
        for field in fields(settings):
            if field.name in REFUSED and getattr(settings, field.name) != field.default:
                what = f"{self.model.name} is an encoder-decoder, which answers without the engine: no `{field.name}`"
                raise UnsupportedError(what, do=f"Leave `{field.name}` out.")
        if not conversation or conversation[-1].role != "user" or not conversation[-1].content:
            raise SteelyardError("an encoder-decoder answers the user's last message, and there is none", do="Ask something.")
        if any(message.role not in ("user", "assistant") for message in conversation):
            raise UnsupportedError(f"{self.model.name} reads one message and no system prompt", do="Leave the system prompt out.")
        ids = self.tokenizer.encode(conversation[-1].content)
        if len(ids) > self.trunk.plan.context:
            raise ContextLengthError(
                f"{len(ids)} tokens, but {self.model.name} reads at most {self.trunk.plan.context}", do="Shorten the message."
            )
        self.model.check_ids(ids)
        return ids

    def _told(self, ids: list[int], settings: AnswerSettings, tell: Callable[[Event], None], left: threading.Event) -> None:
        """Tells all of an answer to `tell`, whatever becomes of it."""
        try:
            with self._alone, torch.inference_mode():
                reason = self._write(ids, settings, tell, left)
        except Exception as error:
            logger.exception("an answer failed")
            tell(Failure(said(error)))
            reason = "error"
        tell(Done(reason))

    def _write(self, ids: list[int], settings: AnswerSettings, tell: Callable[[Event], None], left: threading.Event) -> Any:
        """Tells the text and what was used; why it ended."""
        begun, border = time.perf_counter(), self.trunk.plan.border
        most = min(settings.max_tokens, self.trunk.plan.context - 1)
        encoded = self.trunk.encode(torch.tensor([ids], device=self.trunk.device), [len(ids)])
        stream = TextStream(self.tokenizer.stream_decoder(skip_special=True), settings.stop)
        writing, last, written, reason, stopped = Writing(self.trunk, encoded, most + 1), border, 0, "length", False
        # One more than may be written: whether the border would have come next tells why it ended.
        for position in range(1, most + 2):
            if left.is_set():
                return "cancelled"
            if settings.seconds is not None and time.perf_counter() - begun > settings.seconds:
                reason = "timeout"
                break
            logits = writing([last])
            drawn = sampling.draw(logits[0], settings, position)
            if drawn.token == border and not settings.ignore_eos:
                reason = "stop"
                break
            if position > most:
                break
            last, written = drawn.token, written + 1
            text, stopped = stream.push(last)
            if settings.token_events:
                (view,) = sampling.confidence(logits, [last], settings.alternatives)
                tell(Token(last, text, view.logprob, view.entropy, drawn.logprob, view.alternatives))
            if text:
                tell(Text(text))
            if stopped:
                break
        if not stopped:
            text, stopped = stream.flush()
            if text:
                tell(Text(text))
        tell(Usage(len(ids), written))
        return "stop" if stopped else reason

    def _scored(self, ids: list[int], targets: Sequence[list[int]]) -> list[tuple[float, bool]]:
        """For each target its log-probability, and whether each of its tokens was the likeliest."""
        border, found = self.trunk.plan.border, []
        with self._alone, torch.inference_mode():
            for begin in range(0, len(targets), TOGETHER):
                some = targets[begin : begin + TOGETHER]
                longest = max(map(len, some))
                padded = torch.tensor(
                    [[border, *target[:-1], *[border] * (longest - len(target))] for target in some], device=self.trunk.device
                )
                logits = self.trunk(torch.tensor([ids] * len(some), device=self.trunk.device), [len(ids)] * len(some), padded)
                for row, target in zip(logits, some, strict=True):
                    chosen = torch.tensor(target, device=row.device)
                    logprobs = row[: len(target)].log_softmax(-1).gather(-1, chosen[:, None])
                    found.append((float(logprobs.sum()), bool((row[: len(target)].argmax(-1) == chosen).all())))
        return found


def answerer_for(model: Model) -> PairAnswerer | None:
    """What answers for a model that the engine does not run, or None for all others."""
    return PairAnswerer(model) if isinstance(model.trunk, EncoderDecoder) else None
