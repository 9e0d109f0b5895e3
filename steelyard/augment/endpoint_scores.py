"""Log-probabilities of given texts from an endpoint: `POST /completions` with `echo` and `logprobs`, where the server has them.

The rules are those of `generate/scoring.py`: tokens are those of the joined text, white space at the context's end belongs to the
continuation, a text without context follows the model's start token. Where the continuation begins is told by the tokens' offsets.
A conversation is written by the server's own template (`/tokenize` with `messages`, then `/detokenize`), as vLLM and `steelyard
serve` offer it. Servers that tell only the probabilities of what they write themselves (most paid ones) have none of this.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from steelyard.augment.endpoint_requests import UnreachedError
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.protocols import Conversation, Message, Score

PROBE = "One and one is two"
KEPT = 4096  # scores and written conversations that are remembered


class Endpoint(Protocol):
    """A server that can be asked."""

    url: str
    model: str

    async def asked(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON that a request is answered."""
        ...


async def learned(endpoint: Endpoint, start: str = "") -> PromptScores | None:
    """What reads a server's probabilities of given texts, or None where it tells none.

    Raises:
        UnreachedError: it cannot be reached, refuses access, or has no time.
    """
    found = None
    for most in (0, 1):  # some servers write at least one token
        candidate = PromptScores(endpoint, start, most)
        try:
            await candidate.of_text("One and one", " is two")
        except UnreachedError:
            raise
        except SteelyardError:
            continue
        found = candidate
        break
    if found is None:
        return None
    found.start = start or await _start_of(endpoint)
    try:
        found.renders = PROBE in await found.written((Message("user", PROBE),))
    except UnreachedError:
        raise
    except SteelyardError:
        found.renders = False
    return found


async def _start_of(endpoint: Endpoint) -> str:
    """The text of the token that texts without context follow, as `steelyard serve` tells it; empty from other servers."""
    try:
        told = await endpoint.asked(f"/models/{endpoint.model}")
    except SteelyardError:
        return ""
    own = told.get("steelyard") if isinstance(told, dict) else None
    start = own.get("start") if isinstance(own, dict) else None
    return start if isinstance(start, str) else ""


