"""A model in the engine's process as requests see it: what they ask for is made of it, and handed to its engine.

What a client asks for beside the levers that are on is built for its request alone, around them; where it changes what all requests of
an engine share, the request goes to an engine of these levers beside (`engines_beside.py`). A client may name only what is registered:
no paths, no models but those that are served, no documents but those the server was told of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from steelyard.augment.answerers import Crossing, LocalAnswerer
from steelyard.core.errors import UnsupportedError
from steelyard.core.levers import STAGES, Lever, check_chain, parse
from steelyard.core.protocols import Answerer, AnswerSettings, Conversation, Event, Usage
from steelyard.core.recipe_parts import LOCAL
from steelyard.core.references import IndexRef, ModelRef, Reference
from steelyard.generate.constraints.constraint import Constraint
from steelyard.generate.engine import Engine, Prompt, Request
from steelyard.generate.processor import Processor
from steelyard.generate.spec import EngineSpec
from steelyard.model.model import Model
from steelyard.serve.engine_calibration import Calibrated, Told
from steelyard.serve.engine_documents import Registered
from steelyard.serve.engines_beside import EnginesBeside, pulled
from steelyard.serve.served import ServedInfo
from steelyard.weigh.asking.arms import ArmOpener


@dataclass
class Counts:
    """What a model has done since it was opened."""

    requests: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    prefix_tokens: int = 0


@dataclass
class Hosted:
    """A model that is served.

    Attributes:
        info: what clients are told.
        model: it; an engine's has let go of its weights.
        engine: what generates with it; None for an encoder.
        opener: resolves the references of its levers.
        levers: those that are on, references bound.
        documents: what clients' levers may search, besides what is registered.
        registered: indexes that the server's users made.
        peers: the models that are served, by name; clients' levers may name them.
        calibrated: what its answers' confidence is worth, where a calibration is about it with its levers.
    """

    info: ServedInfo
    model: Model
    engine: Engine | None = None
    opener: ArmOpener | None = None
    levers: tuple[Lever, ...] = ()
    documents: frozenset[str] = frozenset()
    registered: Registered = field(default_factory=Registered)
    peers: Mapping[str, Hosted] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    calibrated: Calibrated | None = None

    @property
    def generating(self) -> Engine:
        """Its engine.

        Raises:
            UnsupportedError: an encoder.
        """
        if self.engine is None:
            raise UnsupportedError(f"`{self.info.name}` turns texts into vectors and answers nothing", where="model")
        return self.engine

    @functools.cached_property
    def beside(self) -> EnginesBeside:
        """Engines for requests whose levers change the engine.

        Raises:
            UnsupportedError: an encoder.
        """
        return EnginesBeside(self.generating)

    @property
    def wraps(self) -> list[Lever]:
        return [lever for lever in self.levers if "wrap" in lever.hooks()]

    def render(self, conversation: Conversation, tools: Any) -> str:
        """A conversation as text, tools among it where there are any.

        Raises:
            UnsupportedError: the template has no place for tools.
        """
        if not tools:
            return self.generating.render(list(conversation), add_generation_prompt=True)
        if "tools" not in self.info.capabilities:
            raise UnsupportedError(
                f"the chat template of `{self.info.name}` has no place for tools",
                where="tools",
                do="Use a model that was taught to use tools.",
            )
        return self.generating.render(list(conversation), add_generation_prompt=True, tools=tools)

    def asked(self, entries: Sequence[Mapping[str, Any]], settings: AnswerSettings) -> Asked:
        """What a request's own levers are.

        Raises:
            SteelyardError: one that no client may ask for, that names what is not registered, or that conflicts with another.
        """
        if not entries:
            return Asked(settings)
        levers = [parse(entry, where="levers") for entry in entries]
        for lever in levers:
            self._check_allowed(lever)
        check_chain(sorted([*self.levers, *levers], key=stage), LOCAL, "levers")
        levers = [lever.bind(self._resolved) for lever in levers]
        for lever in levers:
            if isinstance(lever, Constraint):
                settings = _constrained(lever, settings)
        wraps = tuple(lever for lever in levers if "wrap" in lever.hooks())
        decodes = tuple(lever for lever in levers if lever.stages() == ("decode",) and not isinstance(lever, Constraint))
        plain = dataclasses.replace(self.beside.plain, processors=())
        shaped = pulled(decodes, plain)
        if _alike(shaped, plain):
            return Asked(settings, wraps, shaped.processors)
        return Asked(settings, wraps, levers=decodes, spec=self.beside.spec(decodes))

    @property
    def engines(self) -> list[Engine]:
        """Its engine and those beside."""
        return [] if self.engine is None else [self.engine, *self.beside]

    def close(self) -> None:
        """Ends its engines. It takes as long as their steps under way."""
        if self.engine is not None:
            self.beside.close()
            self.engine.close()

    def _resolved(self, reference: Reference) -> Any:
        """What a reference of a request's lever names."""
        if isinstance(reference, IndexRef) and reference.name in self.registered:
            return self.registered.index(reference.name)
        if isinstance(reference, ModelRef):
            return self.peers[reference.name].model
        assert self.opener is not None
        return self.opener.references(reference)

    def _check_allowed(self, lever: Lever) -> None:
        kind = type(lever)
        if not can_be_asked(kind):
            offered = ", ".join(offer.name for offer in self.info.levers if offer.per_request) or "none"
            raise UnsupportedError(f"`{lever.name}` cannot be asked for with a request", where="levers", do=f"Those that can: {offered}.")
        if any(holds_path(getattr(lever, key)) for key in kind.model_fields):
            raise UnsupportedError(f"`{lever.name}` names a file, which a request may not", where="levers", do="Give what is in it.")
        for key, reference in lever.references().items():
            models = {name for name, peer in self.peers.items() if peer.engine is not None}
            names = {IndexRef: self.documents, ModelRef: models}.get(type(reference), frozenset())
            if reference.name not in names and not (isinstance(reference, IndexRef) and reference.name in self.registered):
                known = ", ".join(sorted(names)) or "none"
                raise UnsupportedError(
                    f"`{reference.name}` is not registered here as {reference.kind}",
                    where=f"levers: {lever.name}.{key}",
                    do=f"Registered: {known}.",
                )


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        settings: how the answer is drawn, its constraint among them.
        wraps: levers that act on the whole answer, the first innermost.
        processors: what levers of this request shape its logits with, beside the engine's.
        levers: decode levers that want an engine of their own; then `processors` are among what they change.
        spec: what that engine is made of; None where the model's own will do.
    """

    settings: AnswerSettings
    wraps: tuple[Lever, ...] = ()
    processors: tuple[Processor, ...] = ()
    levers: tuple[Lever, ...] = ()
    spec: EngineSpec | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for but settings."""
        return not (self.wraps or self.processors or self.levers)


