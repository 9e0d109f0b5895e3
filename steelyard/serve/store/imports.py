"""Takes over conversations that `exports.py` wrote, whose lines `import_lines.py` has checked.

A conversation that is already here under the same id is left as it is. Where an id in a line means something else here, all ids of
that conversation are made anew, so that importing neither changes nor tells of what belongs to somebody else.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from steelyard.core.errors import DataError
from steelyard.data.formats import BadRow, UnusableRow, describe
from steelyard.serve.store import search, tables
from steelyard.serve.store.attachments import held_bytes, keep
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import TooLargeError
from steelyard.serve.store.exports import FORMAT
from steelyard.serve.store.import_lines import read_line
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import files_of, text_of
from steelyard.serve.store.values import dump, new_id


def import_conversations(database: Database, limits: StoreLimits, owner: str, content: bytes, skip: bool) -> dict[str, Any]:
    """Takes over a file's conversations, all or none of them.

    Args:
        database: where to.
        limits: as for what is typed.
        owner: whose they become.
        content: JSONL.
        skip: leave lines out that cannot be used, instead of refusing the file; the result names them.

    Returns:
        How many were imported, how many were there already, and the lines left out.

    Raises:
        DataError: lines cannot be used; all of them are named.
        TooLargeError: the file, or an attachment, is too large.
    """
    _check_size(content, limits)
    usable: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            usable.append(read_line(line, limits))
        except UnusableRow as problem:
            bad.append(BadRow(number, str(problem)))
    if not usable and not bad:
        raise DataError("the file is empty", where="import", do=f"It should hold lines of the format {FORMAT}.")
    if bad and not skip:
        what = f"{len(bad)} of {len(bad) + len(usable)} lines cannot be used:\n{describe(bad)}"
        raise DataError(what, where="import", do="Correct them, or import with `bad_rows=skip` to go on without them.")
    imported = 0
    with database.writing() as connection:
        for conversation in usable:
            imported += _take(connection, database, owner, conversation)
        if (total := held_bytes(connection, owner)) > limits.owner_bytes:
            what = f"with these your files have {total:,} bytes; {limits.owner_bytes:,} are allowed"
            raise TooLargeError(what, where="import", do="Erase conversations with files you no longer need.")
    lines = [{"line": row.line, "reason": row.reason} for row in bad]
    return {"imported": imported, "already": len(usable) - imported, "bad": lines}


def _check_size(content: bytes, limits: StoreLimits) -> None:
    """Refuses a file that would take too long to read: while its JSON is parsed nobody else's answer goes on.

    Raises:
        TooLargeError: it has too many bytes, lines, or lists and objects.
    """
    counts = (
        (len(content), limits.import_bytes, "bytes"),
        (content.count(b"\n"), limits.import_lines, "lines"),
        (content.count(b"[") + content.count(b"{"), limits.import_values, "lists and objects"),
    )
    for count, most, what in counts:
        if count > most:
            raise TooLargeError(f"{count:,} {what}, of which {most:,} are allowed", where="import", do="Import it in several files.")


def _take(connection: Connection, database: Database, owner: str, line: dict[str, Any]) -> bool:
    """Inserts a conversation; False when it is there already."""
    table, frame = tables.conversations, line["frame"]
    found = connection.execute(sa.select(table.c.owner).where(table.c.id == frame["id"])).scalar()
    if found == owner:
        return False
    anew = _Ids(found is not None or _taken(connection, owner, line))
    conversation = anew.of(frame["id"])
    connection.execute(table.insert(), frame | {"id": conversation, "owner": owner, "head": anew.of(frame["head"])})
    there = set() if anew.anew else _here(connection, owner, line["files"])
    for id, file in line["files"].items():
        if id not in there:
            piece = file["piece"] and replace(file["piece"], origin=anew.of(file["piece"].origin))
            keep(connection, database, owner, file["name"], file["type"], file["content"], anew.of(id), piece)
    if frame["title"] is not None:
        search.put(connection, "title", conversation, owner, conversation, frame["title"])
    for message in line["messages"]:
        parts = [_renamed(part, anew) for part in message["parts"]]
        ids = {key: anew.of(message[key]) for key in ("id", "parent", "edited_from")}
        connection.execute(tables.messages.insert(), message | ids | {"conversation": conversation, "parts": dump(parts)})
        if held := set(files_of(parts)):
            connection.execute(tables.message_attachments.insert(), [{"message": ids["id"], "attachment": file} for file in held])
        search.put(connection, "message", ids["id"], owner, conversation, text_of(parts))
    for generation in line["generations"]:
        connection.execute(tables.generations.insert(), generation | {"message": anew.of(generation["message"])})
    for given in line["feedback"]:
        value = given["value"]
        if given["kind"] == "choice":
            value = value | {key: anew.of(value[key]) for key in ("turn", "chosen", "rejected")}
            value["shown"] = value["shown"] and [anew.of(id) for id in value["shown"]]
        row = {"id": anew.of(given["id"]), "message": anew.of(given["message"]), "value": dump(value)}
        connection.execute(tables.feedback.insert(), given | row | {"owner": owner, "conversation": conversation})
        text = value if isinstance(value, str) else value["group"] or ""
        search.put(connection, "feedback", row["id"], owner, conversation, text)
    return True


def _renamed(part: dict[str, Any], anew: _Ids) -> dict[str, Any]:
    """A part under the ids of this store."""
    if part["type"] == "file":
        return part | {"attachment": anew.of(part["attachment"])}
    if part["type"] == "place":
        return part | {
            "source": {key: anew.of(value) if key in ("attachment", "message") else value for key, value in part["source"].items()}
        }
    return part


def _taken(connection: Connection, owner: str, line: dict[str, Any]) -> bool:
    """Whether an id of a line means something else here already."""
    wanted = {
        tables.messages: [message["id"] for message in line["messages"]],
        tables.feedback: [given["id"] for given in line["feedback"]],
        tables.attachments: sorted(set(line["files"]) - _here(connection, owner, line["files"])),
    }
    for table, ids in wanted.items():
        for start in range(0, len(ids), 500):  # a statement takes only so many ids
            if connection.execute(sa.select(table.c.id).where(table.c.id.in_(ids[start : start + 500])).limit(1)).first():
                return True
    return False


def _here(connection: Connection, owner: str, files: dict[str, Any]) -> set[str]:
    """The files of a line that the person has under the same id and name: another conversation brought them."""
    table, found = tables.attachments, set()
    for id, file in files.items():
        digest = hashlib.sha256(file["content"]).hexdigest()
        same = (table.c.id == id, table.c.owner == owner, table.c.sha256 == digest, table.c.name == file["name"])
        if connection.execute(sa.select(table.c.id).where(*same)).first():
            found.add(id)
    return found


class _Ids:
    """The ids of a line as they are, or, with `anew`, each made anew once."""

    def __init__(self, anew: bool):
        self.anew = anew
        self._made: dict[str, str] = {}

    def of(self, id: Any) -> Any:
        """The id that stands for one of the line."""
        if id is None or not self.anew:
            return id
        return self._made.setdefault(id, new_id())