@dataclass
class PromptScores:
    """Reads one server's probabilities of given texts.

    Attributes:
        endpoint: what is asked.
        start: the text of the start token, or "" where it is not known.
        most: tokens that the server is to write, because it does not take 0.
        renders: whether it writes conversations as text.
    """

    endpoint: Endpoint
    start: str = ""
    most: int = 0
    renders: bool = False
    _known: dict[tuple[str, str], Score] = field(default_factory=dict)
    _written: dict[tuple[Message, ...], str] = field(default_factory=dict)

    async def of_conversation(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        """Log-probability of each continuation as the assistant's next words.

        Raises:
            SteelyardError: an empty continuation, or a request that failed.
        """
        prompt = await self.written(conversation)
        return [await self.of_text(prompt, continuation) for continuation in continuations]

    async def of_texts(self, pairs: Sequence[tuple[str, str]], together: int) -> list[Score]:
        """Log-probability of each continuation after its context, so many asked at once.

        Raises:
            SteelyardError: the first that was refused; the others have been waited for, and are remembered.
        """
        gate = asyncio.Semaphore(max(together, 1))

        async def one(context: str, continuation: str) -> Score:
            async with gate:
                return await self.of_text(context, continuation)

        found = await asyncio.gather(*(one(*pair) for pair in pairs), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [each for each in found if isinstance(each, Score)]

    async def of_text(self, context: str, continuation: str) -> Score:
        """Log-probability of a continuation after its context.

        Raises:
            UnsupportedError: the server does not tell, or not what a text without context follows.
            SteelyardError: an empty continuation, or a request that failed.
        """
        if (context, continuation) in self._known:
            return self._known[context, continuation]
        if not continuation:
            raise SteelyardError("an empty continuation has no probability to speak of", where="score", do="Leave the pair out.")
        border = len(context.rstrip())
        prompt = context + continuation
        if not border:
            prompt, border = self.start + prompt, len(self.start)
        body = {"model": self.endpoint.model, "prompt": prompt, "max_tokens": self.most, "echo": True, "logprobs": 1, "temperature": 0}
        tokens = _tokens(await self.endpoint.asked("/completions", body), prompt)
        scored = [token for token in tokens if token.begin >= border or token.end > border]
        if any(token.logprob is None for token in scored) or not scored:
            missing = "what a text without context follows" if not border else "the log-probabilities of all its tokens"
            raise UnsupportedError(
                f"the server does not tell {missing}", where=self.endpoint.url, do="Name the start token's text under `start`."
            )
        score = Score(
            math.fsum(token.logprob or 0.0 for token in scored),
            all(token.greedy for token in scored),
            len(scored),
            len(continuation.encode("utf-8", "surrogatepass")),
        )
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[context, continuation] = score
        return score

    async def written(self, conversation: Conversation) -> str:
        """A conversation as the text the model reads, up to where its answer begins.

        Raises:
            SteelyardError: the server does not write it.
        """
        key = tuple(conversation)
        if key not in self._written:
            turns = [message.as_dict() for message in conversation]
            ids = (await self.endpoint.asked("//tokenize", {"model": self.endpoint.model, "messages": turns})).get("tokens")
            told = await self.endpoint.asked("//detokenize", {"model": self.endpoint.model, "tokens": ids})
            if not isinstance(text := told.get("prompt") if isinstance(told, dict) else None, str):
                raise UnsupportedError("the server does not write conversations as text", where=self.endpoint.url)
            if len(self._written) >= KEPT:
                self._written.clear()
            self._written[key] = text
        return self._written[key]


@dataclass(frozen=True)
class _Told:
    """One token of a prompt: where in it, how probable (None: not told), and whether it was the likeliest."""

    begin: int
    end: int
    logprob: float | None
    greedy: bool


def _tokens(answer: Any, prompt: str) -> list[_Told]:
    """The prompt's tokens, from the answer that repeats it.

    Raises:
        UnsupportedError: the answer does not tell them, or they are not the prompt's.
    """
    try:
        told = answer["choices"][0]["logprobs"]
        texts, values, tops, offsets = told["tokens"], told["token_logprobs"], told["top_logprobs"], told["text_offset"]
        values = [None if value is None else float(value) for value in values]
        likeliest = [None if not top else max(map(float, top.values())) for top in tops]
        whole = len(texts) == len(values) == len(likeliest) == len(offsets) and all(isinstance(one, str) for one in texts)
        begins = [int(offset) - int(offsets[0]) for offset in offsets]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UnsupportedError("the server does not tell the log-probabilities of a prompt") from error
    ends = [*begins[1:], begins[-1] + len(texts[-1])] if begins else []
    if not whole or not begins or any(end < begin for begin, end in zip(begins, ends, strict=True)):
        raise UnsupportedError("the server's tokens do not add up to a text")
    text = answer["choices"][0].get("text")
    ahead = text.find(prompt) if isinstance(text, str) else -1  # a start token of its own may stand before it
    if ahead < 0:
        raise UnsupportedError("the server does not give the prompt back as it was")
    # Where offsets count a start token that the text leaves out, tokens' texts and the text differ by it.
    ahead += max(0, ends[-1] - len(text)) if isinstance(text, str) else 0
    out = []
    for begin, end, value, top in zip(begins, ends, values, likeliest, strict=True):
        if begin - ahead < len(prompt) and end - ahead >= 0:
            greedy = value is not None and top is not None and value >= top - 1e-9
            if value is not None and math.isnan(value):
                raise SteelyardError("the model gave not-a-number")
            out.append(_Told(begin - ahead, end - ahead, value, greedy))
    return out
