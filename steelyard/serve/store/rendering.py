"""What a model is given to read of a path through a conversation.

Messages stay apart in the store. Here, and only here, messages that one person sent one after the other may become one turn, a blank
line between them, because many templates refuse two turns of the same speaker; whoever asks is told which ones were joined. Files
stand in the turn under their names with what was read of them; one of which nothing could be read is refused by name and reason. Places that
were pointed at are the text that was computed of them, which says what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from steelyard.core.errors import UnsupportedError
from steelyard.core.protocols import Message
from steelyard.serve.store.attachments import Attached
from steelyard.serve.store.sniffing import PICTURES, TEXT
from steelyard.serve.store.tree import Node


@dataclass(frozen=True)
class Rendered:
    """A conversation for a model.

    Attributes:
        messages: what it reads.
        joined: the ids of messages that became one turn, for each turn of more than one; empty where none are joined.
        figures: the sentences of figures that went with the last turn, if it is a person's.
    """

    messages: tuple[Message, ...]
    joined: tuple[tuple[str, ...], ...]
    figures: tuple[str, ...] = ()


def rendered(spoken: Sequence[tuple[Node, list[dict[str, Any]]]], file: Callable[[str], Attached], joins: bool = True) -> Rendered:
    """Renders the messages of a path.

    Args:
        spoken: places and parts, from the root on, without what is hidden.
        file: gives an attachment by its id.
        joins: whether messages that a person sent one after the other become one turn.

    Raises:
        UnsupportedError: a file that is no text.
    """
    turns: list[tuple[str, list[str], list[str]]] = []
    for node, parts in spoken:
        text = "\n\n".join(text for part in parts if (text := _readable(part, file)))
        if not text.strip():  # an answer that was cut off before its first token
            continue
        if joins and turns and turns[-1][0] == node.role == "user":
            turns[-1][1].append(text)
            turns[-1][2].append(node.id)
        else:
            turns.append((node.role, [text], [node.id]))
    messages = tuple(Message(role, "\n\n".join(texts)) for role, texts, _ in turns)  # type: ignore[arg-type]
    last = takewhile(lambda one: one[0].role == "user", reversed(spoken))
    places = [part for _, parts in reversed([*last]) for part in parts if part["type"] == "place"]
    figures = dict.fromkeys(sentence for place in places for sentence, _ in place["figures"])
    return Rendered(messages, tuple(tuple(ids) for _, _, ids in turns if len(ids) > 1), tuple(figures))


def _readable(part: dict[str, Any], file: Callable[[str], Attached]) -> str:
    if part["type"] in ("text", "place"):
        return part["text"]
    attached = file(part["attachment"])
    if part.get("read") == "none":
        return f"File {attached.name} is attached; what is in it is not part of this message."
    if attached.type == TEXT and attached.needs is None and attached.reading is None:
        return f"File {attached.name}:\n\n{attached.content.decode('utf-8-sig')}"
    if attached.reading is None or attached.reading.reason is not None:
        why = "nothing was read of it yet" if attached.reading is None else attached.reading.reason
        raise UnsupportedError(
            f"the model reads text, and this file ({attached.type}) could not be read: {why}",
            where=attached.name,
            do="Hide the message it is in from the context, or put what matters of it into words.",
        )
    if attached.type in PICTURES:
        return f"{_recognised(attached, attached.reading.reader)}\n\n{attached.reading.text}"
    by = attached.reading.reader
    pictured = "" if by.startswith("document ") else f"; its pages that are pictures were read by {by}, which may err"
    return f"File {attached.name}{pictured}:\n\n{attached.reading.text}"


def _recognised(attached: Attached, reader: str) -> str:
    """What the text of a picture is headed with: of which picture, which part of it, and who read it."""
    part = ""
    if (piece := attached.piece) is not None:
        left, top, width, height = piece.rectangle
        part = f", a piece of {piece.name or 'a picture'} ({width} x {height} pixels, {left} from its left, {top} from its top)"
    return f"OCR text of the picture {attached.name}{part}, read by {reader}; it may hold errors, and the picture itself is not seen:"
