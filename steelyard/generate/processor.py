"""Processors: what shapes logits between the model and the draw.

A processor starts one session per request; the session sees logits and its own sequence. Order is fixed by class, not by the
order of levers: constraints first (what may be said at all), then penalties, then whatever else shapes the distribution, in the
order of the levers, and last what marks the text: it must not change what the others take for the model's own view.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings

CONSTRAINT, PENALTY, SHAPE, MARK = 0, 1, 2, 3


@dataclass(frozen=True)
class View:
    """What a session may look at: the prompt's tokens and the tokens generated so far."""

    prompt: list[int]
    generated: list[int]


class Session(Protocol):
    """One request's processor state."""

    def __call__(self, logits: Tensor, view: View) -> Tensor:
        """float32 [vocabulary] -> float32 [vocabulary], good until the session's next call; its argument is not changed in place."""
        ...

    def advance(self, token: int) -> None:
        """This token was drawn."""
        ...

    def rewind(self, count: int) -> None:
        """The last `count` tokens did not happen."""
        ...


@runtime_checkable
class CheckingSession(Session, Protocol):
    """A session that also looks at the whole answer. One that `max_tokens` or a cancellation cuts off is not shown to it."""

    def finish(self, text: str) -> None:
        """The answer has ended by its end token or a stop string. What this raises fails the request."""
        ...


@runtime_checkable
class RulingSession(Session, Protocol):
    """A session that rules tokens out and leaves the logits of all others as they are. Where nothing else shapes the logits, the
    likeliest token is drawn if it is permitted, and the others need not be looked at."""

    def permits(self, token: int) -> bool:
        """Whether a token that may be drawn next has a finite logit after this session."""
        ...


class Processor(Protocol):
    """Starts sessions. `order` is one of CONSTRAINT, PENALTY, SHAPE, MARK."""

    order: int

    @property
    def fingerprint(self) -> str: ...

    def start(self, settings: AnswerSettings) -> Session | None:
        """A session, or None where the request does not need one."""
        ...


class FunctionProcessor:
    """Adapts a plain callable `f(tokens, logits) -> logits` (tokens: prompt and generated ids)."""

    order = SHAPE

    def __init__(self, function: Callable[[list[int], Tensor], Tensor]):
        self.function = function

    @property
    def fingerprint(self) -> str:
        return digest(["function", *_described(self.function)])

    def start(self, settings: AnswerSettings) -> Session:
        return FunctionSession(self.function)


def _described(function: Any) -> list[Any]:
    """What tells callables apart: name, code, and what they were given beforehand. Two lambdas share a name, never their code."""
    if isinstance(function, functools.partial):
        return ["partial", *_described(function.func), repr(function.args), repr(sorted(function.keywords.items()))]
    code = getattr(function, "__code__", None)
    if code is None:  # an object with __call__: its class and what it holds
        return [type(function).__module__, type(function).__qualname__, repr(sorted(getattr(function, "__dict__", {}).items()))]
    held = [repr(cell.cell_contents) for cell in function.__closure__ or ()]
    return [function.__module__, function.__qualname__, _code(code), held, repr(function.__defaults__)]


def _code(code: CodeType) -> list[Any]:
    constants = [_code(constant) if isinstance(constant, CodeType) else repr(constant) for constant in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


@dataclass(frozen=True)
class FunctionSession:
    """A plain callable as a session without memory."""

    function: Callable[[list[int], Tensor], Tensor]

    def __call__(self, logits: Tensor, view: View) -> Tensor:
        return self.function(view.prompt + view.generated, logits.clone())  # plain callables like to work in place

    def advance(self, token: int) -> None:
        """Nothing to remember: the tokens are in the view."""

    def rewind(self, count: int) -> None:
        """Nothing to forget."""
