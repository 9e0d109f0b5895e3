"""What a message consists of: texts and attached files, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from steelyard.core.errors import DataError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.values import known_id, said


class TextPart(pydantic.BaseModel):
    """A text, as it was typed or answered."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    type: Literal["text"]
    text: str


class FilePart(pydantic.BaseModel):
    """An attachment of the same person, by its id. `name` is for people; the attachment's own is kept."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    type: Literal["file"]
    attachment: str
    name: str = ""


Part = Annotated[TextPart | FilePart, Field(discriminator="type")]


def check(parts: Sequence[TextPart | FilePart], limits: StoreLimits, *, blank: bool = False) -> None:
    """Refuses parts that say too much, or nothing unless `blank` allows it: a person does not, a model may.

    Raises:
        DataError: there are none, too many, only blanks, or too much text.
        NotFoundError: what names an attachment is no id.
    """
    if len(parts) > limits.parts:
        raise DataError(f"{len(parts):,} parts, of which {limits.parts:,} are allowed", where="parts", do="Send several messages.")
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if not blank and not any(text.strip() for text in texts) and len(texts) == len(parts):
        raise DataError("the message is empty", where="parts", do="Write something or attach a file.")
    said("".join(texts), "parts", limits.text)
    for part in parts:
        if isinstance(part, FilePart):
            known_id(part.attachment, "attachment")


def text_of(parts: Sequence[dict[str, Any]]) -> str:
    """The texts of stored parts, one below the other."""
    return "\n\n".join(part["text"] for part in parts if part["type"] == "text")


def files_of(parts: Sequence[dict[str, Any]]) -> list[str]:
    """The ids of the attachments in stored parts."""
    return [part["attachment"] for part in parts if part["type"] == "file"]
