"""What the rooms say to one another: conversations, events, and the things that answer, act, find and judge.

Everything that answers a conversation (a model in the engine, an endpoint, either of them wrapped by levers) yields the
same typed events, so chat, server, page, agents and `weigh` all read one stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from steelyard.core.answer_form import AnswerForm

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool the model asks for. `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The form chat templates and the OpenAI API read."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name:
            out["name"] = self.name
        if self.tool_calls:
            out["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in self.tool_calls
            ]
        return out


Conversation = Sequence[Message]


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How an answer is drawn. Temperature 0 is greedy; the other filters then do not matter.

    Attributes:
        max_tokens: most tokens to generate.
        temperature: softmax temperature; 0 = greedy.
        top_k: keep the k likeliest tokens; 0 = all.
        top_p: keep the smallest set of tokens with at least this probability.
        min_p: drop tokens below this share of the likeliest one's probability.
        repetition_penalty: divides positive and multiplies negative logits of seen tokens (1 = off).
        presence_penalty: subtracted once from the logits of generated tokens.
        frequency_penalty: subtracted per occurrence from the logits of generated tokens.
        seed: random numbers are keyed by (seed, position, purpose).
        stop: strings that end the answer; they are not part of it.
        alternatives: how many likeliest alternatives to keep per token.
        token_events: whether `Token` events are yielded beside `Text`.
        constraint: the form that the whole answer must have, or None; a mapping such as {"regex": "yes|no"} becomes one.
        ignore_eos: go on past the end-of-sequence token.
        seconds: most seconds from asking to the end, or None; an answer that takes longer ends as it is, with the reason `timeout`.
        tenant: whose request it is; what was read for one tenant is never used for another.
        logit_bias: (token id, what is added to its logit) each, from -100, which rules the token out, to 100.
        tools: functions that may be called, each as the JSON text of its description in OpenAI's form. What answers a conversation
            tells the model of them; the calls follow the text as `ToolCall` events.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    alternatives: int = 0
    token_events: bool = False
    constraint: AnswerForm | None = None
    ignore_eos: bool = False
    seconds: float | None = None
    tenant: str = ""
    logit_bias: tuple[tuple[int, float], ...] = ()
    tools: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.constraint is not None and not isinstance(self.constraint, AnswerForm):
            object.__setattr__(self, "constraint", AnswerForm.read(self.constraint))


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer's text, in order."""

    text: str


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token with the model's own (unprocessed) confidence.

    Attributes:
        id: token id.
        text: what it adds to the text (may be empty inside a multi-byte character).
        logprob: natural log-probability under the unprocessed distribution.
        entropy: entropy of that distribution, in nats.
        sampled_logprob: natural log-probability under the distribution it was drawn from.
        alternatives: the likeliest tokens as (id, logprob), best first.
    """

    id: int
    text: str
    logprob: float
    entropy: float
    sampled_logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back for the call with this id."""

    id: str
    content: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage the answer was given to read. `score` is the ranker's, higher is nearer."""

    source: str
    title: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """A statement of certainty in [0, 1]; `kind` names how it was obtained.

    `start` and `end` are where in the answer's text the part lies that it is about; without them it is about the whole answer.
    """

    value: float
    kind: str
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written. `calls` counts model calls behind one answer.

    `verified` counts the forward passes of generation (fewer than `completion_tokens` under speculation).
    """

    prompt_tokens: int
    completion_tokens: int
    calls: int = 1
    verified: int = 0


@dataclass(frozen=True, slots=True)
class Energy:
    """What an answer took, above what idling takes, in joules; both ends are equal where it was measured.

    Attributes:
        low, high: where the truth lies between.
        source: rapl, nvml, modelled, or two of them with a plus.
        shared: whether other answers were computed at the same time, so that this is a share by tokens.
    """

    low: float
    high: float
    source: str
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """The answer failed after it had begun. `message` is what a `SteelyardError` would say."""

    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete. `reason`: stop (end token or stop string), length, timeout, cancelled, error.

    `model` is what the server that answered calls its model, where it is a remote one and says so.
    """

    reason: Literal["stop", "length", "timeout", "cancelled", "error", "tool_calls"]
    model: str = ""


