"""What was read of files that are no plain text: kept once per content, gone with it.

A file is read once, when it comes, by `steelyard.serve.reading`; what another version of a reader made of it is read again when it is
wanted. Reasons that may not hold tomorrow (a busy machine, a package that is missing) are not kept.
"""

from __future__ import annotations

import json
import zlib

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from steelyard.data.documents.reading import is_html
from steelyard.data.documents.sections import Section
from steelyard.serve.reading import Reading, What, current
from steelyard.serve.store import tables
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import StoreError
from steelyard.serve.store.sniffing import PICTURES, TEXT
from steelyard.serve.store.values import whole

_TABLE = tables.readings
_LARGEST = 1 << 30  # bytes a reading may claim to unpack to


def needs(kind: str, content: bytes) -> What | None:
    """How a file is to be read: None where it is plain text, which is read as it stands."""
    if kind in PICTURES:
        return "picture"
    return None if kind == TEXT and not is_html(content[:2048].decode("utf-8", "ignore")) else "document"


class Readings:
    """What was read of a store's files."""

    def __init__(self, database: Database):
        self._database = database

    def keep(self, sha256: str, reading: Reading) -> None:
        """Keeps a reading, in place of an older one. A file that was erased meanwhile takes it along."""
        if not reading.lasting:
            return
        content = None
        if reading.sections:
            rows = [[whole(section.title), whole(section.text)] for section in reading.sections]
            content = zlib.compress(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode(), 3)
        values = {
            "reader": reading.reader,
            "characters": sum(len(section.text) for section in reading.sections),
            "reason": None if reading.reason is None else whole(reading.reason),
            "content": content,
        }
        dialect = sqlite if self._database.lite else postgresql
        with self._database.writing() as connection:
            held = sa.select(tables.blobs.c.sha256).where(tables.blobs.c.sha256 == sha256).with_for_update()
            if connection.execute(held).first() is None:
                return
            row = dialect.insert(_TABLE).values(sha256=sha256, **values)
            connection.execute(row.on_conflict_do_update(index_elements=["sha256"], set_=values))


def reading_of(reader: str | None, reason: str | None, content: bytes | None) -> Reading | None:
    """The reading in a row of the table; None where there is none, or one of another version.

    Raises:
        StoreError: it is damaged.
    """
    if reader is None or not current(reader):
        return None
    try:
        unpacker = zlib.decompressobj()
        raw = b"[]" if content is None else unpacker.decompress(bytes(content), _LARGEST)
        sections = tuple(Section(title, text) for title, text in json.loads(raw))
    except (zlib.error, ValueError, TypeError) as error:
        raise StoreError(
            f"what was read of a file is damaged: {error}", where="readings", do="Restore a backup, or attach it anew."
        ) from error
    return Reading(reader, sections, reason)
