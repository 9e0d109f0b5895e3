"""Attached files: each content is kept once, under its digest, in the database itself.

So a file is there if and only if the transaction that added it ended, replicas over one PostgreSQL all see it, and erasing rows
erases it. The name a client gives is shown to people and used for nothing else.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from steelyard.serve.reading import Reading, What, current
from steelyard.serve.store import tables
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import TooLargeError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.readings import needs, reading_of
from steelyard.serve.store.sniffing import sniff
from steelyard.serve.store.values import dump, known_id, load, missing, new_id, now, said

_TABLE, _BLOBS = tables.attachments, tables.blobs
_HOLDERS = (tables.message_attachments, tables.index_documents)
_NAME = 255  # characters of a name


@dataclass(frozen=True)
class Piece:
    """Where a picture was cut out: the picture's id and name, and left, top, width, height in its pixels. It may be gone by now."""

    origin: str
    name: str
    rectangle: tuple[int, int, int, int]


@dataclass(frozen=True)
class Attached:
    """A file.

    Attributes:
        name: as its person called it, without folders.
        type: the sniffed media type.
        content: its bytes.
        sha256: their digest.
        reading: what was read of it, or None where nothing was yet or nothing is to be.
        piece: which part of which picture it is, or None where it is none.
    """

    name: str
    type: str
    content: bytes
    sha256: str = ""
    reading: Reading | None = None
    piece: Piece | None = None

    @property
    def needs(self) -> What | None:
        """How it is to be read before a model can read it; None where nothing is left to do."""
        return None if self.reading is not None else needs(self.type, self.content)


class Attachments:
    """The attachments of a store."""

    def __init__(self, database: Database, limits: StoreLimits):
        self._database, self._limits = database, limits

    def add(self, owner: str, name: str, content: bytes, piece: Piece | None = None) -> dict[str, Any]:
        """Keeps a file; returns id, name, sniffed type and size. `piece`: which part of another of the person's pictures it is.

        Raises:
            DataError: it is of no kind that is taken.
            TooLargeError: it is too large, unpacks to too much, or the person's files together are too large.
        """
        name = plain_name(name)
        check_size(len(content), self._limits, name)
        kind = sniff(content, name, self._limits)
        with self._database.writing() as connection:
            self._drop_unused(connection, _TABLE.c.owner == owner)
            id = keep(connection, self._database, owner, name, kind, content, piece=piece)
            if (total := held_bytes(connection, owner)) > self._limits.owner_bytes:
                what = f"with it your files have {total:,} bytes; {self._limits.owner_bytes:,} are allowed"
                raise TooLargeError(what, where=name, do="Erase conversations with files you no longer need.")
        return {"id": id, "name": name, "type": kind, "size": len(content)}

    def read(self, owner: str, id: str) -> Attached:
        """A person's file."""
        with self._database.reading() as connection:
            return read(connection, owner, id)

    def unread(self, owner: str) -> list[str]:
        """A person's files that were sent with messages and are to be read before a model can read them, but were not yet: imported ones,
        and those whose reader was not installed when they came."""
        texts, sent = tables.readings, tables.message_attachments
        beginning = sa.func.substr(_BLOBS.c.content, 1, 2048).label("beginning")
        joined = _TABLE.join(_BLOBS).outerjoin(texts, texts.c.sha256 == _TABLE.c.sha256)
        query = sa.select(_TABLE.c.id, _BLOBS.c.type, beginning, texts.c.reader).select_from(joined)
        used = sa.exists().where(sent.c.attachment == _TABLE.c.id)
        with self._database.reading() as connection:
            rows = connection.execute(query.where(_TABLE.c.owner == owner, used).order_by(_TABLE.c.created, _TABLE.c.id)).all()
        return [row.id for row in rows if not (row.reader and current(row.reader)) and needs(row.type, bytes(row.beginning))]

    def drop_unused(self) -> int:
        """Removes everybody's files that were never sent with a message within the time allowed; returns how many."""
        with self._database.writing() as connection:
            return self._drop_unused(connection, sa.true())

    def _drop_unused(self, connection: Connection, whose: sa.ColumnElement[bool]) -> int:
        oldest = now() - int(self._limits.unused_days * 86_400_000_000)
        used = [sa.exists().where(holder.c.attachment == _TABLE.c.id) for holder in _HOLDERS]
        found = connection.execute(sa.select(_TABLE.c.id).where(whose, _TABLE.c.created < oldest, *(~one for one in used))).scalars().all()
        return remove_unused(connection, found)


