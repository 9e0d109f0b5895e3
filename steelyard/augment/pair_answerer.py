"""An encoder-decoder as an answerer: it reads the last message and writes the likeliest answer, token by token.

The engine runs trunks that go on with one text; this one reads one text and writes another, so it answers by itself: one question at
a time, greedily, without a prefix cache, speculation or processors. What was said before the last message is not read.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

import torch

from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Conversation, Done, Event, Text, Usage
from steelyard.core.threads import apart
from steelyard.model.encoder_decoder import EncoderDecoder
from steelyard.model.model import Model

FOLLOWED = frozenset({"max_tokens", "seed", "tenant", "top_k", "top_p", "min_p"})
"""Settings that it follows, or that change nothing at temperature 0; any other that is not at its default is refused."""
ONE_MESSAGE = "This model reads one message at a time: what was said before is not read."


class PairAnswerer:
    """Satisfies `core.protocols.Answerer`.

    Args:
        model: whose trunk is an `EncoderDecoder`.

    Raises:
        UnsupportedError: it is none, or has no tokenizer.
    """

    capabilities: frozenset[str] = frozenset({"local"})

    def __init__(self, model: Model):
        if not isinstance(model.trunk, EncoderDecoder) or model.tokenizer is None:
            raise UnsupportedError(f"{model.name} is no encoder-decoder with a tokenizer", do="Open it in the engine.")
        self.model, self.tokenizer = model, model.tokenizer
        self.trunk: EncoderDecoder = model.trunk
        self._alone = threading.Lock()

    @property
    def fingerprint(self) -> str:
        return digest(["greedy pairs", self.model.fingerprint])

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        """Yields the text, what was used, and `Done`.

        Raises:
            SteelyardError: a conversation without a question, a message longer than the context, or settings it does not follow.
        """
        ids = self.read(conversation, settings)
        written, reason = await asyncio.to_thread(lambda: apart(lambda: self.write(ids, settings)))
        if text := self.tokenizer.decode(written, skip_special=True):
            yield Text(text)
        yield Usage(len(ids), len(written))
        yield Done(reason)

    def room(self, conversation: Conversation) -> int:
        """Tokens of the longest answer: reading takes none of them."""
        return self.trunk.plan.context - 1

    def count(self, text: str) -> int:
        """Tokens that the model reads a text as."""
        return len(self.tokenizer.encode(text))

    def read(self, conversation: Conversation, settings: AnswerSettings) -> list[int]:
        """The tokens of the last message, which is all that is read.

        Raises:
            SteelyardError: see `answer`.
        """
        for field in fields(settings):
            if field.name not in FOLLOWED and getattr(settings, field.name) != field.default:
                do = "Use temperature 0." if field.name == "temperature" else f"Leave `{field.name}` out."
                raise UnsupportedError(f"{self.model.name} is an encoder-decoder and writes the likeliest text: no `{field.name}`", do=do)
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

    def write(self, ids: list[int], settings: AnswerSettings) -> tuple[list[int], Any]:
        """The likeliest answer and why it ended."""
        most = min(settings.max_tokens, self.trunk.plan.context - 1)
        with self._alone, torch.inference_mode():
            encoded = self.trunk.encode(torch.tensor([ids], device=self.trunk.device), [len(ids)])
            # One more than may be written: whether the border would have come next tells why it ended.
            (written,) = self.trunk.answer(encoded, most + 1)
        return (written[:most], "length") if len(written) > most else (written, "stop")


def answerer_for(model: Model) -> PairAnswerer | None:
    """What answers for a model that the engine does not run, or None for all others."""
    return PairAnswerer(model) if isinstance(model.trunk, EncoderDecoder) else None
