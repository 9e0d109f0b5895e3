"""Messages: added, deleted, hidden, and what was done to them undone. What was said is never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from steelyard.core.errors import DataError
from steelyard.serve.places.selection import FileSource
from steelyard.serve.store import lookup, search, tables
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import TooLargeError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import FilePart, PlacePart, TextPart, check, files_of, text_of
from steelyard.serve.store.tree import Node
from steelyard.serve.store.values import dump, iso, known_id, load, missing, new_id, now

_TABLE = tables.messages
_OPERATIONS = tables.operations


class Messages:
    """The messages of a store."""

    def __init__(self, database: Database, limits: StoreLimits):
        self._database, self._limits = database, limits

    def add(
        self,
        owner: str,
        conversation: str,
        parent: str | None,
        role: Literal["system", "user", "assistant"],
        parts: Sequence[TextPart | FilePart | PlacePart],
        edited_from: str | None = None,
    ) -> dict[str, Any]:
        """Adds a message below another (or as a beginning) and makes it the head; returns it as `Conversations.read` shows it.

        Args:
            owner: who says it.
            conversation: where.
            parent: what it follows; None begins a branch of its own.
            role: who speaks. A system message only begins a conversation, as chat templates want it.
            parts: what is said.
            edited_from: the message this one is an edited copy of. What was hidden from models stays hidden in its copy, and an answer
                that was only copied keeps the record of how it was made.
        """
        check(parts, self._limits)
        if role == "system" and parent is not None:
            raise DataError("a system message can only begin a conversation", where="role", do="Send it with `parent: null`.")
        with self._database.writing() as connection:
            lookup.conversation(connection, owner, conversation, change=True)
            if parent is not None:
                lookup.place(connection, conversation, parent)
            hidden = edited_from is not None and lookup.place(connection, conversation, edited_from, deleted=True).hidden
            stored = [_stored(connection, owner, part) for part in parts]
            id = insert(connection, conversation, parent, role, stored, edited_from, self._limits, hidden)
            if edited_from is not None and role == "assistant":
                _copy_record(connection, edited_from, id)
            search.put(connection, "message", id, owner, conversation, text_of(stored))
            return _shown(connection.execute(sa.select(_TABLE).where(_TABLE.c.id == id)).one())

    def rewrite(self, owner: str, conversation: str, id: str, parts: Sequence[TextPart | FilePart | PlacePart], end: str) -> dict[str, Any]:
        """Puts other words in a message's place, in a new branch, and keeps what follows: copies of it hang below them.

        Args:
            owner: whose conversation it is.
            conversation: where.
            id: of the message whose words are others.
            parts: what is said instead.
            end: the last message that is kept, below the other or itself.

        Returns:
            The ids of the new `message` and of the `head`, the copy of `end`; and how many messages were `copied`.

        Raises:
            DataError: `end` does not stand below the message.
        """
        check(parts, self._limits)
        with self._database.writing() as connection:
            lookup.conversation(connection, owner, conversation, change=True)
            tree = lookup.tree(connection, conversation)
            node, path = lookup.standing(tree, id), tree.path(lookup.standing(tree, end).id)
            if node not in path:
                raise DataError("this message does not stand below the one that is rewritten", where="end", do="Name one that follows it.")
            below = path[path.index(node) + 1 :]
            stored = [_stored(connection, owner, part) for part in parts]
            limits, above = self._limits, tree.parent_of(id)
            first = insert(connection, conversation, above, node.role, stored, id, limits, node.hidden, further=len(below))
            if node.role == "assistant":
                _copy_record(connection, id, first)
            search.put(connection, "message", first, owner, conversation, text_of(stored))
            head = copy_below(connection, conversation, first, below) if below else first
        return {"message": first, "head": head, "copied": len(below)}

    def delete(self, owner: str, id: str, mode: Literal["this", "below"]) -> dict[str, Any]:
        """Deletes a message so that its children move up, or it and all below it; returns the id that undoes it."""
        with self._database.writing() as connection:
            conversation = lookup.message(connection, owner, id, change=True).conversation
            lookup.place(connection, conversation, id)
            covered = [id] if mode == "this" else lookup.tree(connection, conversation).below(id)
            undo = _record(connection, owner, conversation, mode, id)
            connection.execute(tables.marks.insert(), [{"operation": undo, "message": message} for message in covered])
            _touch(connection, conversation)
        return {"undo": undo}

    def hide(self, owner: str, id: str, hidden: bool) -> dict[str, Any]:
        """Keeps a message from models, or shows it to them again; returns the id that undoes it."""
        with self._database.writing() as connection:
            row = lookup.message(connection, owner, id, change=True)
            lookup.place(connection, row.conversation, id)
            undo = _record(connection, owner, row.conversation, "hide", id, before=bool(row.hidden))
            connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(hidden=hidden))
            _touch(connection, row.conversation)
        return {"undo": undo}

    def undo(self, owner: str, undo: str) -> dict[str, Any]:
        """Undoes a deletion or a hiding, whatever was done since. Undoing it twice changes nothing.

        Returns:
            The kind of what was undone, what it was about, and the conversation it is in.
        """
        query = sa.select(_OPERATIONS).where(_OPERATIONS.c.id == known_id(undo, "operation"), _OPERATIONS.c.owner == owner)
        with self._database.writing() as connection:
            row = connection.execute(query).first()
            if row is None:
                raise missing("operation")
            lookup.conversation(connection, owner, row.conversation, deleted=True, change=True)
            if connection.execute(query).one().undone is None:  # asked again now that nobody else can undo it
                match row.kind:
                    case "this" | "below":
                        connection.execute(tables.marks.delete().where(tables.marks.c.operation == undo))
                    case "hide":
                        connection.execute(_TABLE.update().where(_TABLE.c.id == row.about).values(hidden=row.before))
                    case "conversation":
                        table = tables.conversations
                        connection.execute(table.update().where(table.c.id == row.about).values(deleted=None))
                    case _:
                        table = tables.feedback
                        connection.execute(table.update().where(table.c.id == row.about).values(deleted=None))
                connection.execute(_OPERATIONS.update().where(_OPERATIONS.c.id == undo).values(undone=now()))
                _touch(connection, row.conversation)
        return {"undone": row.kind, "about": row.about, "conversation": row.conversation}

    def context(self, owner: str, conversation: str, parent: str) -> list[tuple[Node, list[dict[str, Any]]]]:
        """What a model reads before it answers a message: the path to it without what is deleted or hidden, each with its parts."""
        with self._database.reading() as connection:
            lookup.conversation(connection, owner, conversation)
            tree = lookup.tree(connection, conversation)
            return spoken(connection, tree.path(lookup.standing(tree, parent).id))


def spoken(connection: Connection, path: Sequence[Node]) -> list[tuple[Node, list[dict[str, Any]]]]:
    """The messages of a path that models read, with their parts."""
    wanted = [node for node in path if not node.hidden]
    parts: dict[str, str] = {}
    for start in range(0, len(wanted), 500):  # a statement takes only so many ids
        ids = [node.id for node in wanted[start : start + 500]]
        parts |= {id: text for id, text in connection.execute(sa.select(_TABLE.c.id, _TABLE.c.parts).where(_TABLE.c.id.in_(ids)))}
    return [(node, load(parts[node.id])) for node in wanted]


def insert(
    connection: Connection,
    conversation: str,
    parent: str | None,
    role: str,
    parts: Sequence[dict[str, Any]],
    edited_from: str | None,
    limits: StoreLimits,
    hidden: bool = False,
    further: int = 0,
) -> str:
    """Adds a row under the next number and makes it the head. The conversation must be held for change; there is room for `further` rows."""
    id, moment, table = new_id(), now(), tables.conversations
    number = connection.execute(sa.select(table.c.count).where(table.c.id == conversation)).scalar_one()
    if number + further >= limits.messages:
        raise TooLargeError(
            f"the conversation has {number:,} messages, and {limits.messages:,} are allowed",
            where="conversation",
            do="Begin another conversation.",
        )
    row = {"id": id, "conversation": conversation, "number": number, "parent": parent, "role": role, "parts": dump(list(parts))}
    connection.execute(_TABLE.insert(), row | {"edited_from": edited_from, "hidden": hidden, "created": moment})
    if files := set(files_of(parts)):
        connection.execute(tables.message_attachments.insert(), [{"message": id, "attachment": file} for file in files])
    connection.execute(table.update().where(table.c.id == conversation).values(count=number + 1, head=id, updated=moment))
    return id


def copy_below(connection: Connection, conversation: str, parent: str, nodes: Sequence[Node]) -> str:
    """Adds copies of messages one below the other, with the records of how answers were made, and makes the last one the head.

    Args:
        connection: within a transaction that holds the conversation for change.
        conversation: theirs.
        parent: what the first copy hangs from.
        nodes: those to copy, each standing below the one before; not empty.

    Returns:
        The id of the last copy.
    """
    conversations, moment = tables.conversations, now()
    first = connection.execute(sa.select(conversations.c.count).where(conversations.c.id == conversation)).scalar_one()
    for start in range(0, len(nodes), 500):  # a statement takes only so many ids
        ids = [node.id for node in nodes[start : start + 500]]
        chosen = sa.select(_TABLE.c.id, _TABLE.c.role, _TABLE.c.parts, _TABLE.c.hidden).where(_TABLE.c.id.in_(ids))
        said = {row.id: row for row in connection.execute(chosen)}
        rows = []
        for number, id in enumerate(ids, first + start):
            row = {"id": new_id(), "conversation": conversation, "number": number, "parent": parent, "role": said[id].role}
            rows.append(row | {"parts": said[id].parts, "hidden": said[id].hidden, "edited_from": id, "created": moment})
            parent = row["id"]
        connection.execute(_TABLE.insert(), rows)
    made = sa.and_(_TABLE.c.conversation == conversation, _TABLE.c.number >= first)
    for table, about, kept in (
        (tables.message_attachments, "message", sa.true()),
        (tables.generations, "message", sa.true()),
        (tables.search, "about", tables.search.c.kind == "message"),
    ):
        others = [column for column in table.c if column.name != about]
        query = sa.select(_TABLE.c.id, *others).join(table, table.c[about] == _TABLE.c.edited_from).where(made, kept)
        connection.execute(table.insert().from_select([table.c[about], *others], query))
    changed = {"count": first + len(nodes), "head": parent, "updated": moment}
    connection.execute(conversations.update().where(conversations.c.id == conversation).values(**changed))
    return parent


def _copy_record(connection: Connection, origin: str, copy: str) -> None:
    """Gives a copy the record of the answer it was made from, where it says the same."""
    parts = dict(connection.execute(sa.select(_TABLE.c.id, _TABLE.c.parts).where(_TABLE.c.id.in_((origin, copy)))).all())  # type: ignore[arg-type]
    if parts[origin] == parts[copy]:
        made = tables.generations
        kept = [column for column in made.c if column.name != "message"]
        query = sa.select(sa.literal(copy), *kept).where(made.c.message == origin)
        connection.execute(made.insert().from_select([made.c.message, *kept], query))


def _stored(connection: Connection, owner: str, part: TextPart | FilePart | PlacePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, PlacePart):
        if isinstance(part.source, FileSource):
            _held(connection, owner, part.source.attachment)
        return part.model_dump(mode="json")
    kept = {"type": "file", "attachment": part.attachment, "name": _held(connection, owner, part.attachment)}
    return kept if part.read == "whole" else kept | {"read": part.read}


def _held(connection: Connection, owner: str, attachment: str) -> str:
    """The name of an attachment, held until the message is there, so that erasing its last other use cannot take it away."""
    table = tables.attachments
    query = sa.select(table.c.name).where(table.c.id == attachment, table.c.owner == owner).with_for_update()
    name = connection.execute(query).scalar()
    if name is None:
        raise missing("attachment")
    return name


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "parent": row.parent,
        "role": row.role,
        "parts": load(row.parts),
        "created": iso(row.created),
        "hidden": bool(row.hidden),
        "deleted": False,
        "edited_from": row.edited_from,
        "generation": None,
        "undo": None,
        "feedback": [],
    }


def _record(connection: Connection, owner: str, conversation: str, kind: str, about: str, before: bool | None = None) -> str:
    row = {"id": new_id(), "owner": owner, "conversation": conversation, "kind": kind, "about": about, "before": before, "created": now()}
    connection.execute(_OPERATIONS.insert(), row)
    return row["id"]


def _touch(connection: Connection, conversation: str) -> None:
    table = tables.conversations
    connection.execute(table.update().where(table.c.id == conversation).values(updated=now()))
