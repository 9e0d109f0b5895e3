"""Reads a stream of server-sent events (WHATWG HTML, 9.2), however the network cut it.

Only what model servers use is kept: the `data` of each event and its `event` type. Comments, `id` and `retry` are passed over;
lines end in LF, CR or CRLF; an event ends at an empty line. An event cut off by the end of the stream is dropped, as the standard
has it; the caller notices that the stream never said it was complete.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.core.errors import SteelyardError

LARGEST_EVENT = 8 * 1024 * 1024  # characters


@dataclass(frozen=True)
class ServerEvent:
    """One event: `data` with its lines joined by newlines, `type` as named (`message` unless it says otherwise)."""

    data: str
    type: str = "message"


class EventParser:
    """Takes bytes as they come, gives events as they end.

    `feed` may be called with any cut, also inside a character or between CR and LF: the events are the same.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []
        self._data: list[str] = []
        self._size = 0
        self._type = ""
        self._after_return = False
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that these bytes complete.

        Raises:
            SteelyardError: an event larger than any answer's piece can be.
        """
        text = self._decoder.decode(chunk)
        if not self._begun and text:
            text, self._begun = text.removeprefix("\ufeff"), True
        if self._after_return and text:
            text, self._after_return = text.removeprefix("\n"), False
        self._after_return = self._after_return or text.endswith("\r")
        *ended, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for piece in ended:
            self._line.append(piece)
            line = "".join(self._line)
            self._line = []
            if (event := self._took(line)) is not None:
                yield event
        self._line.append(rest)
        self._size += len(rest)
        if self._size > LARGEST_EVENT:
            raise SteelyardError(f"one event of the stream is larger than {LARGEST_EVENT >> 20} MB")

    def _took(self, line: str) -> ServerEvent | None:
        if not line:
            event = ServerEvent("\n".join(self._data), self._type or "message") if self._data else None
            self._data, self._type, self._size = [], "", 0
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._size += len(value)
        elif field == "event":
            self._type = value
        return None