def keep(
    connection: Connection,
    database: Database,
    owner: str,
    name: str,
    kind: str,
    content: bytes,
    id: str | None = None,
    piece: Piece | None = None,
) -> str:
    """Adds an attachment, and its content where no other has the same."""
    digest = hashlib.sha256(content).hexdigest()
    dialect = sqlite if database.lite else postgresql
    row = dialect.insert(_BLOBS).values(sha256=digest, size=len(content), type=kind, content=content)
    # An update that changes nothing holds the row, so that nobody erases the content until the attachment is there.
    connection.execute(row.on_conflict_do_update(index_elements=["sha256"], set_={"size": len(content)}))
    id = id or new_id()
    cut = {} if piece is None else {"origin": piece.origin, "rectangle": dump([*piece.rectangle, piece.name])}
    connection.execute(_TABLE.insert(), {"id": id, "owner": owner, "sha256": digest, "name": name, "created": now()} | cut)
    return id


def held_bytes(connection: Connection, owner: str) -> int:
    """All that a person has attached, in bytes; the same content twice counts twice."""
    joined = _TABLE.join(_BLOBS)
    return int(connection.execute(sa.select(sa.func.sum(_BLOBS.c.size)).select_from(joined).where(_TABLE.c.owner == owner)).scalar() or 0)


def read(connection: Connection, owner: str, id: str) -> Attached:
    """A person's file.

    Raises:
        NotFoundError: there is none of this id.
    """
    texts = tables.readings
    mine = (_TABLE.c.name, _TABLE.c.sha256, _TABLE.c.origin, _TABLE.c.rectangle)
    columns = (*mine, _BLOBS.c.type, _BLOBS.c.content, texts.c.reader, texts.c.reason, texts.c.content.label("read"))
    joined = _TABLE.join(_BLOBS).outerjoin(texts, texts.c.sha256 == _TABLE.c.sha256)
    chosen = sa.and_(_TABLE.c.id == known_id(id, "attachment"), _TABLE.c.owner == owner)
    row = connection.execute(sa.select(*columns).select_from(joined).where(chosen)).first()
    if row is None:
        raise missing("attachment")
    piece = None
    if row.origin is not None:
        left, top, width, height, *named = load(row.rectangle)  # the name came later
        piece = Piece(row.origin, "".join(named), (left, top, width, height))
    return Attached(row.name, row.type, bytes(row.content), row.sha256, reading_of(row.reader, row.reason, row.read), piece)


def remove_unused(connection: Connection, ids: Any) -> int:
    """Removes those of the attachments that no message and no index holds, and contents that no attachment names any more."""
    removed = 0
    for id in ids:
        digest = connection.execute(sa.select(_TABLE.c.sha256).where(_TABLE.c.id == id).with_for_update()).scalar()
        # Asked only now that it is held: who sends it with a message holds it too, and may have been first.
        used = [sa.select(holder.c.attachment).where(holder.c.attachment == id).limit(1) for holder in _HOLDERS]
        if digest is None or any(connection.execute(query).first() for query in used):
            continue
        connection.execute(_TABLE.delete().where(_TABLE.c.id == id))
        connection.execute(sa.select(_BLOBS.c.sha256).where(_BLOBS.c.sha256 == digest).with_for_update())
        named = sa.exists().where(_TABLE.c.sha256 == _BLOBS.c.sha256)
        connection.execute(_BLOBS.delete().where(_BLOBS.c.sha256 == digest, ~named))
        removed += 1
    return removed


def check_size(size: int, limits: StoreLimits, name: str) -> None:
    """Refuses a file that is too large.

    Raises:
        TooLargeError: it is.
    """
    if size > limits.attachment_bytes:
        raise TooLargeError(f"{size:,} bytes, of which {limits.attachment_bytes:,} are allowed", where=name, do="Attach a smaller file.")


def plain_name(name: str) -> str:
    """A name for people: without folders, control characters and characters that turn the direction of writing."""
    name = re.split(r"[/\\]", name)[-1]
    name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", "", name).strip() or "file"
    return said(name, "name", _NAME)
