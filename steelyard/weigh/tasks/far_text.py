"""How well a model reads far into a text: bits per byte of a piece's second half, after its first half. Lower is better.

With pieces longer than the windows a model was trained on, this is length extrapolation: what was learned on short texts either holds
further out, or the bits rise above those of the same model near a text's beginning (`bits_per_byte`).
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from steelyard.weigh.tasks.bits_per_byte import BitsPerByte
from steelyard.weigh.tasks.task import Metric, Read

FAR_BITS_PER_BYTE = Metric(
    "far_bits_per_byte", "quality", "bits/byte", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf)
)


class FarText(BitsPerByte):
    """Compression of a text's second half."""

    name: ClassVar[str] = "far_text"
    summary: ClassVar[str] = "Bits a model needs per byte of a long text's second half, after its first."
    metrics: ClassVar[tuple[Metric, ...]] = (FAR_BITS_PER_BYTE,)

    piece_bytes: int = Field(2400, ge=32, le=1_000_000, description="longest piece, bytes of UTF-8; its second half counts")

    def request(self, piece: str) -> Read:
        middle = len(piece) // 2
        cut = piece.find(" ", middle)
        cut = cut if 0 < cut < len(piece) - 1 else middle
        return Read(piece[cut:], before=piece[:cut])
