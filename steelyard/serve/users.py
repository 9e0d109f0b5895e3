"""Who a key belongs to: one key for everybody ("local"), or a file of users with a key each.

The file is YAML or JSON and maps names to keys, or to SHA-256 digests of keys, so that it need not hold any:

    ann: 3vXk0eRrWm1b8yT2uQd5pA
    bob: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

Keys are drawn at random, so a plain digest hides them (there is nothing to guess from). Only digests stay in memory, every one of them
is compared with what a request brings, each in constant time, and no key is part of any message.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.recipe_yaml import read

LOCAL = "local"
"""Who asks where there are no users."""
SHORTEST = 16
"""Characters of a key."""
MOST = 9_000
MOST_BYTES = 2 * 1024 * 1024
"""Of the file."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")
DRAW = 'python -c "import secrets; print(secrets.token_urlsafe())"'


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()


def is_key(value: str) -> bool:
    """Whether a text can be a key: enough printable ASCII characters, no spaces."""
    return len(value) >= SHORTEST and value.isascii() and value.isprintable() and " " not in value


def users_from(path: Path) -> dict[str, str]:
    """The users in a file, by name, each with the digest of their key.

    Raises:
        SteelyardError: it cannot be read, names nobody, two have the same key, or something in it is no name or no key. What stands
            for a key is never quoted.
    """
    try:
        document = read(path, MOST_BYTES)
    except RecipeError as error:
        raise SteelyardError("the users cannot be read", where=error.where, do="Write one `name: key` a line, as YAML or JSON.") from None
    if not isinstance(document.value, Mapping) or not 0 < len(document.value) <= MOST:
        raise SteelyardError(f"this does not name 1 to {MOST:,} users", where=str(path), do="Write one `name: key` a line.")
    users: dict[str, str] = {}
    known: set[str] = set()
    for name, key in document.value.items():
        where = document.where((name,)) if NAME.match(name) else str(path)
        if not NAME.match(name):
            raise SteelyardError("a user's name is not 1 to 64 letters, digits or _ . @ -", where=where, do="Choose a plain name.")
        hashed = DIGEST.match(key) if isinstance(key, str) else None
        if hashed is None and not (isinstance(key, str) and is_key(key) and not key.startswith("sha256:")):
            raise SteelyardError(
                f"what stands there is no key: at least {SHORTEST} printable ASCII characters without spaces, or sha256: and 64 hex digits",
                where=where,
                do=f"Draw one: {DRAW}. Put it into quotes if it is all digits.",
            )
        users[name] = hashed[1] if hashed else digest_of(key)
        if users[name] in known:
            raise SteelyardError("two users have the same key", where=where, do=f"Draw another one: {DRAW}.")
        known.add(users[name])
    return users


@dataclass(frozen=True)
class Keys:
    """The keys that let somebody in.

    Attributes:
        digests: SHA-256 of each, with whose it is. None at all lets everybody in.
    """

    digests: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(cls, users: Mapping[str, str], key: str | None) -> Keys:
        """The keys of users (digests in hex), or the one key that everybody shares."""
        told = users if key is None else {LOCAL: digest_of(key)}
        return cls(tuple((name, bytes.fromhex(digest)) for name, digest in told.items()))

    @property
    def needed(self) -> bool:
        return bool(self.digests)

    @property
    def by_name(self) -> dict[str, bytes]:
        """The digest of each user's key."""
        return dict(self.digests)

    def user(self, given: bytes) -> str | None:
        """Whose key this is; None for nobody's. It takes as long whoever's it is."""
        digest, found = hashlib.sha256(given).digest(), None
        for name, known in self.digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found