@dataclass(frozen=True, slots=True)
class Lookup:
    """A search in documents as it went: for people who want to know why; no part of the answer.

    Attributes:
        query: what was searched for.
        index: the name of the documents.
        threshold: relevance from which a passage is given to the model.
        considered: the passages that were weighed, best first.
        given: ids of those that the model read.
    """

    query: str
    index: str
    threshold: float
    considered: tuple[Considered, ...]
    given: tuple[str, ...]


Event = Text | Token | ToolCall | ToolResult | Citation | Lookup | Confidence | Usage | Energy | Failure | Done


@dataclass(frozen=True, slots=True)
class Score:
    """How probable a continuation is after its context.

    Attributes:
        logprob: sum of natural log-probabilities of the continuation's tokens.
        greedy: whether each of them was the likeliest.
        tokens: number of continuation tokens scored.
        bytes: UTF-8 bytes of the continuation.
        cut: tokens left out at the context's beginning, where it was too long and that was asked for.
    """

    logprob: float
    greedy: bool
    tokens: int
    bytes: int
    cut: int = 0


@runtime_checkable
class Answerer(Protocol):
    """Anything that answers a conversation.

    `fingerprint` is a hex digest over all that can change an answer. A wrapper digests its own settings and the
    fingerprint of what it wraps. `capabilities` names what it offers (`logprobs`, `score`, `tools`, `local`, ...).
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[str]: ...

    def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """Yields events in order; the last one is `Done`."""
        ...


@runtime_checkable
class ScoringAnswerer(Answerer, Protocol):
    """An answerer that also knows probabilities. Wrappers transform `score` or do not offer it."""

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the assistant's next words."""
        ...


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document an index can give back."""

    id: str
    source: str
    title: str
    text: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Considered:
    """A passage a search weighed, and why it stands where it stands.

    Attributes:
        passage: it; its score is the re-ranker's relevance, in [0, 1].
        rank: its place after re-ranking, from 1.
        bm25_rank: its place among the candidates by BM25, from 1.
        bm25: that score, higher is nearer.
        fit: what the re-ranker orders by.
        sentence: the sentence that fits best.
        found: terms of the question that stand in it.
        asked: all terms of the question.
    """

    passage: Passage
    rank: int
    bm25_rank: int
    bm25: float
    fit: float
    sentence: str
    found: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


class Index(Protocol):
    """Something that finds passages for a query."""

    @property
    def fingerprint(self) -> str: ...

    def search(self, query: str, count: int) -> list[Passage]:
        """At most `count` passages, best first, with their scores set."""
        ...


class Tool(Protocol):
    """Something a model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]  # a JSON schema

    async def call(self, arguments: Mapping[str, Any]) -> str: ...


class Scorer(Protocol):
    """Something that judges an output: metric name -> value, or None where the metric does not apply."""

    @property
    def fingerprint(self) -> str: ...

    def score(self, sample: Any, output: str) -> Mapping[str, float | None]: ...


@dataclass(slots=True)
class Answer:
    """A whole answer, collected from events."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    confidence: Confidence | None = None
    usage: Usage | None = None
    failure: str | None = None
    reason: str = "error"
    model: str = ""
    calls: list[ToolCall] = field(default_factory=list)


async def collect(events: AsyncIterator[Event]) -> Answer:
    """Reads an answer's events to the end."""
    out = Answer()
    pieces: list[str] = []
    async for event in events:
        match event:
            case Text(text):
                pieces.append(text)
            case Token():
                out.tokens.append(event)
            case ToolCall():
                out.calls.append(event)
            case Citation():
                out.citations.append(event)
            case Confidence():
                out.confidence = event if event.start is None else out.confidence
            case Usage():
                out.usage = event
            case Failure(message):
                out.failure = message
            case Done(reason, model):
                out.reason, out.model = reason, model
            case _:
                pass
    out.text = "".join(pieces)
    return out
