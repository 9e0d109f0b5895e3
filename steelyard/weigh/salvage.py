"""Salvage: what can still be read from a store of records whose file is damaged.

SQLite finds rows by way of a tree of pages, so one bad page near its root hides all that lie below it, and it refuses a file that was cut
off. Yet every row lies whole on one page, or on one page and a chain of overflow pages. So all pages are looked through, and every row
found is handed on. The caller judges them: an output is compressed with a checksum, so one that opens is one that was kept.

Refs: Database File Format, https://www.sqlite.org/fileformat2.html (b-tree pages, record format).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

LEAF, INTERIOR = 0x0A, 0x02  # of an index: a table without row ids is one
FILE_HEADER = 100  # bytes before the first page's own
INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type -> bytes


def rows(path: Path, columns: int) -> Iterator[tuple[Any, ...]]:
    """Every row of so many columns that can be read in a damaged SQLite file's tables without row ids, in no order; old versions of a row
    may come with it, and text and numbers may be wrong where they were damaged.

    Args:
        path: the file. Its write-ahead log is not looked at: whoever opened the file with SQLite and closed it moved the log into it.
        columns: of the table, the primary key first.
    """
    with path.open("rb") as file:
        pages = _Pages(file, *_page_size(file))
        for number in range(1, pages.count + 1):
            yield from pages.rows(number, columns)


def _page_size(file: BinaryIO) -> tuple[int, int]:
    """Bytes of a page, and those of them that are used; SQLite's usual size where the header is damaged."""
    header = file.read(FILE_HEADER).ljust(FILE_HEADER, b"\0")
    size = {1: 65536}.get(found := int.from_bytes(header[16:18]), found)
    if size < 512 or size & (size - 1):
        return 4096, 4096
    return size, size - header[20] if size - header[20] >= 480 else size


class _Pages:
    """The pages of a file, counted from 1."""

    def __init__(self, file: BinaryIO, size: int, usable: int):
        self.file, self.size, self.usable = file, size, usable
        self.count = -(-file.seek(0, 2) // size)

    def page(self, number: int) -> bytes:
        """The bytes of a page; fewer where the file ends."""
        self.file.seek((number - 1) * self.size)
        return self.file.read(self.size)

    def rows(self, number: int, columns: int) -> Iterator[tuple[Any, ...]]:
        """The rows that begin on a page."""
        page, start = self.page(number), FILE_HEADER if number == 1 else 0
        if len(page) < start + 12 or page[start] not in (LEAF, INTERIOR):
            return
        interior = page[start] == INTERIOR
        first = start + (12 if interior else 8)
        for place in range(first, first + 2 * int.from_bytes(page[start + 3 : start + 5]), 2):
            try:
                row = _decoded(self._payload(page, int.from_bytes(page[place : place + 2]) + 4 * interior))
            except (ValueError, IndexError):  # a part of it is gone
                continue
            if len(row) == columns:
                yield row

    def _payload(self, page: bytes, at: int) -> bytes:
        """The bytes of the row whose cell begins there, its overflow pages joined on."""
        length, at = _varint(page, at)
        if length > self.count * self.size:
            raise ValueError("longer than all pages")
        most = (self.usable - 12) * 64 // 255 - 23
        least = (self.usable - 12) * 32 // 255 - 23
        if length <= most:
            return _exactly(page[at : at + length], length)
        here = least + (length - least) % (self.usable - 4)
        here = here if here <= most else least
        parts, left = [_exactly(page[at : at + here], here)], length - here
        following = int.from_bytes(_exactly(page[at + here : at + here + 4], 4))
        while left > 0:
            if not 0 < following <= self.count:
                raise ValueError("the chain of pages leads nowhere")
            overflow = self.page(following)
            piece = min(left, self.usable - 4)
            parts.append(_exactly(overflow[4 : 4 + piece], piece))
            left, following = left - piece, int.from_bytes(overflow[:4])
        return b"".join(parts)


def _exactly(part: bytes, length: int) -> bytes:
    if len(part) != length:
        raise ValueError("cut off")
    return part


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """SQLite's number of 1 to 9 bytes, and where it ends."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _decoded(payload: bytes) -> tuple[Any, ...]:
    """A row's columns: texts, whole numbers, bytes and None."""
    end, at = _varint(payload, 0)
    kinds, values, place = [], [], end
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    for kind in kinds:
        length = INTEGERS.get(kind, 0) if kind < 12 else (kind - 12) // 2
        part = _exactly(payload[place : place + length], length)
        place += length
        if kind >= 12:
            values.append(part.decode() if kind % 2 else part)
        elif kind in INTEGERS:
            values.append(int.from_bytes(part, signed=True))
        elif kind in (0, 8, 9):
            values.append({0: None, 8: 0, 9: 1}[kind])
        else:
            raise ValueError(f"no column of these records is of the kind {kind}")
    return tuple(values)
