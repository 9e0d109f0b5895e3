"""One line of an exported conversation, checked as if a client sent it: a file from outside is untrusted."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from steelyard.core.errors import SteelyardError
from steelyard.data.formats import UnusableRow, parse_row
from steelyard.serve.bounded import Bounded
from steelyard.serve.store.answers import Generation
from steelyard.serve.store.attachments import Piece, check_size, plain_name
from steelyard.serve.store.exports import VERSION
from steelyard.serve.store.feedback import checked, checked_choice
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import Part, check
from steelyard.serve.store.sniffing import PICTURES, sniff
from steelyard.serve.store.tree import Node, Tree
from steelyard.serve.store.values import dump, label, moment

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


def read_line(line: bytes, limits: StoreLimits) -> dict[str, Any]:
    """A line as rows to insert; ids are still those of the line.

    Raises:
        UnusableRow: what is wrong with it.
    """
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
    for what, ids in (("feedback", [given.id for given in line.feedback]), ("an attachment", [file.id for file in line.attachments])):
        if len(set(ids)) < len(ids):
            raise UnusableRow(f"{what} is there twice")
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
