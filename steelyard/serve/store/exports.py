"""Conversations as JSONL, one a line with everything that belongs to it, so that `imports.py` makes the same of it elsewhere.

What is deleted is not exported: its person wanted it gone, and undoing comes before exporting. Children of a deleted message
therefore hang where they hang now. Attached files are in the line as base64. Of a piece of a picture the line says where it was cut out;
the whole picture is in it only where it was sent too. What was read of a file is not: the importing server reads it itself, because it
tells everybody who has the same file the same.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from steelyard.serve.store import attachments, lookup, tables
from steelyard.serve.store.conversations import read
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import NotFoundError
from steelyard.serve.store.parts import files_of
from steelyard.serve.store.values import dump, iso, load

FORMAT = "steelyard.conversation"
VERSION = 1


def owned(connection: Connection, owner: str | None, consented: bool) -> list[str]:
    """The ids of conversations that are not deleted, oldest first.

    Args:
        connection: within a transaction.
        owner: whose; None is everybody's.
        consented: only those that others may train on.
    """
    table = tables.conversations
    query = sa.select(table.c.id).where(table.c.deleted.is_(None)).order_by(table.c.created, table.c.id)
    if owner is not None:
        query = query.where(table.c.owner == owner)
    if consented:
        query = query.where(table.c.consent.is_(True))
    return list(connection.execute(query).scalars())


def export_conversations(database: Database, owner: str, consented: bool) -> Iterator[str]:
    """Lines of JSONL with their line ends, oldest conversation first. One conversation at a time is in memory."""
    with database.reading() as connection:
        ids = owned(connection, owner, consented)
    for id in ids:
        with database.reading() as connection:
            try:
                line = _line(connection, owner, id)
            except NotFoundError:  # deleted since the list was made
                continue
        yield dump(line) + "\n"


def _line(connection: Connection, owner: str, id: str) -> dict[str, Any]:
    row = lookup.conversation(connection, owner, id)
    whole = read(connection, row, tokens=True)
    kept = [message for message in whole["messages"] if not message["deleted"]]
    there = {message["id"] for message in kept}
    messages, files = [], set()
    for message in kept:
        files |= set(files_of(message["parts"]))
        edited_from = message["edited_from"] if message["edited_from"] in there else None
        columns = ("id", "parent", "role", "parts", "created", "hidden")
        messages.append({key: message[key] for key in columns} | {"edited_from": edited_from, "generation": message["generation"]})
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": id,
        "title": row.title,
        "head": whole["head"],
        "consent": whole["consent"],
        "created": whole["created"],
        "updated": whole["updated"],
        "messages": messages,
        "feedback": _feedback(connection, id, there),
        "attachments": [_file(connection, owner, file) for file in sorted(files)],
    }


def _feedback(connection: Connection, id: str, there: set[str]) -> list[dict[str, Any]]:
    """Feedback whose messages are all exported."""
    table = tables.feedback
    query = sa.select(table).where(table.c.conversation == id, table.c.deleted.is_(None)).order_by(table.c.created, table.c.id)
    found = []
    for row in connection.execute(query):
        value = load(row.value)
        named = {row.message} | ({value["chosen"], value["rejected"]} - {None} if row.kind == "choice" else set())
        if named <= there:
            shown = {"id": row.id, "message": row.message, "kind": row.kind, "value": value}
            found.append(shown | {"created": iso(row.created), "updated": iso(row.updated)})
    return found


def _file(connection: Connection, owner: str, id: str) -> dict[str, Any]:
    attached = attachments.read(connection, owner, id)
    cut = {} if attached.piece is None else {"piece": dataclasses.asdict(attached.piece)}
    return {"id": id, "name": attached.name, "content": base64.b64encode(attached.content).decode("ascii"), **cut}
