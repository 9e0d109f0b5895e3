"""What a message consists of: texts, attached files and places that were pointed at, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from steelyard.core.errors import DataError
from steelyard.serve.bounded import Bounded
from steelyard.serve.places.selection import FileSource, MessageSource, Selection, SentenceSelection, Source
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.values import known_id, said


class TextPart(Bounded):
    """A text, as it was typed or answered."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    type: Literal["text"]
    text: str


class FilePart(Bounded):
    """An attachment of the same person, by its id. `name` is for people; the attachment's own is kept."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    type: Literal["file"]
    attachment: str
    name: str = ""
    read: Literal["whole", "none"] = Field("whole", description="whether the model is given what is in it, or its name alone")


class PointedPart(Bounded):
    """A place as a client names it: where it is, never what is said of it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    type: Literal["place"]
    source: Source
    selection: Selection
    shown: str | None = Field(None, max_length=100_000, description="what the page shows there; another reading is refused")

    @pydantic.model_validator(mode="after")
    def _fits(self) -> PointedPart:
        if isinstance(self.selection, SentenceSelection) and not isinstance(self.source, MessageSource):
            raise ValueError("a sentence is a place in a message")
        return self


class PlacePart(Bounded):
    """A place as it is kept: what was computed of it, which is all that a model reads. An erased one has no text."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["place"]
    source: Source
    selection: Selection
    name: str = Field(max_length=255, description="of the table; empty for a sentence")
    label: str = Field(max_length=1000, description="what was pointed at, in a few words")
    text: str = Field(max_length=40_000, description="what the model reads")
    figures: tuple[tuple[str, float | None], ...] = Field(
        (), max_length=200, description="the sentences of its figures, and each unrounded"
    )


Part = Annotated[TextPart | FilePart | PlacePart, Field(discriminator="type")]
"""A part as it is stored and exported."""
SentPart = Annotated[TextPart | FilePart | PointedPart, Field(discriminator="type")]
"""A part as a client sends it."""


def check(parts: Sequence[TextPart | FilePart | PlacePart], limits: StoreLimits, *, blank: bool = False) -> None:
    """Refuses parts that say too much, or nothing unless `blank` allows it: a person does not, a model may.

    Raises:
        DataError: there are none, too many, only blanks, or too much text.
        NotFoundError: what names an attachment is no id.
    """
    if len(parts) > limits.parts:
        raise DataError(f"{len(parts):,} parts, of which {limits.parts:,} are allowed", where="parts", do="Send several messages.")
    texts = [part.text for part in parts if not isinstance(part, FilePart)]
    if not blank and not any(text.strip() for text in texts) and len(texts) == len(parts):
        raise DataError("the message is empty", where="parts", do="Write something or attach a file.")
    said("".join(texts), "parts", limits.text)
    for part in parts:
        if isinstance(part, FilePart):
            known_id(part.attachment, "attachment")
        elif isinstance(part, PlacePart):
            known_id(*((part.source.attachment, "attachment") if isinstance(part.source, FileSource) else (part.source.message, "message")))


def text_of(parts: Sequence[dict[str, Any]]) -> str:
    """The texts of stored parts, one below the other."""
    return "\n\n".join(part["text"] for part in parts if part["type"] == "text")


def files_of(parts: Sequence[dict[str, Any]]) -> list[str]:
    """The ids of the attachments in stored parts, those that are only pointed into among them."""
    named = [part if part["type"] == "file" else part["source"] for part in parts if part["type"] in ("file", "place")]
    return [holder["attachment"] for holder in named if "attachment" in holder]
