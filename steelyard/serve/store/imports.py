"""Takes over conversations that `exports.py` wrote. A file from outside is untrusted: every line is checked as if a client sent it.

A conversation that is already here under the same id is left as it is. Where an id in a line means something else here, all ids of
that conversation are made anew, so that importing neither changes nor tells of what belongs to somebody else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import replace
from typing import Annotated, Any, Literal

import pydantic
import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from steelyard.core.errors import DataError, SteelyardError
from steelyard.data.formats import BadRow, UnusableRow, describe, parse_row
from steelyard.serve.bounded import Bounded
from steelyard.serve.store import search, tables
from steelyard.serve.store.answers import Generation
from steelyard.serve.store.attachments import Piece, check_size, held_bytes, keep, plain_name
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import TooLargeError
from steelyard.serve.store.exports import FORMAT, VERSION
from steelyard.serve.store.feedback import checked, checked_choice
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import Part, check, files_of, text_of
from steelyard.serve.store.sniffing import PICTURES, sniff
from steelyard.serve.store.tree import Node, Tree
from steelyard.serve.store.values import dump, label, moment, new_id

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
Pixels = Annotated[int, Field(strict=True, ge=0, le=100_000)]
Size = Annotated[int, Field(strict=True, ge=1, le=100_000)]


class _Strict(Bounded):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Other(_Strict):
    text: str
    logprob: float | None


class _Token(_Strict):
    id: int
    text: str
    logprob: float | None
    entropy: float | None
    alternatives: list[_Other]


class _Generation(_Strict):
    model: str
    fingerprint: str
    levers: list[Any]
    settings: dict[str, Any]
    reason: str | None
    error: str | None
    usage: dict[str, Any] | None
    confidence: dict[str, Any] | None
    citations: list[dict[str, Any]]
    lookups: list[dict[str, Any]] = []
    tools: list[dict[str, Any]]
    joined: Annotated[int, Field(ge=1)] | None = None  # earlier versions did not tell it
    tokens: list[_Token]


class _Message(_Strict):
    id: Id
    parent: Id | None
    role: Literal["system", "user", "assistant"]
    parts: list[Part]
    created: str
    hidden: bool
    edited_from: Id | None
    generation: _Generation | None


class _Feedback(_Strict):
    id: Id
    message: Id
    kind: Literal["thumbs", "tag", "correction", "choice"]
    value: Any
    created: str
    updated: str


class _Piece(_Strict):
    origin: Id
    name: Annotated[str, Field(max_length=255)]
    rectangle: tuple[Pixels, Pixels, Size, Size]


class _Attachment(_Strict):
    id: Id
    name: str
    content: str
    piece: _Piece | None = None


class _Conversation(_Strict):
    format: Literal["steelyard.conversation"]
    version: int
    id: Id
    title: str | None
    head: Id | None
    consent: bool
    created: str
    updated: str
    messages: list[_Message]
    feedback: list[_Feedback]
    attachments: list[_Attachment]


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
    if len(content) > limits.import_bytes:
        what = f"{len(content):,} bytes, of which {limits.import_bytes:,} are allowed"
        raise TooLargeError(what, where="import", do="Import it in several files, line by line.")
    usable: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            usable.append(_read(line, limits))
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


def _read(line: bytes, limits: StoreLimits) -> dict[str, Any]:
    """A line as rows to insert; ids are still those of the line."""
    raw = parse_row(line)
    try:
        dump(raw).encode("utf-8")
    except UnicodeEncodeError:
        raise UnusableRow("half a surrogate pair, which UTF-8 cannot hold") from None
    except (ValueError, RecursionError):
        raise UnusableRow("NaN or infinity, which JSON does not have, or nested too deeply") from None
    try:
        return _rows(_Conversation.model_validate(raw), limits)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UnusableRow(f"`{'.'.join(map(str, first['loc']))[:100]}`: {first['msg'][:200]}") from None
    except SteelyardError as error:
        raise UnusableRow(f"{error.where}: {error.what}" if error.where else error.what) from None


def _rows(line: _Conversation, limits: StoreLimits) -> dict[str, Any]:
    if line.version != VERSION:
        raise UnusableRow(f"version {line.version}, this version reads {VERSION}")
    if len(line.messages) > limits.messages:
        raise UnusableRow(f"{len(line.messages):,} messages, of which {limits.messages:,} are allowed")
    files = {file.id: _file(file, limits) for file in line.attachments}
    nodes: dict[str, Node] = {}
    messages, generations = [], []
    for number, message in enumerate(line.messages):
        where = f"message {number + 1}"
        if message.id in nodes or message.parent is not None and message.parent not in nodes:
            raise UnusableRow(f"{where} is there twice, or comes before its parent")
        if message.role == "system" and message.parent is not None:
            raise UnusableRow(f"{where} is a system message that does not begin the conversation")
        check(message.parts, limits, blank=message.role == "assistant")
        parts = [part.model_dump(mode="json") for part in message.parts]
        for part in parts:
            if part["type"] == "file":
                if part["attachment"] not in files:
                    raise UnusableRow(f"{where} has a file that is not among the attachments")
                part["name"] = files[part["attachment"]]["name"]
                if part["read"] == "whole":  # as `messages` stores it
                    del part["read"]
            elif part["type"] == "place" and part["source"].get("attachment") not in (None, *files):
                # A message that it points into may be missing: it was deleted since.
                raise UnusableRow(f"{where} points into a file that is not among the attachments")
        nodes[message.id] = Node(message.id, message.parent, number, message.role, message.hidden, deleted=False)
        row = {"id": message.id, "number": number, "parent": message.parent, "role": message.role, "parts": parts}
        messages.append(
            row | {"edited_from": message.edited_from, "hidden": message.hidden, "created": _moment(message.created), "erased": None}
        )
        if message.generation is not None:
            generation = Generation(**message.generation.model_dump())
            generations.append({"message": message.id} | generation.columns())
    if any(message.edited_from is not None and message.edited_from not in nodes for message in line.messages):
        raise UnusableRow("a message was edited from one that is not here")
    if line.head is not None and line.head not in nodes:
        raise UnusableRow("the head is no message of the conversation")
    frame = {"id": line.id, "title": None if line.title is None else label(line.title, "title"), "head": line.head, "consent": line.consent}
    frame |= {"count": len(messages), "created": _moment(line.created), "updated": _moment(line.updated)}
    return {
        "frame": frame,
        "messages": messages,
        "generations": generations,
        "feedback": [_opinion(given, Tree(nodes.values()), limits) for given in line.feedback],
        "files": files,
    }


def _file(file: _Attachment, limits: StoreLimits) -> dict[str, Any]:
    name = plain_name(file.name)
    try:
        content = base64.b64decode(file.content, validate=True)
    except (binascii.Error, ValueError):
        raise UnusableRow(f"the attachment {name[:100]} is not base64") from None
    check_size(len(content), limits, name)
    kind = sniff(content, name, limits)
    if file.piece is not None and kind not in PICTURES:
        raise UnusableRow(f"the attachment {name[:100]} is no picture, but a piece of one")
    piece = None if file.piece is None else Piece(file.piece.origin, plain_name(file.piece.name), file.piece.rectangle)
    return {"name": name, "type": kind, "content": content, "piece": piece}


def _moment(text: str) -> int:
    try:
        return moment(text)
    except (ValueError, OverflowError):
        raise UnusableRow(f"{text[:40]!r} is no ISO 8601 time") from None


def _opinion(given: _Feedback, tree: Tree, limits: StoreLimits) -> dict[str, Any]:
    if given.message not in tree.nodes:
        raise UnusableRow("feedback about a message that is not here")
    if given.kind == "choice":
        keys = {"turn", "chosen", "rejected", "strength", "both_bad", "group"}
        if not isinstance(given.value, dict) or set(given.value) - {"shown"} != keys or given.value["turn"] != given.message:
            raise UnusableRow(f"a choice that does not have {', '.join(sorted(keys))}")
        value: Any = checked_choice({"shown": None, **given.value}, tree)
    elif isinstance(given.value, str):
        value = checked(given.kind, given.value, limits)
    else:
        raise UnusableRow(f"the value of a {given.kind} is not text")
    row = {"id": given.id, "message": given.message, "kind": given.kind, "value": value}
    return row | {"created": _moment(given.created), "updated": _moment(given.updated)}


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
