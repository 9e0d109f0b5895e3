"""Says what a file is by its first bytes, never by the name or type a client gives it.

Only what the server can show or read later is taken. Sizes that a decoder would have to trust (a picture's pixels, what an office
document unpacks to) are read from the header and refused before any decoder sees the file.
"""

from __future__ import annotations

import io
import struct
import zipfile

from steelyard.core.errors import DataError
from steelyard.serve.store.errors import TooLargeError
from steelyard.serve.store.limits import StoreLimits

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
TEXT = "text/plain"
PDF = "application/pdf"
_OFFICE = {
    "word/": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xl/": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "ppt/": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_ENTRIES = 10_000  # files in an office document
_REMEDY = "Attach text (also CSV, Markdown, JSON), a PNG, JPEG, GIF or WebP picture, a PDF, or a .docx, .xlsx or .pptx document."


def sniff(content: bytes, name: str, limits: StoreLimits) -> str:
    """The media type of a file.

    Raises:
        DataError: it is of no kind that is taken, or damaged at its beginning.
        TooLargeError: it would unpack to more than is allowed.
    """
    if not content:
        raise DataError("the file is empty", where=name, do=_REMEDY)
    if (picture := _picture(content)) is not None:
        kind, width, height = picture
        if width * height == 0:
            raise DataError(f"a {kind} whose size cannot be read", where=name, do="Save the picture anew.")
        if width * height > limits.picture_pixels:
            what = f"{width:,} x {height:,} pixels, of which {limits.picture_pixels:,} are allowed"
            raise TooLargeError(what, where=name, do="Make the picture smaller.")
        return kind
    if content.startswith(b"%PDF-"):
        return PDF
    if content.startswith(b"PK\x03\x04"):
        return _office(content, name, limits)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("neither text in UTF-8 nor any kind of file that is taken", where=name, do=_REMEDY) from None
    if any((character < " " or character == "\x7f") and character not in "\t\n\r\f\v" for character in text):
        raise DataError("control characters that no text holds", where=name, do=_REMEDY)
    return TEXT


def _picture(content: bytes) -> tuple[str, int, int] | None:
    """Type, width and height; 0 x 0 where the header ends too early or makes no sense."""
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return "image/png", *(struct.unpack_from(">II", content, 16) if content[12:16] == b"IHDR" else (0, 0))
        if content.startswith((b"GIF87a", b"GIF89a")):
            return "image/gif", *struct.unpack_from("<HH", content, 6)
        if content.startswith(b"\xff\xd8\xff"):
            return "image/jpeg", *_jpeg(content)
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return "image/webp", *_webp(content)
    except struct.error:
        return "picture", 0, 0
    return None


def _jpeg(content: bytes) -> tuple[int, int]:
    """Walks the segments to the frame header."""
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        (length,) = struct.unpack_from(">H", content, at + 2)
        if length < 2:
            break
        at += 2 + length
    return 0, 0


def _webp(content: bytes) -> tuple[int, int]:
    match content[12:16]:
        case b"VP8X":
            return int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", content, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", content, 26)
            return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _office(content: bytes, name: str, limits: StoreLimits) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError) as error:
        raise DataError(f"a damaged archive: {error}", where=name, do="Save the document anew.") from error
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > _ENTRIES or unpacked > limits.unpacked_bytes:
        what = f"it unpacks to {unpacked:,} bytes in {len(entries):,} files; {limits.unpacked_bytes:,} in {_ENTRIES:,} are allowed"
        raise TooLargeError(what, where=name, do="Attach its text instead.")
    names = {entry.filename for entry in entries}
    if "[Content_Types].xml" in names:
        for folder, kind in _OFFICE.items():
            if any(entry.startswith(folder) for entry in names):
                return kind
    raise DataError("an archive that is no office document", where=name, do=_REMEDY)
