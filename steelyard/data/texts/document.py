"""A document to learn from, and what every source of documents can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from steelyard.data.formats import BadRow

PIECE = 2**18
"""Most characters of a document: longer texts come as several, each but the last marked with `continues`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Attributes:
        text: as the source has it. Strings that look like special tokens are ordinary text.
        where: file (and line), or name and number, for errors.
        continues: the next document goes on with the same text, which was too long for one.
        special: (start, end) of stretches of the text that are special tokens, in order.
    """

    text: str
    where: str = ""
    continues: bool = False
    special: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Checked:
    """What reading a source found out.

    Attributes:
        fingerprint: digest of the content.
        documents: usable ones.
        bad: rows that cannot be used.
        unusable: why the whole source cannot be used, or "".
    """

    fingerprint: str = ""
    documents: int = 0
    bad: tuple[BadRow, ...] = ()
    unusable: str = ""


class Part(Protocol):
    """One file, or one table."""

    @property
    def where(self) -> str: ...

    def check(self) -> Checked:
        """Reads it through once. It is asked before `documents`."""
        ...

    def documents(self) -> Iterator[Document]:
        """Its usable documents, in its own order."""
        ...


def pieces(texts: Iterator[str], where: str, most: int | None = None) -> Iterator[Document]:
    """One text that arrives in chunks, as documents of at most `most` (`PIECE` if None) characters.

    A cut is made after a line's end where there is one. A token that would reach over a cut becomes two.
    """
    held, most = "", PIECE if most is None else most
    for chunk in texts:
        held += chunk
        while len(held) > most:
            cut = held.rfind("\n", 1, most) + 1 or most
            yield Document(held[:cut], where, continues=True)
            held = held[cut:]
    if held:
        yield Document(held, where)
