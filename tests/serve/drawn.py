"""Pictures with text, drawn for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont


def picture(lines: Sequence[tuple[int, int, str]], size: tuple[int, int] = (640, 240), turned: bool = False) -> bytes:
    """A white picture with black lines of text at (left, top). `turned`: stored lying on its side, as a camera does, with EXIF's word
    for how it was held."""
    image = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=36)
    for left, top, text in lines:
        draw.text((left, top), text, font=font, fill="black")
    out, exif = io.BytesIO(), Image.Exif()
    if turned:
        image = image.rotate(90, expand=True)
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()
