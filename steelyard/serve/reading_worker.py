"""A process that reads one file: `python -m steelyard.serve.reading_worker`, started by `reading.py` and by nobody else.

Standard input brings a line of JSON (what to do, within which limits) and then the file; standard output takes one JSON object. The
limits hold from before the first byte of the file is looked at.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

from steelyard.core.errors import SteelyardError, UnsupportedError


def confine(memory_bytes: int, seconds: float) -> None:
    """Ends this process where it takes more memory or processor time, and lets it write no files. Where a system knows no such limits
    (Windows), only the parent's clock holds."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (wanted, wanted))
        except (ValueError, OSError):  # macOS knows RLIMIT_AS and refuses it; the clock still holds
            continue


def document(content: bytes, asked: dict[str, Any]) -> dict[str, Any]:
    """The sections of a document, and the numbers of pages that are pictures."""
    from steelyard.data.documents.reading import read
    from steelyard.data.documents.sections import ReadLimits

    pictures: list[int] = []
    sections = read(content, asked["name"], ReadLimits(**asked["limits"]), pictures)
    return {"sections": [(section.title, section.text) for section in sections], "pictures": pictures}


def scan(content: bytes, asked: dict[str, Any]) -> dict[str, Any]:
    """The text of a document's pages that are pictures, by their numbers, and what recognised it."""
    from steelyard.data.documents.pdf import recognised_pages
    from steelyard.data.documents.sections import plain

    reader, found = recognised_pages(content, asked["name"], asked["pages"], asked["limits"]["scanned_pages"])
    return {"reader": reader, "pages": [(number, plain(text)) for number, text in found]}


def picture(content: bytes, asked: dict[str, Any]) -> dict[str, Any]:
    """The text in a picture, and what recognised it."""
    from steelyard.data.documents.pictures import recognised

    reader, sections = recognised(content, asked["name"], asked["pixels"])
    return {"reader": reader, "sections": [(section.title, section.text) for section in sections]}


def crop(content: bytes, asked: dict[str, Any]) -> dict[str, Any]:
    """A piece of a picture."""
    from steelyard.data.documents.pictures import cropped

    return {"content": base64.b64encode(cropped(content, asked["name"], asked["rectangle"], asked["pixels"])).decode("ascii")}


READS = {"document": document, "scan": scan, "picture": picture, "crop": crop}


def main() -> None:
    """Reads one file and says what is in it, or why nothing is."""
    asked = json.loads(sys.stdin.buffer.readline())
    content = sys.stdin.buffer.read()
    reply = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print is no part of the reply
    confine(asked["memory_bytes"] + len(content), asked["seconds"])
    from steelyard.data.documents.reading import VERSION
    from steelyard.serve.reading import reason_of

    said: dict[str, Any] = {"reader": f"{asked['what']} {VERSION}", "sections": [], "reason": None, "lasting": True}
    try:
        said |= READS[asked["what"]](content, asked)
    except SteelyardError as error:
        lasting = not isinstance(error, UnsupportedError)  # what is not installed may be tomorrow
        said |= {"reason": reason_of(error), "lasting": lasting}
    except (MemoryError, RecursionError) as error:
        what = "memory" if isinstance(error, MemoryError) else "levels within one another"
        said |= {"reason": f"it needs more {what} than is allowed", "lasting": False}
    reply.write(json.dumps(said).encode())
    reply.flush()
    os._exit(0)  # libraries have nothing to say at their end


if __name__ == "__main__":
    main()
