"""How well a model uses what it has just read: bits per byte of a text that is there a second time. Lower is better.

A model that recalls its context copies the second reading almost for nothing (the match-and-copy of induction heads, arXiv:2209.11895);
one whose memory has a fixed size recalls as much as fits into it. The first reading does not count.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from steelyard.weigh.tasks.bits_per_byte import BitsPerByte
from steelyard.weigh.tasks.task import Metric, Read

REPEATED_BITS_PER_BYTE = Metric(
    "repeated_bits_per_byte", "quality", "bits/byte", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf)
)


class RepeatedText(BitsPerByte):
    """Compression of a text that was read before."""

    name: ClassVar[str] = "repeated_text"
    summary: ClassVar[str] = "Bits a model needs per byte of a text that stands before it already: what it recalls of its context."
    metrics: ClassVar[tuple[Metric, ...]] = (REPEATED_BITS_PER_BYTE,)

    piece_bytes: int = Field(300, ge=16, le=65_536, description="longest piece, bytes of UTF-8; it is read twice")

    def request(self, piece: str) -> Read:
        return Read(piece, before=f"{piece}\n\n")
