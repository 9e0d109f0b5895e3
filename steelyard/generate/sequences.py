"""Sequences: what the scheduler runs. One generates an answer, another scores given texts (`scoring.py`); each owns one slot at a time."""

from __future__ import annotations

import abc
import logging
import math
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from steelyard.core.errors import SteelyardError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Done, Event, Failure, Text, Token, Usage
from steelyard.generate.candidates import Candidates, Wish, wish
from steelyard.generate.guesses import Draft, Speculation, SpeculationSession
from steelyard.generate.processor import CheckingSession, Processor, RulingSession, Session, View
from steelyard.generate.rejection import judge
from steelyard.generate.sampling import AFTERWARDS, TRIES, Draw, confidence, draw, filtered, permitted
from steelyard.kernels.native import Pool
from steelyard.model.sites import SiteProgram

logger = logging.getLogger(__name__)

HEAD_ROWS = 128
"""Most rows the head turns into logits at once: 128 rows over 50,000 tokens are 25 MB."""


class StreamDecoder(Protocol):
    """Turns ids into text piece by piece, holding back unfinished characters."""

    def push(self, token: int) -> str: ...

    def flush(self) -> str: ...


@dataclass
class Timing:
    """Clock readings in seconds (monotonic) of one request."""

    submitted: float = field(default_factory=time.perf_counter)
    first_token: float | None = None
    finished: float | None = None

    @property
    def to_first_token(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.submitted

    @property
    def seconds(self) -> float | None:
        return None if self.finished is None else self.finished - self.submitted


class TextStream:
    """Text from tokens, ending at a stop string; text that may begin one is held back until it is clear."""

    def __init__(self, decoder: StreamDecoder, stops: tuple[str, ...]):
        self.decoder, self.stops = decoder, stops
        self.held, self.over = "", False

    def push(self, token: int) -> tuple[str, bool]:
        """What can be shown after this token, and whether a stop string was met."""
        return self._advance(self.decoder.push(token))

    def flush(self) -> tuple[str, bool]:
        """The rest, at the end. After a stop string there is none: what the decoder still holds is what its token went on with."""
        if self.over:
            return "", True
        text, stopped = self._advance(self.decoder.flush())
        return (text, True) if stopped else (text + self.held, False)

    def _advance(self, new: str) -> tuple[str, bool]:
        self.held += new
        found = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if found:
            text, self.held, self.over = self.held[: min(found)], "", True
            return text, True
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        cut = len(self.held) - keep
        text, self.held = self.held[:cut], self.held[cut:]
        return text, False

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins the stop string."""
        for size in range(min(len(stop) - 1, len(self.held)), 0, -1):
            if self.held.endswith(stop[:size]):
                return size
        return 0


class Sequence(abc.ABC):
    """Tokens on their way through the trunk.

    Attributes:
        tokens: all tokens known so far.
        cached: how many of them the slot holds.
        slot: the slot it owns while it runs; `others` are those it owns beside, where its `width` is more than one.
        cancelled: set by anyone, honoured between steps.
        turn_read: the scheduler's turn in which a piece of it was last read.
        tenant: whose text it is; what was read for one tenant serves no other.
        program: what is done at the answering model's sites on its tokens alone, or None; what was read with one program serves no other.
        seconds: how long it may take from its submission, or None.
    """

    width = 1
    tenant = ""
    program: SiteProgram | None = None
    seconds: float | None = None

    def __init__(self, tokens: list[int]):
        self.tokens = tokens
        self.cached = 0
        self.turn_read = 0
        self.slot: int | None = None
        self.others: list[int] = []
        self.cancelled = False
        self.finished = False
        self.timing = Timing()

    @property
    @abc.abstractmethod
    def read_until(self) -> int:
        """Tokens to read before anything else can happen."""

    @property
    def reusable(self) -> int:
        """How many tokens need not be read again where a slot holds them. The last is always: its hidden state is needed."""
        return self.read_until - 1

    @property
    def reader(self) -> str:
        """For whom and how its tokens are read: others of the same may use what its slot holds."""
        return self.tenant if self.program is None else digest([self.tenant, self.program.fingerprint])

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return self.seconds is not None and time.perf_counter() - self.timing.submitted > self.seconds

    @abc.abstractmethod
    def fail(self, message: str) -> None:
        """Ends with a failure."""

    @abc.abstractmethod
    def stop_early(self, reason: Literal["cancelled", "timeout"]) -> None:
        """Ends before its end, as somebody asked for or as its time is up."""

    def cancel(self) -> None:
        """Asks for an end; the slot is freed before the next step."""
        self.cancelled = True


class Generation(Sequence):
    """An answer being generated. Events go to `on_event`, on the engine's thread.

    `own` are processors of this request alone, beside the engine's.
    """

    def __init__(
        self,
        prompt: list[int],
        settings: AnswerSettings,
        on_event: Callable[[Event], None],
        decoder: StreamDecoder,
        eos: frozenset[int],
        limit: int,
    ):
        super().__init__(list(prompt))
        self.prompt, self.settings, self.on_event, self.eos = prompt, settings, on_event, eos
        self.tenant, self.seconds = settings.tenant, settings.seconds
        self.most = min(settings.max_tokens, limit - len(prompt))
        self.stream = TextStream(decoder, settings.stop)
        self.generated: list[int] = []
        self.shown: list[str] = []
        self.own: tuple[Processor, ...] = ()
        self.sessions: list[Session] = []
        self.ruling: RulingSession | None = None
        self.wish = Wish()
        self.guesses: SpeculationSession | None = None
        self.pool: Pool | None = None
        self.done = False
        self.passes = 0
        self.guessed = 0
        self.agreed = 0
        self.reused = 0

    def begin(self, processors: tuple[Processor, ...], speculation: Speculation | None, pool: Pool | None = None) -> None:
        """Starts the sessions that shape and guess this answer; `pool` computes its confidence where there is one."""
        self.pool = pool
        ordered = sorted((*processors, *self.own), key=lambda processor: processor.order)
        self.sessions = [session for processor in ordered if (session := processor.start(self.settings)) is not None]
        alone = self.sessions[0] if len(self.sessions) == 1 else None
        self.ruling = alone if isinstance(alone, RulingSession) else None
        shown = self.settings.alternatives if self.settings.token_events else 0
        shaped = bool(self.sessions) and self.ruling is None  # then the draw is not from what the model says
        self.wish = Wish(shown, sums=self.settings.token_events) if shaped else wish(self.settings, TRIES if self.ruling else 1)
        self.guesses = speculation.start(self.prompt) if speculation else None

    @property
    def read_until(self) -> int:
        return len(self.prompt)

    def room(self, most: int) -> int:
        """How long a guess may be: at most `most` tokens, never past the answer's end."""
        return max(0, min(most, self.most - len(self.generated) - 1))

    def draft(self, most: int) -> Draft:
        """Guesses for the next tokens, at most `most`, from this answer's own session."""
        room = self.room(most)
        return Draft(self.guesses.propose(room)) if self.guesses and room else Draft()

    def shaped(self, logits: Tensor, guessed: Many[int] = ()) -> Tensor:
        """Logits float32 [vocabulary] of the next token after the answer and what is guessed, as the processors shape them."""
        view, row = View(self.prompt, [*self.generated, *guessed] if guessed else self.generated), logits
        for session in self.sessions:
            row = session(row, view)
            if row.shape != logits.shape:
                raise SteelyardError(f"a processor gave logits of shape {tuple(row.shape)}, not {tuple(logits.shape)}")
        return row

    def drawn(self, logits: Tensor, position: int, guessed: Many[int] = (), found: Candidates | None = None) -> Draw:
        """The next token after the answer and what is guessed, drawn from float32 [vocabulary] as the processors shape them; `found` is
        what is known of the logits already."""
        if self.ruling is not None:
            pick = permitted(logits, self.settings, position, self.ruling.permits, found, self.pool)
            return pick or draw(self.shaped(logits, guessed), self.settings, position, pool=self.pool, purpose=AFTERWARDS)
        if not self.sessions:
            return draw(logits, self.settings, position, found, self.pool)
        return draw(self.shaped(logits, guessed), self.settings, position, pool=self.pool)

    def advance(self, token: int) -> None:
        """The processors see that a token came."""
        for session in self.sessions:
            session.advance(token)

    def ends_with(self, token: int) -> bool:
        """Whether a token is the end of the answer and no part of it."""
        return token in self.eos and not self.settings.ignore_eos

    def accept(self, logits: Tensor, draft: Draft, found: Many[Candidates] = ()) -> None:
        """Draws from each row of logits [1 + len(draft.tokens), vocabulary] in turn while the draws agree with the draft; `found` is what
        is known of each row already (`wish`), or nothing."""
        self.passes += 1
        self.guessed += len(draft.tokens)
        if self.timing.first_token is None:
            self.timing.first_token = time.perf_counter()
        tokens, drawn, ended = [], [], False
        for index, guess in enumerate([*draft.tokens, None]):
            position = len(self.tokens)
            if guess is None or draft.probabilities is None:
                pick = self.drawn(logits[index], position, found=found[index] if found else None)
            else:
                pick = judge(self.shaped(logits[index]), draft.probabilities[index], guess, self.settings, position)
            if self.settings.token_events and math.isnan(pick.logprob):
                pick = Draw(pick.token, math.log(float(filtered(self.shaped(logits[index]), self.settings)[pick.token])))
            tokens.append(pick.token)
            drawn.append(pick.logprob)
            self.tokens.append(pick.token)
            self.agreed += pick.token == guess
            ended = self.ends_with(pick.token)
            if not ended:
                self.generated.append(pick.token)
                self.advance(pick.token)
            if ended or len(self.generated) == self.most or pick.token != guess:
                break
        # The slot holds everything up to the token before the last drawn one.
        self.cached = len(self.tokens) - 1
        if self.guesses:
            self.guesses.advance(tokens)
        self._emit(logits, tokens, drawn, ended, found)

    def _emit(self, logits: Tensor, tokens: list[int], drawn: list[float], ended: bool, found: Many[Candidates]) -> None:
        shown = tokens[:-1] if ended else tokens
        seen = shown and self.settings.token_events
        known = found[: len(shown)]
        views = confidence(logits[: len(shown)], shown, self.settings.alternatives, self.pool, known) if seen else []
        for index, token in enumerate(shown):
            text, stopped = self.stream.push(token)
            if views:
                view = views[index]
                self.on_event(Token(token, text, view.logprob, view.entropy, drawn[index], view.alternatives))
            self._show(text)
            if stopped:
                # Tokens drawn after the one that completed the stop string never happened.
                del self.generated[len(self.generated) - (len(shown) - index - 1) :]
                return self._finish("stop")
        if ended:
            self._finish("stop")
        elif len(self.generated) >= self.most:
            self._finish("length")

    def _show(self, text: str) -> None:
        if text:
            self.shown.append(text)
            self.on_event(Text(text))

    def _finish(self, reason) -> None:
        if reason != "cancelled":  # what was held back is part of the answer, except where nobody hears it
            text, stopped = self.stream.flush()
            self._show(text)
            reason = "stop" if stopped else reason
        if reason == "stop":
            for session in self.sessions:
                if isinstance(session, CheckingSession):
                    session.finish("".join(self.shown))
        self.finished = True
        self.timing.finished = time.perf_counter()
        self.on_event(Usage(len(self.prompt), len(self.generated), verified=self.passes))
        self.done = True
        self.on_event(Done(reason))

    def fail(self, message: str) -> None:
        """Ends the answer with a failure. A listener that fails to hear even that is left alone."""
        self.finished = True
        self.timing.finished = time.perf_counter()
        for event in () if self.done else (Failure(message), Done("error")):
            try:
                self.on_event(event)
            except Exception:  # it is the requester's own code, and other requests must not suffer from it
                logger.exception("on_event raised on hearing of a failure")
        self.done = True

    def stop_early(self, reason: Literal["cancelled", "timeout"]) -> None:
        """Ends an answer that nobody waits for any longer, or that has taken too long."""
        self._finish(reason)


def attempt(sequence: Sequence, action: Callable, *arguments: Any) -> Any:
    """Does something for one sequence. What its processors, guesses or listener raise ends that sequence alone."""
    try:
        return action(*arguments)
    except Exception as error:  # code of others may raise anything
        logger.exception("a request failed")
        sequence.fail(said(error))
        return None


def said(error: Exception) -> str:
    """An error as a failure's message."""
    return str(error) if isinstance(error, SteelyardError) else f"{type(error).__name__}: {error}"
