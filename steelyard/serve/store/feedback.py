"""What people think of answers: thumbs, tags, corrections, and choices between two answers to the same turn.

A choice says which of two answers is the better one and how clearly (1 a little, 2 clearly, 3 by far), or that both are bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from steelyard.core.errors import DataError
from steelyard.serve.store import lookup, search, tables
from steelyard.serve.store.database import Database
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import text_of
from steelyard.serve.store.tree import Tree
from steelyard.serve.store.values import dump, iso, known_id, label, load, missing, new_id, now, said

KINDS = ("thumbs", "tag", "correction", "choice")
_TABLE = tables.feedback
_EXCERPT = 500  # characters of the answer shown with feedback in a list


class Feedback:
    """The feedback of a store."""

    def __init__(self, database: Database, limits: StoreLimits):
        self._database, self._limits = database, limits

    def add(self, owner: str, message: str, kind: Literal["thumbs", "tag", "correction"], value: str) -> dict[str, Any]:
        """Says something about an answer. A second thumbs takes the place of the first; a tag given twice is there once.

        Args:
            owner: who says it.
            message: an answer; tags may be about any message.
            kind: what is said.
            value: `up` or `down`; the tag; the answer as it should have been.
        """
        value = checked(kind, value, self._limits)
        with self._database.writing() as connection:
            row = lookup.message(connection, owner, message, change=True)
            node = lookup.place(connection, row.conversation, message)
            if kind != "tag" and node.role != "assistant":
                raise DataError(f"a {kind} is about an answer, and this is a {node.role} message", where="message", do="Name an answer.")
            same = sa.select(_TABLE.c.id).where(_TABLE.c.message == message, _TABLE.c.owner == owner, _TABLE.c.deleted.is_(None))
            same = (
                same.where(_TABLE.c.kind == kind) if kind == "thumbs" else same.where(_TABLE.c.kind == kind, _TABLE.c.value == dump(value))
            )
            id = connection.execute(same).scalar()
            if id is None:
                id = _insert(connection, owner, row.conversation, message, kind, value)
            else:
                _update(connection, id, value)
            _index(connection, owner, row.conversation, id, kind, value)
            return _listed(connection, owner, id)

    def choose(
        self,
        owner: str,
        conversation: str,
        turn: str,
        chosen: str | None,
        rejected: str | None,
        strength: int,
        both_bad: bool = False,
        group: str | None = None,
        shown: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Says which of two answers to a turn is the better one.

        Args:
            owner: who says it.
            conversation: where.
            turn: the message both answer.
            chosen: the better answer; may be None where both are bad.
            rejected: the other one, or None.
            strength: 1 a little, 2 clearly, 3 by far.
            both_bad: neither is good; the choice then makes no pair.
            group: the group of raters the person belongs to.
            shown: both answers in the order in which they were shown: people like what stands first, and the arena takes that out.
        """
        value = {"turn": turn, "chosen": chosen, "rejected": rejected, "strength": strength, "both_bad": both_bad, "group": group}
        value["shown"] = None if shown is None else list(shown)
        with self._database.writing() as connection:
            lookup.conversation(connection, owner, conversation, change=True)
            value = checked_choice(value, lookup.tree(connection, conversation))
            id = _insert(connection, owner, conversation, turn, "choice", value)
            _index(connection, owner, conversation, id, "choice", value)
            return _listed(connection, owner, id)

    def list(self, owner: str, q: str = "", kind: str | None = None, cursor: str | None = None) -> dict[str, Any]:
        """A page of feedback, newest first; with `q` that which holds all its words, or is about a message that does."""
        if kind and kind not in KINDS:
            raise DataError(f"there is no feedback of the kind `{kind[:40]}`", where="kind", do=f"Known: {', '.join(KINDS)}.")
        query = _standing().where(_TABLE.c.owner == owner)
        if kind:
            query = query.where(_TABLE.c.kind == kind)
        if q.strip():
            given, spoken = (
                search.matching(owner, (what,), q).with_only_columns(tables.search.c.about) for what in ("feedback", "message")
            )
            query = query.where(sa.or_(_TABLE.c.id.in_(given), _TABLE.c.message.in_(spoken)))
        query = lookup.before(query, _TABLE.c.created, _TABLE.c.id, cursor).limit(self._limits.page + 1)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        more, rows = len(rows) > self._limits.page, rows[: self._limits.page]
        return {"feedback": [_shown(row) for row in rows], "next": lookup.cursor_of(rows[-1].created, rows[-1].id) if more else None}

    def change(self, owner: str, id: str, value: Any) -> dict[str, Any]:
        """Says something else instead. Of a choice, `value` holds what is to change of it."""
        with self._database.writing() as connection:
            row = _own(connection, owner, id)
            if row.kind == "choice":
                if not isinstance(value, dict) or not set(value) <= {"chosen", "rejected", "strength", "both_bad", "group"}:
                    raise DataError(
                        "a choice is changed by an object", where="value", do="Send chosen, rejected, strength, both_bad or group."
                    )
                value = checked_choice(load(row.value) | value, lookup.tree(connection, row.conversation))
            else:
                if not isinstance(value, str):
                    raise DataError(f"the value of a {row.kind} is text", where="value", do="Send text.")
                value = checked(row.kind, value, self._limits)
            _update(connection, id, value)
            _index(connection, owner, row.conversation, id, row.kind, value)
            return _listed(connection, owner, id)

    def delete(self, owner: str, id: str) -> dict[str, Any]:
        """Takes feedback back; returns the id that undoes it."""
        moment, undo = now(), new_id()
        with self._database.writing() as connection:
            row = _own(connection, owner, id)
            connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(deleted=moment))
            operation = {"id": undo, "owner": owner, "conversation": row.conversation, "kind": "feedback", "about": id, "created": moment}
            connection.execute(tables.operations.insert(), operation)
        return {"undo": undo}