def stage(lever: Lever) -> int:
    """Where in the order of stages a lever first acts."""
    return STAGES.index(lever.stages()[0])


def can_be_asked(kind: type[Lever]) -> bool:
    """Whether a request may bring a lever: one that is declared so, and that can be pulled on one answer among others."""
    return kind.per_request and kind.stages() in (("wrap",), ("decode",))


def holds_path(value: Any) -> bool:
    """Whether a setting names a file, at whatever depth."""
    if isinstance(value, pydantic.BaseModel):
        return any(holds_path(part) for _, part in value)
    if isinstance(value, Mapping):
        return any(holds_path(part) for part in value.values())
    return isinstance(value, Path) or (isinstance(value, list | tuple) and any(holds_path(part) for part in value))


def _alike(one: EngineSpec, other: EngineSpec) -> bool:
    """Whether two specs differ in nothing but processors, which a request may have of its own."""
    return all(getattr(one, each.name) is getattr(other, each.name) for each in dataclasses.fields(one) if each.name != "processors")


def _constrained(lever: Constraint, settings: AnswerSettings) -> AnswerSettings:
    forms = {key: form for key in ("json_schema", "regex", "grammar") if (form := getattr(lever, key)) is not None}
    if forms and settings.constraint is not None:
        raise UnsupportedError("a constraint as a setting and as a lever", where="levers", do="Leave one of them out.")
    return dataclasses.replace(settings, constraint=forms) if forms else settings  # type: ignore[arg-type]  (read by AnswerSettings)


