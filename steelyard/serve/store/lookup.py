"""Looks things up for one person: an id that is somebody else's is as unknown as one that never was."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from steelyard.core.errors import DataError
from steelyard.serve.store import tables
from steelyard.serve.store.errors import NotFoundError
from steelyard.serve.store.tree import Node, Tree
from steelyard.serve.store.values import known_id, missing

_CURSOR = re.compile(r"(\d{1,18})-([0-9a-f]{24})\Z")


def conversation(connection: Connection, owner: str, id: str, *, deleted: bool = False, change: bool = False) -> Row[Any]:
    """A person's conversation.

    Args:
        connection: within a transaction.
        owner: who asks.
        id: of the conversation.
        deleted: whether a deleted one will do.
        change: hold it until the transaction ends, so that changes to one conversation come one after the other.

    Raises:
        NotFoundError: there is none.
    """
    table = tables.conversations
    query = sa.select(table).where(table.c.id == known_id(id, "conversation"), table.c.owner == owner)
    if not deleted:
        query = query.where(table.c.deleted.is_(None))
    row = connection.execute(query.with_for_update() if change else query).first()
    if row is None:
        raise missing("conversation")
    return row


def message(connection: Connection, owner: str, id: str, *, change: bool = False) -> Row[Any]:
    """A message of a person's conversation that is not deleted as a whole. The message itself may be deleted.

    Raises:
        NotFoundError: there is none.
    """
    row = connection.execute(sa.select(tables.messages).where(tables.messages.c.id == known_id(id, "message"))).first()
    if row is None:
        raise missing("message")
    try:
        conversation(connection, owner, row.conversation, change=change)
    except NotFoundError:
        raise missing("message") from None
    return row


def place(connection: Connection, conversation: str, id: str, *, deleted: bool = False) -> Node:
    """The place of a message of a conversation, without reading the others.

    Raises:
        NotFoundError: it is not in this conversation, or it is deleted and `deleted` does not allow that.
    """
    table = tables.messages
    chosen = _nodes().where(table.c.id == known_id(id, "message"), table.c.conversation == conversation)
    row = connection.execute(chosen).first()
    if row is None or row.deleted and not deleted:
        raise missing("message")
    return _node(row)


def tree(connection: Connection, conversation: str) -> Tree:
    """The places of all messages of a conversation."""
    table = tables.messages
    return Tree(map(_node, connection.execute(_nodes().where(table.c.conversation == conversation).order_by(table.c.number))))


def _nodes() -> sa.Select:
    table = tables.messages
    marked = sa.exists().where(tables.marks.c.message == table.c.id)
    gone = sa.or_(table.c.erased.is_not(None), marked).label("deleted")
    return sa.select(table.c.id, table.c.parent, table.c.number, table.c.role, table.c.hidden, gone)


def _node(row: Row[Any]) -> Node:
    return Node(row.id, row.parent, row.number, row.role, bool(row.hidden), bool(row.deleted))


def standing(tree: Tree, id: str) -> Node:
    """The place of a message that is there and not deleted.

    Raises:
        NotFoundError: it is not in this conversation, or deleted.
    """
    node = tree.nodes.get(id)
    if node is None or node.deleted:
        raise missing("message")
    return node


def before(query: sa.Select, moment: sa.Column[Any], id: sa.Column[Any], cursor: str | None) -> sa.Select:
    """A query in the order newest first, from where a page of it ended.

    Raises:
        DataError: the cursor is none that a page ended with.
    """
    if cursor:
        found = _CURSOR.match(cursor)
        if found is None:
            raise DataError("this is no cursor of a list", where="cursor", do="Send the `next` of the page before, or none.")
        query = query.where(sa.tuple_(moment, id) < sa.tuple_(sa.literal(int(found[1])), sa.literal(found[2])))
    return query.order_by(moment.desc(), id.desc())


def cursor_of(moment: int, id: str) -> str:
    """Where a page ended."""
    return f"{moment}-{id}"
