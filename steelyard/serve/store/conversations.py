"""Conversations: made, listed, searched, read, renamed, deleted and restored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from steelyard.core.errors import DataError
from steelyard.serve.store import lookup, search, tables
from steelyard.serve.store.answers import record_of
from steelyard.serve.store.database import Database
from steelyard.serve.store.drafts import INTERRUPTED
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import text_of
from steelyard.serve.store.values import iso, label, load, new_id, now

_TABLE = tables.conversations
_TITLE = 60  # characters of what was said first that stand for a title


class Conversations:
    """The conversations of a store. Every method takes who asks; what is somebody else's is not found."""

    def __init__(self, database: Database, limits: StoreLimits, going: Callable[[], Container[str]] = tuple):
        self._database, self._limits, self._going = database, limits, going

    def create(self, owner: str, title: str | None = None, consent: bool = False) -> dict[str, Any]:
        """Begins a conversation; returns it without messages, whose number is 0.

        Args:
            owner: whose it is.
            title: on one line; None takes the beginning of what is said first.
            consent: whether others may train on it.
        """
        id, moment = new_id(), now()
        title = None if title is None else label(title, "title")
        row = {"id": id, "owner": owner, "title": title, "consent": consent, "count": 0, "created": moment, "updated": moment}
        with self._database.writing() as connection:
            connection.execute(_TABLE.insert(), row)
            if title is not None:
                search.put(connection, "title", id, owner, id, title)
            return _frame(connection, lookup.conversation(connection, owner, id), lambda head: head) | {"messages": 0}

    def list(self, owner: str, q: str = "", cursor: str | None = None) -> dict[str, Any]:
        """A page of conversations, the one changed last first: those whose title or one of whose messages holds all words of `q`."""
        query = sa.select(_TABLE).where(_TABLE.c.owner == owner, _TABLE.c.deleted.is_(None))
        if q.strip():
            found = search.matching(owner, ("title", "message"), q).subquery()
            gone = sa.exists().where(tables.marks.c.message == found.c.about)
            query = query.where(_TABLE.c.id.in_(sa.select(found.c.conversation).where(~gone)))
        query = lookup.before(query, _TABLE.c.updated, _TABLE.c.id, cursor).limit(self._limits.page + 1)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            more = len(rows) > self._limits.page
            rows = rows[: self._limits.page]
            counts = _counts(connection, [row.id for row in rows])
            titles = _titles(connection, [row.id for row in rows if row.title is None])
        listed = [
            {"id": row.id, "title": _title(row, titles), "updated": iso(row.updated), "messages": counts.get(row.id, 0)} for row in rows
        ]
        return {"conversations": listed, "next": lookup.cursor_of(rows[-1].updated, rows[-1].id) if more else None}

    def read(self, owner: str, id: str, tokens: bool = True) -> dict[str, Any]:
        """A conversation with all its messages in the order they were added, deleted ones as empty tombstones.

        Args:
            owner: who asks.
            id: of the conversation.
            tokens: whether answers come with their tokens.
        """
        going = self._going()  # before anything is read: what ends meanwhile was still going on, or is read with its true end
        with self._database.reading() as connection:
            conversation = read(connection, lookup.conversation(connection, owner, id), tokens)
        for message in conversation["messages"]:
            if (made := message["generation"]) is not None and message["id"] in going and made["reason"] == INTERRUPTED:
                made["reason"] = None  # it is being written
        return conversation

    def change(self, owner: str, id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Sets `title`, `head` (None: the latest message) or `consent`; returns the conversation without its messages."""
        values = dict(changes)
        if not values or not set(values) <= {"title", "head", "consent"}:
            raise DataError("there is nothing to change", where="conversation", do="Send `title`, `head` or `consent`.")
        with self._database.writing() as connection:
            lookup.conversation(connection, owner, id, change=True)
            if "title" in values:
                values |= {"title": label(values["title"], "title"), "updated": now()}
                search.put(connection, "title", id, owner, id, values["title"])
            if values.get("head") is not None:
                lookup.place(connection, id, values["head"])
            connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(values))
            return _frame(connection, lookup.conversation(connection, owner, id), lookup.tree(connection, id).head)

    def delete(self, owner: str, id: str) -> dict[str, Any]:
        """Deletes a conversation so that it can be restored; returns the id that undoes it."""
        moment, undo = now(), new_id()
        with self._database.writing() as connection:
            lookup.conversation(connection, owner, id, change=True)
            connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(deleted=moment))
            row = {"id": undo, "owner": owner, "conversation": id, "kind": "conversation", "about": id, "created": moment}
            connection.execute(tables.operations.insert(), row)
        return {"undo": undo}

    def restore(self, owner: str, id: str) -> dict[str, Any]:
        """Brings a deleted conversation back, and leaves one that is not deleted as it is."""
        with self._database.writing() as connection:
            lookup.conversation(connection, owner, id, deleted=True, change=True)
            connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(deleted=None))
        return self.read(owner, id)


def read(connection: Connection, row: Row[Any], tokens: bool) -> dict[str, Any]:
    """A conversation's row with its messages."""
    tree = lookup.tree(connection, row.id)
    undo = _undo(connection, row.id)
    generations = _generations(connection, row.id, tokens)
    feedback = _feedback(connection, row.id)
    table = tables.messages
    said = connection.execute(sa.select(table).where(table.c.conversation == row.id).order_by(table.c.number)).all()
    messages = []
    for message in said:
        gone = tree.nodes[message.id].deleted
        messages.append(
            {
                "id": message.id,
                "parent": tree.parent_of(message.id),
                "role": message.role,
                "parts": [] if gone else load(message.parts),
                "created": iso(message.created),
                "hidden": bool(message.hidden),
                "deleted": gone,
                "edited_from": message.edited_from,
                "generation": None if gone else generations.get(message.id),
                "undo": undo.get(message.id),
                "feedback": [] if gone else feedback[message.id],
            }
        )
    return _frame(connection, row, tree.head) | {"messages": messages}


def _frame(connection: Connection, row: Row[Any], head: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "title": _title(row, _titles(connection, [row.id])),
        "head": head(row.head),
        "consent": bool(row.consent),
        "created": iso(row.created),
        "updated": iso(row.updated),
    }


def _undo(connection: Connection, conversation: str) -> dict[str, str]:
    """The latest operation that covers each deleted message."""
    operations, marks = tables.operations, tables.marks
    joined = marks.join(operations, operations.c.id == marks.c.operation)
    query = sa.select(marks.c.message, marks.c.operation).select_from(joined).where(operations.c.conversation == conversation)
    return {message: operation for message, operation in connection.execute(query.order_by(operations.c.created, operations.c.id))}


def _generations(connection: Connection, conversation: str, tokens: bool) -> dict[str, dict[str, Any]]:
    table = tables.generations
    columns = [table.c.message, table.c.model, table.c.fingerprint, table.c.record] + ([table.c.tokens] if tokens else [])
    joined = table.join(tables.messages, tables.messages.c.id == table.c.message)
    query = sa.select(*columns).select_from(joined).where(tables.messages.c.conversation == conversation)
    return {row.message: record_of(row, tokens) for row in connection.execute(query)}


def _feedback(connection: Connection, conversation: str) -> defaultdict[str, list[dict[str, Any]]]:
    table = tables.feedback
    query = sa.select(table).where(table.c.conversation == conversation, table.c.deleted.is_(None)).order_by(table.c.created, table.c.id)
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.message].append({"id": row.id, "kind": row.kind, "value": load(row.value)})
    return found


