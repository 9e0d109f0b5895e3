"""Digests of settings and sources: two things with equal fingerprints give equal answers."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """16 hex digits over a JSON-like value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_digest(thing: type) -> str:
    """Digest of the source file that defines a class: a lever whose code changed is another lever."""
    file = inspect.getsourcefile(thing)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else "no-source"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
