"""Indexes of a person's documents: which files are in them, and what came of indexing them.

The documents are attachments, kept as those of messages are. The index itself is a file of passages that `indexing.py` builds of them;
`built` names the last one that was built whole, and a new one takes its place in one step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from steelyard.core.errors import DataError
from steelyard.serve.store import tables
from steelyard.serve.store.attachments import remove_unused
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import TooLargeError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.values import iso, known_id, label, missing, new_id, now, whole

_TABLE, _DOCUMENTS, _FILES = tables.indexes, tables.index_documents, tables.attachments
NAME = 100  # characters of an index's name


@dataclass(frozen=True)
class Source:
    """A document to index: its id, the name that citations give it, the digest of its content."""

    attachment: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Built:
    """An index that can be searched: its id and the name of its file."""

    id: str
    built: str


class Indexes:
    """The indexes of a store. Every method takes who asks; what is somebody else's is not found."""

    def __init__(self, database: Database, limits: StoreLimits):
        self._database, self._limits = database, limits

    def create(self, owner: str, name: str, taken: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Begins an index.

        Raises:
            DataError: the name is empty or long, or one of the person's indexes or of `taken` has it.
        """
        name, id, moment = label(name, "name", NAME), new_id(), now()
        with self._database.writing() as connection:
            mine = connection.execute(sa.select(_TABLE.c.name).where(_TABLE.c.owner == owner)).scalars().all()
            if name in taken or name in mine:
                raise DataError(f"there is an index called `{name}` already", where="name", do="Choose another name.")
            if len(mine) >= self._limits.indexes:
                raise TooLargeError(f"you have {len(mine):,} indexes, as many as are allowed", where="indexes", do="Delete one first.")
            row = {"id": id, "owner": owner, "name": name, "created": moment, "updated": moment, "passages": 0}
            connection.execute(_TABLE.insert(), row)
            return _shown(connection, _found(connection, owner, id))

    def list(self, owner: str) -> list[dict[str, Any]]:
        """A person's indexes by name, with their documents."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(_TABLE).where(_TABLE.c.owner == owner).order_by(_TABLE.c.name)).all()
            return [_shown(connection, row) for row in rows]

    def read(self, owner: str, id: str) -> dict[str, Any]:
        """An index with its documents."""
        with self._database.reading() as connection:
            return _shown(connection, _found(connection, owner, id))

    def delete(self, owner: str, id: str) -> None:
        """Deletes an index, and its documents where no message holds them."""
        with self._database.writing() as connection:
            _found(connection, owner, id, change=True)
            files = connection.execute(sa.select(_DOCUMENTS.c.attachment).where(_DOCUMENTS.c.index == id)).scalars().all()
            connection.execute(_DOCUMENTS.delete().where(_DOCUMENTS.c.index == id))
            connection.execute(_TABLE.delete().where(_TABLE.c.id == id))
            remove_unused(connection, files)

    def add(self, owner: str, id: str, attachment: str) -> dict[str, Any]:
        """Puts a file into an index; returns the document. The same content is there once.

        Another file of a name that is taken gets a number: citations name documents, so each has a name of its own.
        """
        with self._database.writing() as connection:
            _found(connection, owner, id, change=True)
            query = sa.select(_FILES).where(_FILES.c.id == known_id(attachment, "attachment"), _FILES.c.owner == owner).with_for_update()
            file = connection.execute(query).first()
            if file is None:
                raise missing("attachment")
            there = connection.execute(_documents(id)).all()
            same = next(
                (row for row in there if row.attachment == attachment or (row.sha256, row.called) == (file.sha256, file.name)), None
            )
            if same is not None:
                return _document(same) | {"already": True}
            if len(there) >= self._limits.index_documents:
                what = f"the index has {len(there):,} documents, as many as are allowed"
                raise TooLargeError(what, where="documents", do="Begin another index.")
            name = _free(file.name, {row.name for row in there})
            connection.execute(_DOCUMENTS.insert(), {"index": id, "attachment": attachment, "name": name})
            _touch(connection, id)
            row = connection.execute(_documents(id).where(_DOCUMENTS.c.attachment == attachment)).one()
            return _document(row) | {"already": False}

    def remove(self, owner: str, id: str, attachment: str) -> None:
        """Takes a document out of an index, and removes it where no message holds it."""
        with self._database.writing() as connection:
            _found(connection, owner, id, change=True)
            chosen = sa.and_(_DOCUMENTS.c.index == id, _DOCUMENTS.c.attachment == known_id(attachment, "document"))
            if connection.execute(_DOCUMENTS.delete().where(chosen)).rowcount == 0:
                raise missing("document")
            _touch(connection, id)
            remove_unused(connection, [attachment])

    def sources(self, owner: str, id: str) -> list[Source]:
        """What is to be indexed, in the order of names."""
        with self._database.reading() as connection:
            _found(connection, owner, id)
            return [Source(row.attachment, row.name, row.sha256) for row in connection.execute(_documents(id)).all()]

    def finish(self, owner: str, id: str, built: str | None, passages: Mapping[str, int], errors: Mapping[str, str]) -> str | None:
        """Keeps what came of indexing: the file's name, passages and errors by the names of documents; gives the file before it.

        Raises:
            NotFoundError: the index was deleted meanwhile.
        """
        with self._database.writing() as connection:
            before = _found(connection, owner, id, change=True).built
            for row in connection.execute(_documents(id)).all():
                values = {"passages": passages.get(row.name), "error": whole(errors[row.name]) if row.name in errors else None}
                chosen = sa.and_(_DOCUMENTS.c.index == id, _DOCUMENTS.c.attachment == row.attachment)
                connection.execute(_DOCUMENTS.update().where(chosen).values(values))
            values = {"built": built, "passages": sum(passages.values()), "error": None, "updated": now()}
            connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(values))
            return before if before != built else None

    def fail(self, owner: str, id: str, reason: str) -> None:
        """Keeps why indexing failed; the index that was there stays."""
        with self._database.writing() as connection:
            _found(connection, owner, id, change=True)
            connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(error=whole(reason)))

    def searchable(self, owner: str) -> dict[str, Built]:
        """A person's indexes that were built, by name."""
        with self._database.reading() as connection:
            columns = (_TABLE.c.name, _TABLE.c.id, _TABLE.c.built)
            rows = connection.execute(sa.select(*columns).where(_TABLE.c.owner == owner, _TABLE.c.built.is_not(None))).all()
            return {row.name: Built(row.id, row.built) for row in rows}

    def everybodys(self) -> list[tuple[str, str, str | None, str | None]]:
        """Owner, id, built file and last error of all indexes: for a server that starts."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(_TABLE.c.owner, _TABLE.c.id, _TABLE.c.built, _TABLE.c.error).order_by(_TABLE.c.id)).all()
            return [(row.owner, row.id, row.built, row.error) for row in rows]


def _found(connection: Connection, owner: str, id: str, change: bool = False) -> Row[Any]:
    query = sa.select(_TABLE).where(_TABLE.c.id == known_id(id, "index"), _TABLE.c.owner == owner)
    row = connection.execute(query.with_for_update() if change else query).first()
    if row is None:
        raise missing("index")
    return row


def _documents(id: str) -> sa.Select[Any]:
    blobs, readings = tables.blobs, tables.readings
    columns = (_DOCUMENTS, _FILES.c.name.label("called"), _FILES.c.sha256, _FILES.c.created, blobs.c.size, blobs.c.type, readings.c.reason)
    joined = _DOCUMENTS.join(_FILES).join(blobs).outerjoin(readings, readings.c.sha256 == _FILES.c.sha256)
    return sa.select(*columns).select_from(joined).where(_DOCUMENTS.c.index == id).order_by(_DOCUMENTS.c.name)


def _shown(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    shown = {"id": row.id, "name": row.name, "created": iso(row.created), "updated": iso(row.updated), "passages": row.passages}
    documents = [_document(one) for one in connection.execute(_documents(row.id)).all()]
    return shown | {"built": row.built is not None, "error": row.error, "documents": documents}


def _document(row: Row[Any]) -> dict[str, Any]:
    shown = {"id": row.attachment, "name": row.name, "type": row.type, "size": row.size, "created": iso(row.created)}
    return shown | {"passages": row.passages, "error": row.error or row.reason}


def _touch(connection: Connection, id: str) -> None:
    connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(updated=now()))


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken. What separates a place from a document in a citation is no part of a name."""
    name = name.replace("#", "_")
    path, number, free = PurePath(name), 2, name
    stem = re.sub(r" [(][0-9]+[)]$", "", path.stem)
    while free in taken:
        free = f"{stem} ({number}){path.suffix}"
        number += 1
    return free
