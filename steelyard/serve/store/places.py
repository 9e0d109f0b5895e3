"""Places: what a person points at, looked up among what is theirs, and told with its figures.

The page says where it points. What is there, and every figure of it, is read and computed here, when it is asked for (so that a person
sees what will be sent) and again when the message is added (so that nothing else can be stored).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from steelyard.core.errors import BusyError, DataError, UnsupportedError
from steelyard.serve.places.place import Told, of_sentence, of_table
from steelyard.serve.places.selection import FileSource, SentenceSelection
from steelyard.serve.places.table import TableLimits, read_csv, table_in
from steelyard.serve.store import attachments, lookup
from steelyard.serve.store.database import Database
from steelyard.serve.store.parts import FilePart, PlacePart, PointedPart, TextPart, text_of
from steelyard.serve.store.sniffing import TEXT
from steelyard.serve.store.values import load, missing

ANSWER_TABLE = "a table of an earlier message"
_AT_ONCE = 2  # tables read at the same time: a large one takes some hundred megabytes while it is read


class Places:
    """The places of a store."""

    def __init__(self, database: Database, limits: TableLimits | None = None):
        self._database, self._limits = database, limits or TableLimits()
        self._reading = threading.BoundedSemaphore(_AT_ONCE)

    def tell(self, owner: str, part: PointedPart, conversation: str | None = None) -> PlacePart:
        """What goes to the model for a place.

        Args:
            owner: who points.
            part: where at.
            conversation: the only one whose messages may be pointed at; None is any of the person's.

        Raises:
            NotFoundError: there is no such attachment or message.
            DataError: the selection is outside what it points into, or there is no table.
            UnsupportedError: the file is no text, or too large.
            BusyError: other tables are being read for too long.
        """
        if not self._reading.acquire(timeout=2 * self._limits.seconds):
            raise BusyError("other tables are being read", where="place", do="Try again in a moment.")
        try:
            name, told = self._told(owner, part, conversation)
        finally:
            self._reading.release()
        figures = tuple((one.sentence, one.value) for one in told.figures)
        return PlacePart(
            type="place", source=part.source, selection=part.selection, name=name, label=told.label, text=told.text, figures=figures
        )

    def tell_all(
        self, owner: str, conversation: str, parts: Sequence[TextPart | FilePart | PointedPart], edited_from: str | None = None
    ) -> list[TextPart | FilePart | PlacePart]:
        """The parts of a message with its places told. A copy of an edited message keeps the places it had, as they were told then."""
        if not any(isinstance(part, PointedPart) for part in parts):
            return [part for part in parts if not isinstance(part, PointedPart)]
        kept = self._kept(owner, edited_from) if edited_from is not None else []
        out: list[TextPart | FilePart | PlacePart] = []
        for part in parts:
            if isinstance(part, PointedPart):
                before = next((old for old in kept if (old.source, old.selection) == (part.source, part.selection)), None)
                out.append(before or self.tell(owner, part, conversation))
            else:
                out.append(part)
        return out

    def _kept(self, owner: str, message: str) -> list[PlacePart]:
        with self._database.reading() as connection:
            parts = load(lookup.message(connection, owner, message).parts)
        return [PlacePart.model_validate(part) for part in parts if part["type"] == "place"]

    def _told(self, owner: str, part: PointedPart, conversation: str | None) -> tuple[str, Told]:
        source, selection = part.source, part.selection
        if isinstance(source, FileSource):
            if isinstance(selection, SentenceSelection):
                raise DataError("a sentence is a place in a message, not in a file", where="selection", do="Name a message.")
            with self._database.reading() as connection:
                file = attachments.read(connection, owner, source.attachment)
            if file.type != TEXT:
                raise UnsupportedError(f"a table is text, and this file is {file.type}", where=file.name, do="Save it as CSV.")
            if len(file.content) > self._limits.bytes:
                raise UnsupportedError(f"a table of more than {self._limits.bytes:,} bytes", where=file.name, do="Attach a smaller one.")
            return file.name, of_table(read_csv(file.content.decode("utf-8-sig"), file.name, self._limits), selection, part.shown)
        text = self._text(owner, source.message, conversation)
        if not source.start < source.end <= len(text):
            what = f"characters {source.start} to {source.end} of a message of {len(text):,}"
            raise DataError(what, where="source", do="Point at a stretch within the message.")
        stretch = text[source.start : source.end]
        if isinstance(selection, SentenceSelection):
            if part.shown is not None and part.shown != stretch:
                raise DataError("the message reads otherwise at this place", where="shown", do="Open the conversation again.")
            return "", of_sentence(stretch)
        return ANSWER_TABLE, of_table(table_in(stretch, ANSWER_TABLE, self._limits), selection, part.shown)

    def _text(self, owner: str, message: str, conversation: str | None) -> str:
        with self._database.reading() as connection:
            row = lookup.message(connection, owner, message)
            if conversation not in (None, row.conversation):
                raise missing("message")
            lookup.place(connection, row.conversation, message)
            return text_of(load(row.parts))
