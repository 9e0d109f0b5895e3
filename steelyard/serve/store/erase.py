"""Erases for good: text, tokens, attachments, feedback and search rows leave the tables and the database's files.

Deleting covers and can be undone; erasing cannot. A conversation goes as a whole. A message leaves an empty row, which holds its
place in the tree. Copies go with it: what the page made of it when a message above was edited has the same parts and names it. What other messages quote of it (places, and what was searched
for to answer it) goes too.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from steelyard.serve.store import lookup, tables
from steelyard.serve.store.attachments import remove_unused
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import StoreError
from steelyard.serve.store.values import dump, load, now

_MESSAGES = tables.messages


def erase_conversation(database: Database, owner: str, id: str) -> dict[str, Any]:
    """Erases a conversation, deleted or not, and all that belongs to it; returns how many messages it had.

    Raises:
        NotFoundError: there is none.
        StoreError: the rows are gone, but not yet from the database's files; the error says why.
    """
    with database.writing() as connection:
        lookup.conversation(connection, owner, id, deleted=True, change=True)
        messages = connection.execute(sa.select(_MESSAGES.c.id).where(_MESSAGES.c.conversation == id)).scalars().all()
        files = _files(connection, list(messages))
        for table in (tables.search, tables.feedback, tables.operations):
            connection.execute(table.delete().where(table.c.conversation == id))
        connection.execute(tables.conversations.delete().where(tables.conversations.c.id == id))  # its messages go with it
        remove_unused(connection, files)
    _scrub(database)
    return {"erased": len(messages)}


def erase_message(database: Database, owner: str, id: str) -> dict[str, Any]:
    """Erases what a message said, and its copies; returns how many rows said it.

    Raises:
        NotFoundError: there is none.
        StoreError: as for a conversation.
    """
    with database.writing() as connection:
        row = lookup.message(connection, owner, id, change=True)
        erased = _copies(connection, row.conversation, id)
        files = _files(connection, erased)
        for message in erased:
            for table in (tables.generations, tables.message_attachments, tables.feedback, tables.marks):
                connection.execute(table.delete().where(table.c.message == message))
            connection.execute(tables.search.delete().where(tables.search.c.about == message))
            values = {"parts": "[]", "hidden": False, "erased": now()}
            connection.execute(_MESSAGES.update().where(_MESSAGES.c.id == message).values(values))
        _blank_places(connection, row.conversation, set(erased))
        _blank_searches(connection, row.conversation, erased)
        _drop_feedback(connection, row.conversation, set(erased))
        remove_unused(connection, files)
    _scrub(database)
    return {"erased": len(erased)}


def _scrub(database: Database) -> None:
    try:
        database.scrub()
    except StoreError as error:
        raise StoreError(
            f"the rows are erased, but the database's files may still hold what was in them: {error.what}",
            where=error.where,
            do="It need not be asked for again: the next erasure, or the next start of the server, clears the files too.",
        ) from error


def _copies(connection: Connection, conversation: str, id: str) -> list[str]:
    """A message and those that are linked to it by edits and have the same parts."""
    columns = (_MESSAGES.c.id, _MESSAGES.c.edited_from, _MESSAGES.c.parts)
    rows = connection.execute(sa.select(*columns).where(_MESSAGES.c.conversation == conversation)).all()
    parts = {row.id: row.parts for row in rows}
    same = {row.id for row in rows if row.parts == parts[id] and load(row.parts)} | {id}
    edits = [(row.id, row.edited_from) for row in rows if row.edited_from in same and row.id in same]
    found, grew = {id}, True
    while grew:
        more = {end for pair in edits if found & set(pair) for end in pair}
        grew = not more <= found
        found |= more
    return sorted(found)


def _blank_places(connection: Connection, conversation: str, erased: set[str]) -> None:
    """Takes what other messages quote of erased ones out of them: a place keeps where it pointed, and nothing of what was there."""
    pointing = sa.select(_MESSAGES.c.id, _MESSAGES.c.parts).where(
        _MESSAGES.c.conversation == conversation, _MESSAGES.c.parts.contains('"type":"place"', autoescape=True)
    )
    for id, stored in connection.execute(pointing).all():
        parts = load(stored)
        gone = [part for part in parts if part["type"] == "place" and part["source"].get("message") in erased]
        for part in gone:
            part |= {"label": "", "text": "", "figures": []}
        if gone:
            connection.execute(_MESSAGES.update().where(_MESSAGES.c.id == id).values(parts=dump(parts)))


def _blank_searches(connection: Connection, conversation: str, erased: list[str]) -> None:
    """Takes the words of erased messages out of the searches in documents that were made to answer them."""
    tree = lookup.tree(connection, conversation)
    answers = {id for message in erased for id in tree.below(message)}
    table = tables.generations
    joined = table.join(_MESSAGES, _MESSAGES.c.id == table.c.message)
    searched = (
        sa.select(table.c.message, table.c.record)
        .select_from(joined)
        .where(_MESSAGES.c.conversation == conversation, table.c.record.contains('"lookups":[{', autoescape=True))
    )
    for id, stored in connection.execute(searched).all():
        if id in answers:
            record = load(stored)
            for made in record["lookups"]:
                made["query"] = ""
                for passage in made.get("considered", ()):
                    passage |= {"found": [], "asked": []}
            connection.execute(table.update().where(table.c.message == id).values(record=dump(record)))


def _files(connection: Connection, messages: list[str]) -> list[str]:
    """The attachments that some messages hold."""
    table, found = tables.message_attachments, []
    for start in range(0, len(messages), 500):  # a statement takes only so many ids
        chosen = table.c.message.in_(messages[start : start + 500])
        found += connection.execute(sa.select(table.c.attachment).where(chosen)).scalars().all()
    return sorted(set(found))


def _drop_feedback(connection: Connection, conversation: str, erased: set[str]) -> None:
    """Removes choices that name an erased answer, and the search rows of feedback that is gone."""
    table = tables.feedback
    choices = connection.execute(sa.select(table.c.id, table.c.value).where(table.c.conversation == conversation, table.c.kind == "choice"))
    for id, value in choices.all():
        if erased & {named for named in load(value).values() if isinstance(named, str)}:
            connection.execute(table.delete().where(table.c.id == id))
    left = sa.exists().where(table.c.id == tables.search.c.about)
    rows = tables.search
    connection.execute(rows.delete().where(rows.c.conversation == conversation, rows.c.kind == "feedback", ~left))
