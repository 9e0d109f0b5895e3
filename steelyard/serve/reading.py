"""Reads what people upload, in processes that can be killed.

Decoders meet files from anybody. Each file is read by a process of its own with an end to its time and memory; whatever happens in
it, a crash too, becomes a reason that is shown beside the file. The server itself opens nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
from pydantic import Field

from steelyard.core.errors import DataError, SteelyardError
from steelyard.data.documents.pictures import installed
from steelyard.data.documents.reading import VERSION
from steelyard.data.documents.sections import ReadLimits, Section, whole

MEBIBYTE = 1024 * 1024
LONGEST_REPLY = 256 * MEBIBYTE
PICTURES = "its pages are pictures"
NOT_INSTALLED = "reading the text in pictures (OCR) is not installed on this server: pip install 'steelyard[ocr]'"

What = Literal["document", "picture"]


class ReadingLimits(pydantic.BaseModel):
    """What one file may cost."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(default=30.0, gt=0, description="longest time to read a file, in seconds")
    memory_bytes: int = Field(
        default=2048 * MEBIBYTE, ge=128 * MEBIBYTE, description="most memory to read a file, in bytes of address space"
    )
    picture_seconds: float = Field(
        default=120.0,
        gt=0,
        description="longest time to recognise the text in a picture, or in the pages of a PDF that are pictures, in seconds",
    )
    picture_memory_bytes: int = Field(
        default=6144 * MEBIBYTE, ge=256 * MEBIBYTE, description="most memory for that, in bytes of address space"
    )
    picture_pixels: int = Field(default=64_000_000, ge=1, description="most pixels of a picture that is decoded")
    at_once: int = Field(default=2, ge=1, description="files that are read at once; more wait")
    document: ReadLimits = Field(default=ReadLimits(), description="how much a document may be")


@dataclass(frozen=True)
class Reading:
    """What was read of a file.

    Attributes:
        reader: what read it, with its version.
        sections: its text; empty where there is none.
        reason: why there is none, or None.
        lasting: whether it would be read so again: a reason that lies in the machine does not last.
    """

    reader: str
    sections: tuple[Section, ...] = ()
    reason: str | None = None
    lasting: bool = True

    @property
    def text(self) -> str:
        return whole(self.sections)


UNSEEN = f"document {VERSION} without OCR"
"""The reader of a document with pages that are pictures, where recognition is not installed."""


def current(reader: str) -> bool:
    """Whether a reader's text needs no reading again."""
    if reader == UNSEEN:
        return not installed()
    return not reader.startswith("document ") or reader == f"document {VERSION}"


class Readers:
    """Reads files, a few at once."""

    def __init__(self, limits: ReadingLimits | None = None):
        self.limits = limits or ReadingLimits()
        self._turns = asyncio.Semaphore(self.limits.at_once)

    async def read(self, what: What, content: bytes, name: str) -> Reading:
        """The text of a file. It never fails: what stands in the way is the reading's reason."""
        asked = {"what": what, "name": name, "limits": self.limits.document.model_dump()}
        reply = await self._asked(asked, content)
        sections = tuple(Section(title, text) for title, text in reply["sections"])
        if numbers := reply.get("pictures"):
            return await self._scanned(sections, numbers, asked, content)
        return Reading(reply["reader"], sections, reply["reason"], reply["lasting"])

    async def _scanned(self, sections: tuple[Section, ...], numbers: list[int], asked: dict[str, Any], content: bytes) -> Reading:
        """A PDF some of whose pages are pictures: with their text where that can be recognised, else with a note in their place."""
        reader, why, lasting = UNSEEN, NOT_INSTALLED, True
        seen: dict[int, Section] = {}
        if installed():
            reply = await self._asked(asked | {"what": "scan", "pages": numbers}, content)
            reader, why, lasting = reply["reader"], reply["reason"], reply["lasting"]
            seen = {number: Section(f"page {number}, by OCR", text) for number, text in reply.get("pages", ())}
        if not sections and not seen:
            return Reading(reader, (), why if why.startswith(PICTURES) else f"{PICTURES}: {why}", lasting)
        if why is not None:
            seen = {number: Section(f"page {number}", f"(This page is a picture. Its text was not read: {why}.)") for number in numbers}
        placed = seen | {int(section.title.removeprefix("page ")): section for section in sections}
        return Reading(reader, tuple(placed[number] for number in sorted(placed)), None, lasting)

    async def crop(self, content: bytes, name: str, rectangle: Sequence[int]) -> bytes:
        """A piece of a picture as a PNG; the rectangle is left, top, width and height in pixels of the upright picture.

        Raises:
            DataError: why there is none.
        """
        reply = await self._asked({"what": "crop", "name": name, "rectangle": list(rectangle)}, content)
        if reply["reason"] is not None:
            raise DataError(reply["reason"], where=name, do="Choose another piece, or save the picture anew.")
        return base64.b64decode(reply["content"])

    async def _asked(self, asked: dict[str, Any], content: bytes) -> dict[str, Any]:
        """What a process of its own says of a file."""
        limits, what = self.limits, asked["what"]
        seconds, memory = (
            (limits.seconds, limits.memory_bytes) if what == "document" else (limits.picture_seconds, limits.picture_memory_bytes)
        )
        header = json.dumps(asked | {"memory_bytes": memory, "seconds": seconds, "pixels": limits.picture_pixels}).encode()
        failed = {"reader": f"{what} {VERSION}", "sections": [], "lasting": False}
        async with self._turns:
            try:
                status, out, told = await asyncio.wait_for(_run(header + b"\n" + content), seconds)
            except TimeoutError:
                return failed | {"reason": f"reading it took longer than {seconds:g} s"}
        if status == 0 and len(out) <= LONGEST_REPLY:
            return json.loads(out)
        return failed | {"reason": _fate(status, told, seconds, memory)}


def _fate(status: int, told: bytes, seconds: float, most: int) -> str:
    """Why a reader ended without a word. What it said may hold paths, and is not passed on."""
    memory = f"it needs more than {most // MEBIBYTE:,} MB to be read"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"reading it took longer than {seconds:g} s, or {memory}"
    if b"MemoryError" in told or b"bad_alloc" in told or b"ut of memory" in told:
        return memory
    return f"it is damaged so that its reader crashed, or {memory}"


async def _run(given: bytes) -> tuple[int, bytes, bytes]:
    """A reader's exit status, its reply and its last words. Whoever stops waiting kills it."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-P", "-m", "steelyard.serve.reading_worker")
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        out, told = await process.communicate(given)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())
        raise
    return process.returncode or 0, out, told[-4096:]


def reason_of(error: SteelyardError) -> str:
    """What went wrong, on one line, without the name of the file it is shown beside."""
    return " ".join(error.what.split())