def _there() -> sa.ColumnElement[bool]:
    """Of messages: neither deleted nor erased."""
    return sa.and_(tables.messages.c.erased.is_(None), ~sa.exists().where(tables.marks.c.message == tables.messages.c.id))


def _counts(connection: Connection, ids: list[str]) -> dict[str, int]:
    table = tables.messages
    query = sa.select(table.c.conversation, sa.func.count()).where(table.c.conversation.in_(ids), _there()).group_by(table.c.conversation)
    return {conversation: count for conversation, count in connection.execute(query)}


def _titles(connection: Connection, ids: list[str]) -> dict[str, str]:
    """The beginning of what a person said first; never stored, so that it goes when the message goes."""
    table = tables.messages
    said = sa.and_(table.c.conversation.in_(ids), table.c.role == "user", _there())
    first = (
        sa.select(sa.func.min(table.c.number).label("number"), table.c.conversation).where(said).group_by(table.c.conversation).subquery()
    )
    joined = sa.and_(table.c.conversation == first.c.conversation, table.c.number == first.c.number)
    query = sa.select(table.c.conversation, table.c.parts).join(first, joined)
    return {conversation: _beginning(text_of(load(parts))) for conversation, parts in connection.execute(query)}


def _beginning(text: str) -> str:
    words = " ".join(text[: 4 * _TITLE].split())
    return words if len(words) <= _TITLE else words[: _TITLE - 1].rstrip() + "…"


def _title(row: Row[Any], titles: dict[str, str]) -> str:
    return row.title if row.title is not None else titles.get(row.id, "")
