"""Answers from a remote OpenAI-compatible endpoint (`POST {url}/chat/completions`, streamed).

What goes wrong before the answer begins is tried again where trying can help (no connection, 408, 429, 5xx), waiting as long as the
server asks or exponentially with jitter, and raises a `SteelyardError` where it cannot. What goes wrong afterwards ends the answer
with `Failure` and `Done("error")`: words already given are never asked for twice. Where nobody reads along (`whole`: a weighing),
words are given once all of them are there, so an answer that broke off is asked for again like one that never began.

HTTP is `httpx`'s: its requests can be cancelled from the event loop, and it verifies certificates, honours proxies and keeps
connections, which the standard library's client leaves to its user. It is imported when an endpoint is first asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import functools
import json
import os
import random
import re
import ssl
import time
import urllib.parse
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard.augment.chat_stream import LARGEST_BODY, ChatStream, Withheld, complaint_of, usage_of
from steelyard.augment.endpoint_scores import PromptScores, learned
from steelyard.augment.spending import Spending
from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Conversation, Done, Event, Failure, Score, Usage

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
LONGEST_WAIT = 60.0  # seconds; a server that asks for more is not waited for
LARGEST_REFUSAL = 64 * 1024  # bytes read of an error's body
CHARGED = ("/chat/completions", "/completions")
NOT_OPENAI = ("top_k", "min_p", "repetition_penalty", "ignore_eos")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class _Refusal:
    """Why a request got no answer, whether asking again can help, and how many seconds the server wants in between."""

    error: SteelyardError
    again: bool = False
    wait: float | None = None
    text: str = ""
    free: bool = True  # whether nothing can have been charged


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
        self.url, self.model, self.key = _checked(url), model, key
        if key is not None and not VARIABLE.fullmatch(key):  # it may be the key itself: it is not repeated
            raise SteelyardError("`key` is not the name of an environment variable", where=self.url, do="Write `key: OPENAI_API_KEY`.")
        self.timeout, self.deadline, self.retries, self.backoff = timeout, deadline, retries, backoff
        self.whole, self.spending = whole, spending
        self.scores: PromptScores | None = None
        self.date = date or datetime.datetime.now(datetime.UTC).date().isoformat()
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = weakref.WeakKeyDictionary()
        self._unknown_there: set[str] = set()

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
            SteelyardError: it cannot be reached or refuses access.
        """
        self.scores = await learned(self, start)
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
        until = time.monotonic() + self.deadline
        body = self._body(conversation, settings)
        if self.whole:
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
            late = until if attempt >= self.retries else now + (until - now) / 2  # a server that drips leaves time for another try
            try:
                async for event in self._once(body, settings, until, late):
                    events.append(event)
                return events
            except _Broken as broken:
                wait = self._wait(attempt)
                if not broken.again or attempt >= self.retries or time.monotonic() + wait > until:
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
        response, ticket = await self._opened("/chat/completions", body, until)
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
            problem = error if isinstance(error, SteelyardError) else SteelyardError(self._reached(error))
            told = SteelyardError(self._keyless(str(problem.at(self.url))))
            raise _Broken(told, again=not isinstance(problem, Withheld)) from error
        finally:
            self._settle(ticket, stream.usage)
            await response.aclose()

    async def asked(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON that a request of another kind is answered, asked for again as long as it does not arrive whole.

        Args:
            path: beneath the URL, such as `/completions`; `//tokenize` stands beside the version.
            body: what is posted; None to get what is there.

        Raises:
            SteelyardError: it was refused, or never arrived.
        """
        import httpx

        until, attempt = time.monotonic() + self.deadline, 0
        while True:
            response, ticket = await self._opened(path, body, until)
            read, usage = bytearray(), None
            try:
                async for chunk in response.aiter_bytes():
                    read += chunk
                    if len(read) > LARGEST_BODY or time.monotonic() > until:
                        raise SteelyardError(
                            f"the answer was larger than {LARGEST_BODY >> 20} MB, or not complete within {self.deadline:g} s"
                        )
                value = json.loads(read)
                usage = usage_of(value)
                return value
            except (SteelyardError, httpx.TransportError, httpx.DecodingError, ValueError, RecursionError) as error:
                wait = self._wait(attempt)
                if attempt >= self.retries or time.monotonic() + wait > until:
                    said = error.what if isinstance(error, SteelyardError) else "it sent something that is not JSON"
                    said = self._reached(error) if isinstance(error, httpx.HTTPError) else said
                    raise SteelyardError(self._keyless(said), where=self.url) from error
            finally:
                self._settle(ticket, usage)
                await response.aclose()
            await asyncio.sleep(wait)
            attempt += 1

    def _settle(self, ticket: str | None, usage: Usage | None, free: bool = False) -> None:
        if self.spending is not None and ticket is not None:
            self.spending.settle(ticket, usage, free=free)

    def _wait(self, attempt: int) -> float:
        """Seconds before the next try."""
        return self.backoff * 2**attempt * random.uniform(0.5, 1.5)

    async def aclose(self) -> None:
        """Closes the connections kept open in this event loop."""
        if client := self._clients.pop(asyncio.get_running_loop(), None):
            await client.aclose()

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

    async def _opened(self, path: str, body: dict[str, Any] | None, until: float) -> tuple[httpx.Response, str | None]:
        """The response to a request that was accepted, its body still to be read, and what it is to be settled under."""
        attempt, chats = 0, path == "/chat/completions"
        headers = self._headers()
        while True:
            charged = self.spending is not None and body is not None and path in CHARGED
            ticket = await self.spending.reserve(body) if charged else None  # type: ignore[union-attr, arg-type]
            free = False
            try:
                sent = _in_dialect(body, self._unknown_there) if chats and body else body
                outcome = await self._sent(path, sent, headers, until)
                if not isinstance(outcome, _Refusal):
                    accepted, ticket = ticket, None
                    return outcome, accepted
                free = outcome.free
            finally:
                self._settle(ticket, None, free)
            if chats and sent and self._learned(outcome.text, sent):
                continue
            if not outcome.again or attempt >= self.retries:
                raise outcome.error
            wait = outcome.wait if outcome.wait is not None else self._wait(attempt)
            if wait > LONGEST_WAIT or time.monotonic() + wait > until:
                raise outcome.error
            await asyncio.sleep(wait)
            attempt += 1

    async def _sent(self, path: str, body: dict[str, Any] | None, headers: dict[str, str], until: float) -> httpx.Response | _Refusal:
        import httpx

        client = self._client()
        place = self.url.removesuffix("/v1") + path[1:] if path.startswith("//") else self.url + path
        request = client.build_request("GET" if body is None else "POST", place, json=body, headers=headers)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                response = await client.send(request, stream=True)
                if response.status_code == 200 and "html" in response.headers.get("content-type", ""):
                    await response.aclose()  # a login page, a proxy's notice: no stream would ever come
                    said = "the endpoint answered with a web page, not with an answer"
                    return _Refusal(
                        SteelyardError(said, where=self.url, do="Check the URL: that of an API often ends in /v1."), again=self.whole
                    )
                if response.status_code == 200:
                    return response
                return await self._refusal(response)
        except TimeoutError:
            return _Refusal(
                SteelyardError(f"no answer within {self.deadline:g} s", where=self.url, do="Raise the deadline, or ask later."), free=False
            )
        except httpx.TransportError as error:
            trusted = not _untrusted(error)
            do = (
                "Check the URL, the network, and that the server runs." if trusted else "Name its authority's certificate in SSL_CERT_FILE."
            )
            free = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            return _Refusal(SteelyardError(self._keyless(self._reached(error)), where=self.url, do=do), again=trusted, free=free)

    async def _refusal(self, response: httpx.Response) -> _Refusal:
        """What a status other than 200 means, in the server's words where it gives any."""
        status = response.status_code
        read = bytearray()
        async for chunk in response.aiter_bytes():
            read += chunk
            if len(read) > LARGEST_REFUSAL:
                break
        await response.aclose()
        text = self._keyless(complaint_of(bytes(read)))
        said = f": {text}" if text else ""
        if status in (401, 403):
            named = f"the key in ${self.key}" if self.key and self.key.isupper() else "the key" if self.key else "`key`: none was sent"
            return _Refusal(SteelyardError(f"the endpoint refused access ({status}){said}", where=self.url, do=f"Check {named}."))
        if status in (300, 301, 302, 303, 307, 308):
            place = response.headers.get("location", "elsewhere")
            return _Refusal(SteelyardError(f"the endpoint redirects to {place}", where=self.url, do="Name that URL; a key is not sent on."))
        if status == 404:
            do = f"Check that the URL ends in the version (`/v1`) and that `{self.model}` is served there."
            return _Refusal(SteelyardError(f"not found (404){said}", where=self.url, do=do))
        if status in (400, 413) and re.search(r"context.?(length|window)|too (long|many tokens)|maximum.*tokens", text, re.I):
            return _Refusal(ContextLengthError(f"the endpoint says{said}", where=self.url, do="Shorten the conversation."), text=text)
        error = SteelyardError(
            f"the endpoint answered {status}{said}", where=self.url, do="Ask again later." if status in RETRIED else None
        )
        return _Refusal(
            error, again=status in RETRIED, wait=_seconds(response.headers.get("retry-after")), text=text if status < 500 else ""
        )

    def _learned(self, text: str, sent: dict[str, Any]) -> bool:
        """Whether a refusal names something that was sent and that the server does not know; of requests sent together, each hears it."""
        names = {"max_completion_tokens": "max_tokens", "stream_options": "stream_options", "logprobs": "logprobs"}
        news = {ours for said, ours in names.items() if said in text and ours in sent}
        self._unknown_there |= news
        return bool(news)

    def _headers(self) -> dict[str, str]:
        if self.key is None:
            return {}
        value = os.environ.get(self.key, "").strip()
        shown = f" `{self.key}`" if self.key.isupper() else ""  # small letters may be a key given in place of the name
        if not value:
            do = f"Run `export {self.key}=...`." if shown else None
            raise SteelyardError(f"the environment variable{shown} that `key` names is not set", where=self.url, do=do)
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise SteelyardError(f"the environment variable{shown} holds characters that no key has", where=self.url)
        return {"Authorization": f"Bearer {value}"}

    def _keyless(self, text: str) -> str:
        value = os.environ.get(self.key, "").strip() if self.key else ""
        return text.replace(value, "***") if value else text

    def _reached(self, error: Exception) -> str:
        """A transport error in our own words."""
        kind = type(error).__name__
        if kind in ("ReadTimeout", "WriteTimeout"):
            return f"the endpoint sent nothing for {self.timeout:g} s"
        if kind in ("ConnectTimeout", "PoolTimeout"):
            return "no connection to the endpoint within the time allowed"
        if kind in ("RemoteProtocolError", "ReadError"):
            return f"the endpoint broke off the connection ({error or kind})"
        return f"the endpoint could not be reached ({error or kind})"

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            try:
                import httpx
            except ImportError as error:
                raise UnsupportedError(
                    "asking an endpoint needs the package httpx", where=self.url, do="Run `pip install 'steelyard[endpoints]'`."
                ) from error
            patience = httpx.Timeout(self.timeout, connect=min(self.timeout, 15.0), pool=None)
            self._clients[loop] = httpx.AsyncClient(timeout=patience, limits=httpx.Limits(max_connections=None), verify=_trusted())
        return self._clients[loop]


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The authorities that certificates are checked against, read once: that takes longer than many answers."""
    import httpx

    return httpx.create_ssl_context()


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        raise SteelyardError("the endpoint's URL cannot be understood", do="Write `url: https://host/v1`.") from None
    if not good:
        raise SteelyardError(f"{url!r} is not the URL of an endpoint", do="Write `url: https://host/v1`.")
    if parts.username or parts.password:
        raise SteelyardError("the URL carries a name or password", where=parts.hostname, do="Put the key in a variable; name it in `key`.")
    if parts.query or parts.fragment:
        raise SteelyardError("the URL carries a query", where=parts.hostname, do="Write `url: https://host/v1`.")
    return url.strip().rstrip("/").removesuffix("/chat/completions")


def _in_dialect(body: dict[str, Any], unknown: set[str]) -> dict[str, Any]:
    body = dict(body)
    if "max_tokens" in unknown:
        body["max_completion_tokens"] = body.pop("max_tokens")
    if "logprobs" in unknown:
        body.pop("top_logprobs", None)
    return {name: value for name, value in body.items() if name not in unknown}


def _seconds(retry_after: str | None) -> float | None:
    """Seconds from a Retry-After header: a number, or a date."""
    if not retry_after:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            when = email.utils.parsedate_to_datetime(retry_after)
        except (ValueError, TypeError):
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        wait = (when - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(0.0, wait) if wait == wait else None


def _untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
