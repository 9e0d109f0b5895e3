"""An encoder-decoder as an answerer: it reads the last message and writes a text about it, token by token.

The engine runs trunks that go on with one text; this one reads one text and writes another, so it answers by itself, one question at a
time, without a prefix cache or speculation. The answer itself is the engine's: the same generations and searches, with the border in
the prompt's place, so that settings, penalties, forms and the levers that shape what is drawn hold here too; what reaches into the
trunk does not. What was said before the last message is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import torch

from steelyard.augment.answerers import Crossing
from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings, Conversation, Event, Score, Usage
from steelyard.core.threads import apart
from steelyard.generate import sampling
from steelyard.generate.beams.beam import Beam
from steelyard.generate.beams.search import Beams
from steelyard.generate.constraints import constraint
from steelyard.generate.constraints.constraint import Constraint
from steelyard.generate.guesses import Draft
from steelyard.generate.processor import Processor
from steelyard.generate.processors import logit_bias
from steelyard.generate.processors.penalties import Penalties
from steelyard.generate.processors.typical import Typical
from steelyard.generate.processors.watermark import Watermark
from steelyard.generate.sequences import Generation, said
from steelyard.generate.spec import EngineSpec
from steelyard.model.encoder_decoder import EncoderDecoder, Writing
from steelyard.model.model import Model

logger = logging.getLogger(__name__)

SHAPING = (Beam, Constraint, Typical, Watermark)
"""Levers that change how tokens are drawn and nothing of what computes them."""
ONE_MESSAGE = "This model reads one message at a time: what was said before is not read."
TOGETHER = 16
"""Continuations that are scored at once."""
WIDEST = 256
"""Branches of a search at most."""


class PairAnswerer:
    """Satisfies `core.protocols.ScoringAnswerer`.

    Args:
        model: whose trunk is an `EncoderDecoder`.
        levers: of which those that act in an engine must be ones that shape what is drawn.

    Raises:
        UnsupportedError: it is none, it has no tokenizer, or a lever acts elsewhere in the engine.
    """

    capabilities: frozenset[str] = frozenset({"local", "logprobs", "score"})

    def __init__(self, model: Model, levers: Sequence[Lever] = ()):
        if not isinstance(model.trunk, EncoderDecoder) or model.tokenizer is None:
            raise UnsupportedError(f"{model.name} is no encoder-decoder with a tokenizer", do="Open it in the engine.")
        self.model, self.tokenizer = model, model.tokenizer
        self.trunk: EncoderDecoder = model.trunk
        self.spec = EngineSpec(model, slots=WIDEST)
        for lever in levers:
            if not isinstance(lever, SHAPING):
                raise UnsupportedError(
                    f"`{lever.name}` acts in the engine, which does not run encoder-decoders",
                    do="Leave it out; levers that wrap an answerer or shape what is drawn apply.",
                )
            self.spec = lever.decode(self.spec)
        self._alone = threading.Lock()

    @property
    def fingerprint(self) -> str:
        search = [self.spec.search.fingerprint] if self.spec.search else []
        return digest(["pairs", self.model.fingerprint, *(processor.fingerprint for processor in self.spec.processors), *search])

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """Yields the text as it is written, what was used, and `Done`; it stops writing where nobody listens any more.

        Raises:
            SteelyardError: a conversation without a question, a message longer than the context, or settings it does not follow.
        """
        ids, own = self.read(conversation), self._own(settings)
        crossing, left = Crossing(), threading.Event()
        writing = asyncio.ensure_future(asyncio.to_thread(lambda: apart(lambda: self._told(ids, settings, own, crossing.on_event, left))))
        async with contextlib.aclosing(crossing.events(left.set)) as events:
            async for event in events:
                yield event
        await writing

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the beginning of what it writes about the last message.

        Raises:
            SteelyardError: see `answer`; or an empty continuation.
        """
        ids = self.read(conversation)
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

    def read(self, conversation: Conversation) -> list[int]:
        """The tokens of the last message, which is all that is read.

        Raises:
            SteelyardError: see `answer`.
        """
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

    def _own(self, settings: AnswerSettings) -> tuple[Processor, ...]:
        """What shapes this answer beside the levers, once its settings are found to mean something."""
        sampling.check(settings)
        if self.spec.search is not None:
            self.spec.search.check(settings)
        biases = logit_bias.requested(settings, self.trunk.plan.inputs.vocabulary)
        return (Penalties(), *constraint.requested(settings, self.spec), *biases)

    def _told(
        self, ids: list[int], settings: AnswerSettings, own: tuple[Processor, ...], tell: Callable[[Event], None], left: threading.Event
    ) -> None:
        """Tells all of an answer to `tell`, whatever becomes of it."""

        def told(event: Event) -> None:
            # The border stands in the prompt's place; what was read is the source.
            tell(replace(event, prompt_tokens=len(ids)) if isinstance(event, Usage) else event)

        request = self._request(settings, told)
        request.own = own
        try:
            with self._alone, torch.inference_mode():
                self._write(ids, request, left)
        except Exception as error:
            logger.exception("an answer failed")
            request.fail(said(error))

    def _request(self, settings: AnswerSettings, tell: Callable[[Event], None]) -> Generation:
        """An answer to be written, or to be searched for."""
        # A text may fill the context, and it is known then whether the border follows.
        border, limit = self.trunk.plan.border, self.trunk.plan.context + 1
        if self.spec.search is not None:
            return self.spec.search.request([border], settings, tell, self.tokenizer, limit)
        return Generation([border], settings, tell, self.tokenizer.stream_decoder(skip_special=True), frozenset({border}), limit)

    def _write(self, ids: list[int], request: Generation, left: threading.Event) -> None:
        """Goes on with an answer until it has ended."""
        encoded = self.trunk.encode(torch.tensor([ids], device=self.trunk.device), [len(ids)])
        writing = Writing(self.trunk, encoded, self.trunk.plan.context, request.width)
        request.slot, *request.others = range(request.width)
        request.begin(self.spec.processors, None)
        request.accept(writing(request.prompt), Draft())
        while not request.finished:
            if left.is_set() or request.late:
                request.stop_early("cancelled" if left.is_set() else "timeout")
            elif isinstance(request, Beams):
                for source, target in request.take_forks():
                    writing.fork(source, target)
                pieces = request.pieces()
                request.accept(writing([piece.tokens[0] for piece in pieces], [piece.slot for piece in pieces]), Draft())
            else:
                request.accept(writing([request.tokens[-1]]), Draft())

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


def answerer_for(model: Model, levers: Sequence[Lever] = ()) -> PairAnswerer | None:
    """What answers for a model that the engine does not run, or None for all others; `levers` are those that act in an engine.

    Raises:
        UnsupportedError: a lever that cannot act on such a model.
    """
    return PairAnswerer(model, levers) if isinstance(model.trunk, EncoderDecoder) else None
