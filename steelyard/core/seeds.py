"""Random numbers keyed by what they are for, so that order, batching and resumption cannot change them."""

from __future__ import annotations

import hashlib


def derive(*keys: object) -> int:
    """A 63-bit seed from any keys (numbers and strings): equal keys, equal seed; else independent."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
