"""Turns the body of an OpenAI-compatible chat completion, streamed or whole, into events."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from steelyard.augment.server_sent_events import EventParser
from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings, Done, Event, Text, Token, ToolCall, Usage

LARGEST_BODY = 64 * 1024 * 1024  # bytes of one answer
LONGEST_NAME = 200  # characters of a model's id
REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"}


class Withheld(SteelyardError):
    """The server ended the answer on purpose: asking once more would bring the same."""


class ChatStream:
    """Reads one answer.

    `Token` events (where `settings.token_events` asks and the server gives log-probabilities) have the id -1 and no entropy (NaN): the
    protocol tells neither. `sampled_logprob` is known only where nothing shapes the distribution, and is NaN elsewhere.

    Args:
        settings: what was asked for.
        whole: the body is one JSON document, from a server that does not stream.
    """

    def __init__(self, settings: AnswerSettings, whole: bool = False):
        self.settings, self.whole = settings, whole
        self.complete = False
        self._parser = EventParser()
        self._held = bytearray()
        self._read = 0
        self._reason: str | None = None
        self._usage: Usage | None = None
        self.model = ""
        self._calls: dict[int, dict[str, str]] = {}

    @property
    def usage(self) -> Usage | None:
        """The tokens read and written, as far as they have been told."""
        return self._usage

    def took(self, chunk: bytes) -> Iterator[Event]:
        """The events that these bytes of the body complete.

        Raises:
            SteelyardError: the server reports an error, or sends what is no chat completion.
        """
        self._read += len(chunk)
        if self._read > LARGEST_BODY:
            raise SteelyardError(f"the answer is larger than {LARGEST_BODY >> 20} MB")
        if self.whole:
            self._held += chunk
            return
        for event in self._parser.feed(chunk):
            if event.data.strip() == "[DONE]":
                self.complete = True
                return
            yield from self._frame(_parsed(event.data), event.type)

    def ended(self) -> Iterator[Event]:
        """What remains to be said when the body has ended: tool calls, usage and `Done`.

        Raises:
            SteelyardError: the answer was broken off, or withheld.
        """
        if self.whole:
            yield from self._frame(_parsed(self._held.decode("utf-8", "replace")), "message")
        if self._reason is None and not self.complete:
            raise SteelyardError("the endpoint broke off the answer before its end")
        if self._reason not in (None, *REASONS):
            raise Withheld(f"the endpoint ended the answer for another reason: {str(self._reason)[:80]}")
        for call in self._calls.values():
            yield ToolCall(call["id"], call["name"], call["arguments"])
        if self._usage:
            yield self._usage
        yield Done(REASONS[self._reason or "stop"], self.model)  # type: ignore[arg-type]

    def _frame(self, frame: Any, kind: str) -> Iterator[Event]:
        if not isinstance(frame, dict):
            raise SteelyardError(f"the endpoint sent {_short(frame)} where a chat completion belongs")
        if kind == "error" or frame.get("error"):
            raise SteelyardError(f"the endpoint reports: {_message(frame)}")
        if isinstance(named := frame.get("model"), str) and named:
            self.model = named[:LONGEST_NAME]
        if isinstance(frame.get("usage"), dict):
            self._usage = usage_of(frame)
        choices = frame.get("choices")
        if not isinstance(choices, list) and not (choices is None and "usage" in frame):
            raise SteelyardError(f"the endpoint sent {_short(frame)} where a chat completion belongs")
        for choice in choices or ():
            try:
                if choice.get("index") not in (0, None):
                    continue
                yield from self._choice(choice)
            except (AttributeError, TypeError, KeyError) as error:
                raise SteelyardError(f"the endpoint sent {_short(choice)} where a choice belongs") from error

    def _choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        delta = choice.get("delta") or choice.get("message") or {}
        if self.settings.token_events and choice.get("logprobs"):
            for entry in choice["logprobs"].get("content") or ():
                yield self._token(entry)
        if content := delta.get("content"):
            if not isinstance(content, str):
                raise TypeError("content is not text")
            yield Text(content)
        for number, call in enumerate(delta.get("tool_calls") or ()):
            held = self._calls.setdefault(call.get("index", number), {"id": "", "name": "", "arguments": ""})
            held["id"] = call.get("id") or held["id"]
            held["name"] += (call.get("function") or {}).get("name") or ""
            held["arguments"] += (call.get("function") or {}).get("arguments") or ""
        if choice.get("finish_reason"):
            self._reason = choice["finish_reason"]

    def _token(self, entry: dict[str, Any]) -> Token:
        plain = self.settings.temperature == 1 and self.settings.top_p == 1
        plain = plain and not self.settings.presence_penalty and not self.settings.frequency_penalty
        plain = plain and not self.settings.logit_bias
        logprob = float(entry["logprob"])
        others = tuple((-1, float(other["logprob"])) for other in entry.get("top_logprobs") or ())
        return Token(-1, str(entry["token"]), logprob, math.nan, logprob if plain else math.nan, others)


def usage_of(frame: Any) -> Usage | None:
    """Tokens read and written, where an answer tells them."""
    usage = frame.get("usage") if isinstance(frame, dict) else None
    return Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))) if isinstance(usage, dict) else None


def complaint_of(body: bytes) -> str:
    """The words of an error's body: OpenAI's `error.message`, a FastAPI `detail`, or its first line of text."""
    text = body.decode("utf-8", "replace")
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        return "" if first.startswith("<") else first[:300]
    return _message(frame) if isinstance(frame, dict) else _short(frame)


def _message(frame: dict[str, Any]) -> str:
    error = frame.get("error", frame.get("detail", frame.get("message", frame)))
    words = error.get("message", error) if isinstance(error, dict) else error
    return words[:600] if isinstance(words, str) else _short(words)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SteelyardError(f"the endpoint sent something that is not JSON: {text[:120]!r}") from error


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
