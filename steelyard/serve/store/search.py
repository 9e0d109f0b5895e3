"""Finds conversations and feedback by the words in them, alike on SQLite and PostgreSQL.

Beside each text stands a folded copy: compatibility forms made one (NFKC), case folded (so that `STRASSE` finds `Straße`). A query
is cut into words, each of which must occur in the copy as a part (`LIKE`), in any order. That reads every text of the person who
asks, which is quick up to some hundred thousand messages; in return there is no index of words beside the rows, so that what is
erased is gone with its row.
"""

from __future__ import annotations

import unicodedata

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from steelyard.core.errors import DataError
from steelyard.serve.store import tables

LONGEST = 200
"""Most characters of a query."""


def fold(text: str) -> str:
    """A text as it is searched."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\0", " ")


def matching(owner: str, kinds: tuple[str, ...], query: str) -> sa.Select:
    """Selects the rows (`about`, `conversation`) of a person that hold all words of a query.

    Raises:
        DataError: the query is too long or holds half a surrogate pair.
    """
    if len(query) > LONGEST:
        raise DataError(f"{len(query):,} characters, of which {LONGEST} are allowed", where="q", do="Search for fewer words.")
    if any("\ud800" <= character <= "\udfff" for character in query):
        raise DataError("half a surrogate pair, which UTF-8 cannot hold", where="q", do="Search for whole characters.")
    table = tables.search
    chosen = sa.select(table.c.about, table.c.conversation).where(table.c.owner == owner, table.c.kind.in_(kinds))
    for word in fold(query).split():
        chosen = chosen.where(table.c.text.contains(word, autoescape=True))
    return chosen


def put(connection: Connection, kind: str, about: str, owner: str, conversation: str, text: str) -> None:
    """Keeps the folded copy of a text in the place of what was there."""
    drop(connection, kind, [about])
    if text.strip():
        row = {"kind": kind, "about": about, "owner": owner, "conversation": conversation, "text": fold(text)}
        connection.execute(tables.search.insert(), row)


def drop(connection: Connection, kind: str, about: list[str]) -> None:
    """Removes copies."""
    connection.execute(tables.search.delete().where(tables.search.c.kind == kind, tables.search.c.about.in_(about)))
