"""Ids, times and texts as the store keeps them.

Ids are 24 random hex digits: nothing can be read from one, and none can be guessed. Times are whole microseconds since 1970 in
UTC, which both databases order alike; people see ISO 8601. Structured values are JSON text, because PostgreSQL's own JSON types
refuse the NUL characters that models now and then write.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from steelyard.core.errors import DataError
from steelyard.serve.store.errors import NotFoundError

_ID = re.compile(r"[0-9a-f]{24}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def new_id() -> str:
    """An id that nothing had before: 96 random bits."""
    return secrets.token_hex(12)


def is_id(value: object) -> bool:
    """Whether a value has the form of an id."""
    return isinstance(value, str) and _ID.match(value) is not None


def known_id(value: str, what: str) -> str:
    """The id itself, if it has the form of one.

    Raises:
        NotFoundError: it has not, so nothing is called so.
    """
    if not is_id(value):
        raise missing(what)
    return value


def missing(what: str) -> NotFoundError:
    """The one answer to an id that is unknown or somebody else's."""
    return NotFoundError(f"there is no such {what}", where=what, do="Name one of yours by the id the server gave it.")


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def iso(moment: int) -> str:
    """ISO 8601 with microseconds: `2026-11-22T04:00:00.000000Z`."""
    return datetime.fromtimestamp(moment // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{moment % 1_000_000:06d}Z"


def moment(text: str) -> int:
    """Microseconds of an ISO 8601 time; one without a zone is UTC.

    Raises:
        ValueError: it is none.
    """
    when = datetime.fromisoformat(text)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    since = when.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def dump(value: Any) -> str:
    """JSON text for a column."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def load(text: str | None) -> Any:
    """What `dump` wrote."""
    return None if text is None else json.loads(text)


def finite(value: float | None) -> float | None:
    """A number JSON can hold; others (the logarithm of probability 0) become null."""
    return value if value is not None and math.isfinite(value) else None


def whole(text: str) -> str:
    """Text that UTF-8 can hold: half surrogate pairs, which a remote endpoint may send, become U+FFFD."""
    return text.encode("utf-8", "replace").decode("utf-8") if _half(text) else text


def said(text: str, what: str, most: int) -> str:
    """A text from a person, as it is.

    Raises:
        DataError: it is too long or holds half a surrogate pair.
    """
    if len(text) > most:
        raise DataError(
            f"{len(text):,} characters, of which {most:,} are allowed", where=what, do="Send less at once, or attach it as a file."
        )
    if _half(text):
        raise DataError("half a surrogate pair, which UTF-8 cannot hold", where=what, do="Send whole characters.")
    return text


def label(text: str, what: str, most: int = 200) -> str:
    """A short text on one line (a title, a group), without spaces around it.

    Raises:
        DataError: it is empty, too long or holds control characters.
    """
    text = text.strip()
    if not text:
        raise DataError("it is empty", where=what, do="Give it some characters.")
    if _CONTROL.search(text):
        raise DataError("control characters or half a surrogate pair", where=what, do="Use plain text on one line.")
    return said(text, what, most)


def _half(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False
