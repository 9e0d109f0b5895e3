"""Pictures: pieces cut out of them, and the text in them by optical character recognition (OCR).

A picture is decoded within a limit of pixels that its header must keep before any of it is unpacked, and turned as its camera says it
was held (EXIF); places in it are counted in pixels of the upright picture. The recognition is RapidOCR's: small networks that come
with the package and run without a network connection. It may err, and whoever passes its text on says so.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import warnings
from collections.abc import Sequence
from typing import Any

from steelyard.core.errors import DataError, UnsupportedError
from steelyard.data.documents.sections import Section

PACKAGE = "rapidocr-onnxruntime"
LONGEST_SIDE = 2560
"""Pixels of the longer side to which a large picture is reduced before its text is read."""
LEAST_SIDE = 64
"""Pixels up to which a small piece is padded: letters at the very edge are missed."""
LEAST_SCORE = 0.5
"""Least certainty of a line, in [0, 1]."""
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")


def opened(content: bytes, name: str, pixels: int):  # Pillow may not be installed
    """The upright picture, decoded.

    Raises:
        UnsupportedError: Pillow is not installed.
        DataError: it is damaged, of another kind, or has more pixels than are allowed.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise UnsupportedError("pictures need Pillow", where=name, do='Install it: pip install "steelyard[ocr]".') from error
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=_FORMATS)
            picture.load()
            return ImageOps.exif_transpose(picture).convert(
                "RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB"
            )
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"more than {pixels:,} pixels", where=name, do="Make the picture smaller.") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        OverflowError,
        IndexError,
        TypeError,
        KeyError,
    ) as error:  # Pillow's, of damaged files
        raise DataError("a damaged picture", where=name, do="Save the picture anew.") from error


def cropped(content: bytes, name: str, rectangle: Sequence[int], pixels: int) -> bytes:
    """A piece of a picture as a PNG.

    Args:
        rectangle: left, top, width and height, in pixels of the upright picture.

    Raises:
        DataError: the piece does not lie within the picture.
    """
    picture = opened(content, name, pixels)
    left, top, width, height = rectangle
    if min(left, top) < 0 or min(width, height) < 1 or left + width > picture.width or top + height > picture.height:
        what = f"{width} x {height} at {left}, {top} is no piece of {picture.width} x {picture.height} pixels"
        raise DataError(what, where=name, do="Choose a piece within the picture.")
    out = io.BytesIO()
    picture.crop((left, top, left + width, top + height)).save(out, "PNG")
    return out.getvalue()


def recognised(content: bytes, name: str, pixels: int) -> tuple[str, list[Section]]:
    """What read a picture, and its lines of text from top to bottom.

    Raises:
        UnsupportedError: no recognition is installed.
        DataError: the picture cannot be decoded, or there is no text in it.
    """
    recogniser = Recogniser(name)
    text = recogniser.read(opened(content, name, pixels))
    if not text:
        raise DataError("OCR found no text in it", where=name, do="Choose a piece with text, or say what it shows.")
    return recogniser.name, [Section("", text)]


def installed() -> bool:
    """Whether text in pictures can be recognised here."""
    return importlib.util.find_spec("rapidocr_onnxruntime") is not None


class Recogniser:
    """Recognises the text in pictures.

    Args:
        file: what it reads, for its errors.

    Raises:
        UnsupportedError: none is installed.
    """

    def __init__(self, file: str):
        try:
            from rapidocr_onnxruntime import RapidOCR  # pyright: ignore[reportMissingImports]  # of the extra `ocr`
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                "it is a picture, and reading the text in pictures (OCR) is not installed on this server: pip install 'steelyard[ocr]'",
                where=file,
            ) from error
        self.name = f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
        self._read = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def read(self, picture: Any) -> str:
        """The lines of text in a decoded picture (RGB or RGBA), from top to bottom; empty where there are none."""
        import numpy
        from PIL import Image

        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        margin = max(16, (LEAST_SIDE - min(picture.size)) // 2)
        paper = Image.new("RGB", (picture.width + 2 * margin, picture.height + 2 * margin), "white")
        paper.paste(picture, (margin, margin), picture if picture.mode == "RGBA" else None)
        found, _ = self._read(numpy.asarray(paper)[:, :, ::-1])  # it was taught on BGR
        return "\n".join(
            _in_order([(box, text) for box, text, score in list[Any](found or []) if float(score) >= LEAST_SCORE and text.strip()])
        )


def _in_order(found: Sequence[tuple[Any, str]]) -> list[str]:
    """Texts with their boxes (four corners) as they are read: those beside each other on one line, lines from top to bottom."""
    rows: list[list[tuple[float, float, float, str]]] = []  # left, middle, height, text
    for box, text in sorted(found, key=lambda one: one[0][0][1]):
        top, bottom = min(y for _, y in box), max(y for _, y in box)
        entry = (min(x for x, _ in box), (top + bottom) / 2, bottom - top, text)
        row = next((row for row in rows if abs(row[0][1] - entry[1]) < 0.5 * min(row[0][2], entry[2])), None)
        rows.append([entry]) if row is None else row.append(entry)
    return ["  ".join(text for *_, text in sorted(row)) for row in rows]