def checked(kind: str, value: str, limits: StoreLimits) -> str:
    """The value of thumbs, a tag or a correction as it is kept.

    Raises:
        DataError: it is none.
    """
    match kind:
        case "thumbs":
            if value not in ("up", "down"):
                raise DataError(f"thumbs are `up` or `down`, not {value[:40]!r}", where="value", do="Send one of the two.")
        case "tag":
            return label(value, "value", 60)
        case _:
            if not value.strip():
                raise DataError("the correction is empty", where="value", do="Write the answer as it should have been.")
            said(value, "value", limits.text)
    return value


def checked_choice(value: dict[str, Any], tree: Tree) -> dict[str, Any]:
    """A choice whose answers all answer its turn.

    Raises:
        DataError: it contradicts itself or names answers to something else.
        NotFoundError: it names what is not there.
    """
    strength, both_bad = value["strength"], value["both_bad"]
    if type(strength) is not int or strength not in (1, 2, 3):
        raise DataError("the strength is 1, 2 or 3", where="strength", do="1 is a little better, 2 clearly, 3 by far.")
    if type(both_bad) is not bool:
        raise DataError("`both_bad` is true or false", where="both_bad", do="Send one of the two.")
    lookup.standing(tree, known_id(value["turn"], "message"))
    named = [value[key] for key in ("chosen", "rejected") if value[key] is not None]
    if value["chosen"] is None and not both_bad:
        raise DataError("nothing is chosen", where="chosen", do="Name the better answer, or say `both_bad`.")
    if len(set(map(str, named))) < len(named):
        raise DataError("the same answer is chosen and rejected", where="rejected", do="Name the other answer, or null.")
    shown = value.get("shown")  # choices of earlier versions have none
    if shown is not None and not (
        isinstance(shown, list) and len(shown) == len(set(map(str, shown))) == 2 and set(map(str, named)) <= set(map(str, shown))
    ):
        raise DataError("what was shown is not the two answers compared", where="shown", do="Send both ids in the order shown, or null.")
    for id in shown or named:
        if not isinstance(id, str):
            raise missing("message")
        node = lookup.standing(tree, id)
        if node.role != "assistant" or tree.parent_of(id) != value["turn"]:
            raise DataError("what is chosen or rejected is no answer to this turn", where="turn", do="Compare answers to the same message.")
    group = value["group"]
    if group is not None and not isinstance(group, str):
        raise DataError("the group is text", where="group", do="Send a name or null.")
    return value | {"group": None if group is None else label(group, "group", 60)}


def _own(connection: Connection, owner: str, id: str) -> Row[Any]:
    query = sa.select(_TABLE).where(_TABLE.c.id == known_id(id, "feedback"), _TABLE.c.owner == owner, _TABLE.c.deleted.is_(None))
    row = connection.execute(query).first()
    if row is None:
        raise missing("feedback")
    lookup.conversation(connection, owner, row.conversation, change=True)
    return connection.execute(query).first() or row


def _insert(connection: Connection, owner: str, conversation: str, message: str, kind: str, value: Any) -> str:
    id, moment = new_id(), now()
    row = {"id": id, "owner": owner, "conversation": conversation, "message": message, "kind": kind, "value": dump(value)}
    connection.execute(_TABLE.insert(), row | {"created": moment, "updated": moment})
    return id


def _update(connection: Connection, id: str, value: Any) -> None:
    connection.execute(_TABLE.update().where(_TABLE.c.id == id).values(value=dump(value), updated=now()))


def _index(connection: Connection, owner: str, conversation: str, id: str, kind: str, value: Any) -> None:
    search.put(connection, "feedback", id, owner, conversation, value if isinstance(value, str) else value["group"] or "")


def _standing() -> sa.Select:
    """Feedback that is not deleted and is about a message that is not."""
    gone = sa.exists().where(tables.marks.c.message == _TABLE.c.message)
    joined = _TABLE.join(tables.messages, tables.messages.c.id == _TABLE.c.message).join(
        tables.conversations, tables.conversations.c.id == _TABLE.c.conversation
    )
    query = sa.select(_TABLE, tables.messages.c.parts).select_from(joined)
    return query.where(_TABLE.c.deleted.is_(None), tables.conversations.c.deleted.is_(None), ~gone)


def _listed(connection: Connection, owner: str, id: str) -> dict[str, Any]:
    return _shown(connection.execute(_standing().where(_TABLE.c.id == id, _TABLE.c.owner == owner)).one())


def _shown(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "value": load(row.value),
        "message": row.message,
        "conversation": row.conversation,
        "text": text_of(load(row.parts))[:_EXCERPT],
        "created": iso(row.created),
        "updated": iso(row.updated),
    }
