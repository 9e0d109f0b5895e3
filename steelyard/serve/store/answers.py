"""Answers and how they were made: model, levers, sampler settings, and every token with its log-probability.

An answer's message is there from its first moment, empty; its text is written down while it grows (`drafts.py`); `finish` fills it
once. What was told to a client as `done` is stored; an answer that a crash cut off has the reason `interrupted`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from steelyard.serve.store import lookup, search, tables
from steelyard.serve.store.database import Database
from steelyard.serve.store.drafts import INTERRUPTED, Drafts
from steelyard.serve.store.errors import NotFoundError, StoreError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.messages import insert
from steelyard.serve.store.values import dump, finite, load, now, whole

LARGEST = 1 << 30  # bytes tokens may claim to unpack to


@dataclass
class Generation:
    """How an answer came to be.

    Attributes:
        model: the name it is served under.
        fingerprint: of all that can change the answer.
        levers: those the client asked for, as `{name: settings}`.
        settings: how it was drawn.
        reason: why it ended, or None while it has not; on the disk that is `interrupted`, until the true end takes its place.
        error: what went wrong, or None.
        usage: tokens read and written, seconds in all and to the first token, joules where they were told. Of an answer that was cut off
            it counts the tokens that came; what nobody told is None.
        confidence: value and kind of the last statement about all of it, `sentences` with places and values, and what it was calibrated on.
        citations: passages it was given to read.
        lookups: searches in documents, with what they weighed and why.
        tools: calls of tools and their results, in order.
        joined: how many messages the model read as the one turn that it answers; None in records of earlier versions.
        tokens: `{id, text, logprob, entropy, alternatives: [{text, logprob}]}` each; natural logarithms, nats.
    """

    model: str
    fingerprint: str
    levers: list[Any] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    error: str | None = None
    usage: dict[str, Any] | None = None
    confidence: dict[str, Any] | None = None
    citations: list[dict[str, Any]] = field(default_factory=list)
    lookups: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    joined: int | None = 1
    tokens: list[dict[str, Any]] = field(default_factory=list)

    def columns(self) -> dict[str, Any]:
        """The values of its row."""
        record = {name: getattr(self, name) for name in _RECORD} | {"reason": self.reason or INTERRUPTED}
        return {"model": self.model, "fingerprint": self.fingerprint, "record": whole(dump(record)), "tokens": _pack(self.tokens)}


_RECORD = ("levers", "settings", "reason", "error", "usage", "confidence", "citations", "lookups", "tools", "joined")


class Answers:
    """What models said in a store's conversations."""

    def __init__(self, database: Database, limits: StoreLimits):
        self._database, self._limits = database, limits
        self.drafts = Drafts(database)

    def begin(self, owner: str, conversation: str, parent: str, generation: Generation) -> str:
        """Adds an empty answer below a message and makes it the head; returns its id."""
        with self._database.writing() as connection:
            lookup.conversation(connection, owner, conversation, change=True)
            lookup.place(connection, conversation, parent)
            id = insert(connection, conversation, parent, "assistant", [], None, self._limits)
            connection.execute(tables.generations.insert(), {"message": id} | generation.columns())
        self.drafts.begin(owner, conversation, id)
        return id

    def grow(self, message: str, text: str) -> None:
        """More of an answer's text: on the disk soon, without waiting for it."""
        self.drafts.add(message, text)

    def finish(self, owner: str, conversation: str, message: str, text: str, generation: Generation) -> bool:
        """Fills an answer; False when it was erased meanwhile, and then nothing of it is kept."""
        self.drafts.end(message)
        try:
            return self._finish(owner, conversation, message, text, generation)
        finally:
            self.drafts.forget(message)

    def _finish(self, owner: str, conversation: str, message: str, text: str, generation: Generation) -> bool:
        table = tables.messages
        with self._database.writing() as connection:
            try:
                lookup.conversation(connection, owner, conversation, deleted=True, change=True)
            except NotFoundError:
                return False
            found = connection.execute(sa.select(table.c.erased).where(table.c.id == message, table.c.conversation == conversation)).first()
            if found is None or found.erased is not None:
                return False
            text = whole(text)
            parts = [{"type": "text", "text": text}] if text else []
            connection.execute(table.update().where(table.c.id == message).values(parts=dump(parts)))
            made = tables.generations
            connection.execute(made.update().where(made.c.message == message).values(generation.columns()))
            connection.execute(tables.conversations.update().where(tables.conversations.c.id == conversation).values(updated=now()))
            search.put(connection, "message", message, owner, conversation, text)
        return True

    def tokens(self, owner: str, message: str) -> dict[str, Any]:
        """The tokens of one answer."""
        with self._database.reading() as connection:
            row = lookup.message(connection, owner, message)
            lookup.place(connection, row.conversation, message)
            packed = connection.execute(sa.select(tables.generations.c.tokens).where(tables.generations.c.message == message)).scalar()
        return {"tokens": _unpack(packed)}


def record_of(row: Row[Any], tokens: bool) -> dict[str, Any]:
    """A generation's row as JSON."""
    return {"model": row.model, "fingerprint": row.fingerprint} | load(row.record) | {"tokens": _unpack(row.tokens) if tokens else []}


def _pack(tokens: Sequence[dict[str, Any]]) -> bytes | None:
    """Tokens as compressed JSON, each a list, because there are many."""
    if not tokens:
        return None
    rows = [
        [
            token["id"],
            whole(token["text"]),
            finite(token["logprob"]),
            finite(token["entropy"]),
            [[whole(other["text"]), finite(other["logprob"])] for other in token["alternatives"]],
        ]
        for token in tokens
    ]
    return zlib.compress(dump(rows).encode(), 3)


def _unpack(packed: bytes | None) -> list[dict[str, Any]]:
    if packed is None:
        return []
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(packed, LARGEST)
        if not unpacker.eof:
            raise ValueError("cut off")
        return [
            {
                "id": id,
                "text": text,
                "logprob": logprob,
                "entropy": entropy,
                "alternatives": [{"text": other, "logprob": chance} for other, chance in alternatives],
            }
            for id, text, logprob, entropy, alternatives in json.loads(raw)
        ]
    except (zlib.error, ValueError, TypeError) as error:
        raise StoreError(
            f"the tokens of an answer are damaged: {error}", where="generations", do="Restore a backup; the text itself can be read."
        ) from error
