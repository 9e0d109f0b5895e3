"""Requests to one OpenAI-compatible server: sent, refused in its words or ours, tried again where that can help, and paid for.

No connection, 408, 429 and 5xx are tried again, waiting as long as the server asks or exponentially with jitter.

HTTP is `httpx`'s: its requests can be cancelled from the event loop, and it verifies certificates, honours proxies and keeps
connections, which the standard library's client leaves to its user. It is imported when an endpoint is first asked.
"""

from __future__ import annotations

import asyncio
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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard.augment.chat_stream import LARGEST_BODY, complaint_of, usage_of
from steelyard.augment.spending import Spending
from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.protocols import Usage

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
NO_TIME = frozenset({429, 503, 529})  # of these, the ones that say nothing about the request
LONGEST_WAIT = 60.0  # seconds; a server that asks for more is not waited for
LARGEST_REFUSAL = 64 * 1024  # bytes read of an error's body
CHARGED = ("/chat/completions", "/completions")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class UnreachedError(SteelyardError):
    """There was no server, no way in, or no time for us: what the server can do is not to be learned from it."""


@dataclass(frozen=True)
class _Refusal:
    """Why a request got no answer, whether asking again can help, and how many seconds the server wants in between."""

    error: SteelyardError
    again: bool = False
    wait: float | None = None
    text: str = ""
    free: bool = True  # whether nothing can have been charged


@dataclass(eq=False)
class EndpointRequests:
    """One server's address, key and patience, what it does not know, and the connections kept open to it.

    Attributes: see `EndpointAnswerer`; of `key`, the value is read when a request is sent.

    Raises:
        SteelyardError: a URL that is none or carries a password, or a `key` that is not the name of a variable.
    """

    url: str
    model: str
    key: str | None
    timeout: float
    deadline: float
    retries: int
    backoff: float
    whole: bool
    spending: Spending | None

    def __post_init__(self) -> None:
        self.url = _checked(self.url)
        if self.key is not None and not VARIABLE.fullmatch(self.key):  # it may be the key itself: it is not repeated
            raise SteelyardError("`key` is not the name of an environment variable", where=self.url, do="Write `key: OPENAI_API_KEY`.")
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = weakref.WeakKeyDictionary()
        self._unknown_there: set[str] = set()

    async def asked(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON that a request of another kind is answered, asked for again as long as it does not arrive whole.

        Args:
            path: beneath the URL, such as `/completions`; `//tokenize` stands beside the version.
            body: what is posted; None to get what is there.

        Raises:
            UnreachedError: nobody was there to ask, or let us in.
            SteelyardError: it was refused, or never arrived whole.
        """
        import httpx

        until, attempt = time.monotonic() + self.deadline, 0
        while True:
            response, ticket = await self.opened(path, body, until)
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
                wait = self.wait(attempt)
                if attempt >= self.retries or time.monotonic() + wait > until:
                    if isinstance(error, httpx.HTTPError):
                        raise UnreachedError(self.keyless(self.reached(error)), where=self.url) from error
                    said = error.what if isinstance(error, SteelyardError) else "it sent something that is not JSON"
                    raise SteelyardError(self.keyless(said), where=self.url) from error
            finally:
                self.settle(ticket, usage)
                await response.aclose()
            await asyncio.sleep(wait)
            attempt += 1

    async def opened(self, path: str, body: dict[str, Any] | None, until: float) -> tuple[httpx.Response, str | None]:
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
                self.settle(ticket, None, free)
            if chats and sent and self._learned(outcome.text, sent):
                continue
            if not outcome.again or attempt >= self.retries:
                raise outcome.error
            wait = outcome.wait if outcome.wait is not None else self.wait(attempt)
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
                UnreachedError(f"no answer within {self.deadline:g} s", where=self.url, do="Raise the deadline, or ask later."), free=False
            )
        except httpx.TransportError as error:
            trusted = not _untrusted(error)
            do = (
                "Check the URL, the network, and that the server runs." if trusted else "Name its authority's certificate in SSL_CERT_FILE."
            )
            free = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            return _Refusal(UnreachedError(self.keyless(self.reached(error)), where=self.url, do=do), again=trusted, free=free)

    async def _refusal(self, response: httpx.Response) -> _Refusal:
        """What a status other than 200 means, in the server's words where it gives any."""
        status = response.status_code
        read = bytearray()
        async for chunk in response.aiter_bytes():
            read += chunk
            if len(read) > LARGEST_REFUSAL:
                break
        await response.aclose()
        text = self.keyless(complaint_of(bytes(read)))
        said = f": {text}" if text else ""
        if status in (401, 403):
            named = f"the key in ${self.key}" if self.key and self.key.isupper() else "the key" if self.key else "`key`: none was sent"
            return _Refusal(UnreachedError(f"the endpoint refused access ({status}){said}", where=self.url, do=f"Check {named}."))
        if status in (300, 301, 302, 303, 307, 308):
            place = response.headers.get("location", "elsewhere")
            return _Refusal(SteelyardError(f"the endpoint redirects to {place}", where=self.url, do="Name that URL; a key is not sent on."))
        if status == 404:
            do = f"Check that the URL ends in the version (`/v1`) and that `{self.model}` is served there."
            return _Refusal(SteelyardError(f"not found (404){said}", where=self.url, do=do))
        if status in (400, 413) and re.search(r"context.?(length|window)|too (long|many tokens)|maximum.*tokens", text, re.I):
            return _Refusal(ContextLengthError(f"the endpoint says{said}", where=self.url, do="Shorten the conversation."), text=text)
        kind = UnreachedError if status in NO_TIME else SteelyardError
        error = kind(f"the endpoint answered {status}{said}", where=self.url, do="Ask again later." if status in RETRIED else None)
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
            raise UnreachedError(f"the environment variable{shown} that `key` names is not set", where=self.url, do=do)
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise UnreachedError(f"the environment variable{shown} holds characters that no key has", where=self.url)
        return {"Authorization": f"Bearer {value}"}

    def keyless(self, text: str) -> str:
        """A text without the key, should a server have quoted it."""
        value = os.environ.get(self.key, "").strip() if self.key else ""
        return text.replace(value, "***") if value else text

    def reached(self, error: Exception) -> str:
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

    def settle(self, ticket: str | None, usage: Usage | None, free: bool = False) -> None:
        """Charges what a request used to the account, in the place of what was set aside for it."""
        if self.spending is not None and ticket is not None:
            self.spending.settle(ticket, usage, free=free)

    def wait(self, attempt: int) -> float:
        """Seconds before the next try."""
        return self.backoff * 2**attempt * random.uniform(0.5, 1.5)

    async def aclose(self) -> None:
        """Closes the connections kept open in this event loop."""
        if client := self._clients.pop(asyncio.get_running_loop(), None):
            await client.aclose()


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
