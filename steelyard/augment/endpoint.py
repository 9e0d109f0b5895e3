"""Answers from a remote OpenAI-compatible endpoint (`POST {url}/chat/completions`, streamed).

What goes wrong before the answer begins is tried again where trying can help (no connection, 408, 429, 5xx), waiting as long as the
server asks or exponentially with jitter, and raises a `SteelyardError` where it cannot. What goes wrong afterwards ends the answer
with `Failure` and `Done("error")`: words already given are never asked for twice. Where nobody reads along (`whole`: a weighing),
words are given once all of them are there, so an answer that broke off is asked for again like one that never began.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from steelyard.augment.chat_stream import ChatStream, Withheld
from steelyard.augment.endpoint_requests import EndpointRequests
from steelyard.augment.endpoint_scores import PromptScores, learned
from steelyard.augment.spending import Spending
from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Conversation, Done, Event, Failure, Score

NOT_OPENAI = ("top_k", "min_p", "repetition_penalty", "ignore_eos")


class _Broken(Exception):
    """An answer that went wrong after it had begun, and whether asking again can help."""

    def __init__(self, error: SteelyardError, again: bool):
        super().__init__(str(error))
        self.error, self.again = error, again


class EndpointAnswerer:
    """A model behind an OpenAI-compatible URL. Satisfies `core.protocols.Answerer`; it offers no scores.

    Servers differ in three things, learned from their refusal and remembered: the name of the token limit
    (`max_completion_tokens`), and whether they know `stream_options` and `logprobs`. Without the last two the answer simply
    carries no `Usage` or `Token`, and what needs those is not measurable. Every other refusal is the user's to see.

    Args:
        url: up to and including the version, such as `https://host/v1`.
        model: the model's id there.
        key: name of the environment variable that holds the key, or None. The key itself is read when a request is sent; it is
            never stored, printed or put into an error.
        timeout: seconds without a single byte from the server after which it counts as gone.
        deadline: seconds one answer may take in all, retries included.
        retries: how often a request that got no answer is sent again.
        backoff: seconds before the first of these, on average; each further one waits twice as long.
        whole: give an answer's words only once all are there, and ask again where it broke off.
        spending: the account that requests are charged to, with its cap; None for none.
        date: part of the fingerprint, since what a remote name stands for changes with time; today (UTC) by default.

    Raises:
        SteelyardError: a URL that is none or carries a password, or a `key` that is not the name of a variable.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        deadline: float = 600.0,
        retries: int = 4,
        backoff: float = 1.0,
        whole: bool = False,
        spending: Spending | None = None,
        date: str | None = None,
    ):
        self.requests = EndpointRequests(url, model, key, timeout, deadline, retries, backoff, whole, spending)
        self.url, self.model = self.requests.url, model
        self.scores: PromptScores | None = None
        self.date = date or datetime.datetime.now(datetime.UTC).date().isoformat()

    @property
    def fingerprint(self) -> str:
        """Digest of URL, model id and date."""
        return digest(["endpoint", self.url, self.model, self.date])

    @property
    def capabilities(self) -> frozenset[str]:
        """`remote`: whether log-probabilities of answers come is known only when asked; if they do, `Token` events carry them.

        `score` once `learn` has found that the server tells those of given texts, and how it writes a conversation.
        """
        return frozenset({"remote", "score"} if self.scores is not None and self.scores.renders else {"remote"})

    async def learn(self, start: str = "") -> bool:
        """Asks once whether the server tells the log-probabilities of a text it is given; `scores` reads them then.

        Args:
            start: the text of the token that a text without context follows; the server's own word for it if empty.

        Raises:
            UnreachedError: it cannot be reached, refuses access, or has no time.
        """
        self.scores = await learned(self.requests, start)
        return self.scores is not None

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the assistant's next words.

        Raises:
            UnsupportedError: the server does not tell.
            SteelyardError: the request failed.
        """
        if self.scores is None:
            raise UnsupportedError("it does not tell the log-probabilities of given texts", where=self.url)
        return await self.scores.of_conversation(conversation, continuations)

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """Yields events as the server streams them; the last is `Done`. Leaving the generator closes the connection.

        Raises:
            UnsupportedError: a setting that the OpenAI API does not have, at another than its neutral value.
            ContextLengthError: the server says the conversation is too long.
            SpendError: the request might cost more than may be spent.
            SteelyardError: the request was refused, or nothing could be reached.
        """
        until = time.monotonic() + self.requests.deadline
        body = self._body(conversation, settings)
        if self.requests.whole:
            for event in await self._complete(body, settings, until):
                yield event
            return
        try:
            async with contextlib.aclosing(self._once(body, settings, until, until)) as events:
                async for event in events:
                    yield event
        except _Broken as broken:
            yield Failure(broken.error.args[0])
            yield Done("error")

    async def _complete(self, body: dict[str, Any], settings: AnswerSettings, until: float) -> list[Event]:
        """All events of an answer, asked for again as long as it breaks off and that may help."""
        attempt = 0
        while True:
            events: list[Event] = []
            now = time.monotonic()
            late = until if attempt >= self.requests.retries else now + (until - now) / 2  # a server that drips leaves time for another try
            try:
                async for event in self._once(body, settings, until, late):
                    events.append(event)
                return events
            except _Broken as broken:
                wait = self.requests.wait(attempt)
                if not broken.again or attempt >= self.requests.retries or time.monotonic() + wait > until:
                    return [*events, Failure(broken.error.args[0]), Done("error")]
            await asyncio.sleep(wait)
            attempt += 1

    async def _once(self, body: dict[str, Any], settings: AnswerSettings, until: float, late: float) -> AsyncGenerator[Event]:
        """One answer, that has to begin by `until` and end by `late`.

        Raises:
            _Broken: it went wrong on the way.
        """
        import httpx

        begun = time.monotonic()
        response, ticket = await self.requests.opened("/chat/completions", body, until)
        stream = ChatStream(settings, "json" in response.headers.get("content-type", ""))
        try:
            async for chunk in response.aiter_bytes():
                for event in stream.took(chunk):
                    yield event
                if stream.complete:
                    break
                if time.monotonic() > late:
                    raise SteelyardError(f"the answer was not complete within {late - begun:.3g} s")
            for event in stream.ended():
                yield event
        except (SteelyardError, httpx.TransportError, httpx.DecodingError) as error:
            problem = error if isinstance(error, SteelyardError) else SteelyardError(self.requests.reached(error))
            told = SteelyardError(self.requests.keyless(str(problem.at(self.url))))
            raise _Broken(told, again=not isinstance(problem, Withheld)) from error
        finally:
            self.requests.settle(ticket, stream.usage)
            await response.aclose()

    async def aclose(self) -> None:
        """Closes the connections kept open in this event loop."""
        await self.requests.aclose()

    def _body(self, conversation: Conversation, settings: AnswerSettings) -> dict[str, Any]:
        neutral = AnswerSettings()
        if refused := [f"`{name}`" for name in NOT_OPENAI if getattr(settings, name) != getattr(neutral, name)]:
            raise UnsupportedError(
                f"the OpenAI API has no setting {', '.join(refused)}",
                where=self.url,
                do="Leave it at its default for this arm, or run the model here.",
            )
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.as_dict() for message in conversation],
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if settings.temperature > 0:
            body |= {"top_p": settings.top_p, "seed": settings.seed}
        body |= {name: value for name in ("presence_penalty", "frequency_penalty") if (value := getattr(settings, name))}
        if settings.logit_bias:
            body["logit_bias"] = {str(id): bias for id, bias in settings.logit_bias}
        if settings.tools:
            body["tools"] = [json.loads(tool) for tool in settings.tools]
        if settings.stop:
            body["stop"] = list(settings.stop)
        if settings.constraint is not None:
            body["response_format"] = self._response_format(settings.constraint)
        if settings.token_events:
            body["logprobs"] = True
            if settings.alternatives:
                body["top_logprobs"] = settings.alternatives
        return body

    def _response_format(self, form: AnswerForm) -> dict[str, Any]:
        if form.kind != "json_schema":
            raise UnsupportedError(
                f"the OpenAI API has no constraint of the kind {form.kind}",
                where=self.url,
                do="Use a JSON schema for this arm, or run the model here.",
            )
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(form.source), "strict": True}}