class Submission:
    """A request on its way to the engine; it may be cancelled before it is there.

    Args:
        hosted: the model.
        engine: its engine, or one beside.
        prompt: makes what the engine reads; called apart from the loop, for it may take a while.
        settings: how the answer is drawn.
        on_event: hears every event, on the engine's thread.
        processors: shape its logits, beside the engine's.
    """

    def __init__(
        self,
        hosted: Hosted,
        engine: Engine,
        prompt: Callable[[], Prompt],
        settings: AnswerSettings,
        on_event: Callable[[Event], None],
        processors: Sequence[Processor] = (),
    ):
        self.hosted, self.engine, self.prompt, self.settings = hosted, engine, prompt, settings
        self.on_event, self.processors = on_event, processors
        self.request: Request | None = None
        self.cancelled = False

    def enter(self) -> None:
        """Hands it to the engine.

        Raises:
            SteelyardError: what is wrong with it.
        """
        self.engine.check(self.settings)  # first: a form that cannot be compiled is told before a long prompt is read
        self.request = self.engine.submit(self.prompt(), self.settings, self._hear, processors=self.processors)
        self.hosted.counts.requests += 1
        if self.cancelled:  # while it was on its way
            self.request.cancel()

    def cancel(self) -> None:
        """Ends it; its slot is free before the next step."""
        self.cancelled = True
        if self.request is not None:
            self.request.cancel()

    def progress(self) -> int:
        """Tokens that were read or written for it so far; what was known from before is none of them."""
        return max(0, self.request.cached - self.request.reused) if self.request is not None else 0

    def _hear(self, event: Event) -> None:
        if isinstance(event, Usage):
            counts = self.hosted.counts
            counts.tokens += event.completion_tokens
            counts.prompt_tokens += event.prompt_tokens
            counts.prefix_tokens += self.request.reused if self.request is not None else 0
        self.on_event(event)


class ServedLocal(LocalAnswerer):
    """The model below a request's wrap levers: as `LocalAnswerer`, but prompts are read apart from the loop, which serves others.

    Args:
        hosted: the model.
        tools: what the template is to be told of.
        enter: runs a submission's `enter` in a thread.
        processors: shape the logits of what is asked, beside the engine's.
        engine: one beside the model's own, or None for that.
    """

    def __init__(
        self,
        hosted: Hosted,
        tools: Any,
        enter: Callable[[Submission], Awaitable[None]],
        processors: Sequence[Processor] = (),
        engine: Engine | None = None,
    ):
        super().__init__(engine or hosted.generating)
        self.hosted, self.tools, self.enter, self.processors = hosted, tools, enter, processors

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """Yields the engine's events; the last is `Done`."""
        crossing = Crossing()
        prompt = lambda: self.hosted.render(conversation, self.tools)  # noqa: E731
        submission = Submission(self.hosted, self.engine, prompt, settings, crossing.on_event, self.processors)
        try:
            await self.enter(submission)
        except BaseException:  # cancelled while it was read, too
            submission.cancel()
            raise
        async with contextlib.aclosing(crossing.events(submission.cancel)) as events:
            async for event in events:
                yield event

    def room(self, conversation: Conversation) -> int:
        """Tokens the context has left for the answer; negative where the conversation alone is too long."""
        return self.engine.context - self.count(self.hosted.render(conversation, self.tools))


def wrapped(answerer: Answerer, levers: Sequence[Lever | Told]) -> Answerer:
    """An answerer within wrap levers, the first innermost."""
    for lever in levers:
        hooks: Any = lever
        answerer = hooks.wrap(answerer)
    return answerer
