"""Sessions of browsers: what lets one in for some minutes without the key, on every server over the same database.

A session is a random token that the browser keeps. Here stand only its digest, whose it is, when it ends, and a proof made of the token
and of the key it was opened with: a session ends with its user's key, and nobody who reads the table can make one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from steelyard.serve.store import tables
from steelyard.serve.store.database import Database
from steelyard.serve.store.values import now

MOST = 100
"""Sessions of one user kept at once; the one that ends first goes for a new one."""
_TABLE = tables.sessions


class Sessions:
    """The sessions of a store.

    Args:
        database: where they are kept.
        clock: tells microseconds since 1970, UTC.
    """

    def __init__(self, database: Database, clock: Callable[[], int] = now):
        self._database, self._clock = database, clock

    def open(self, owner: str, key: bytes, seconds: float) -> str:
        """A new session; returns its token.

        Args:
            owner: whose it is.
            key: the digest of their key.
            seconds: how long it lasts.
        """
        token, moment = secrets.token_urlsafe(32), self._clock()
        row = {"digest": _digest(token), "owner": owner, "proof": _proof(token, key), "until": moment + int(seconds * 1_000_000)}
        with self._database.writing() as connection:
            connection.execute(_TABLE.delete().where(_TABLE.c.until <= moment))
            mine = sa.select(_TABLE.c.digest).where(_TABLE.c.owner == owner).order_by(_TABLE.c.until.desc(), _TABLE.c.digest)
            spare = connection.execute(mine.offset(MOST - 1)).scalars().all()
            if spare:
                connection.execute(_TABLE.delete().where(_TABLE.c.digest.in_(spare)))
            connection.execute(_TABLE.insert(), row)
        return token

    def user(self, token: str, keys: Mapping[str, bytes]) -> str | None:
        """Whose session a token is; None for nobody's. `keys` are the digests of the keys that let users in now, by name."""
        # A digest is looked up, so the time it takes tells nothing of what is kept.
        query = sa.select(_TABLE).where(_TABLE.c.digest == _digest(token), _TABLE.c.until > self._clock())
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None or (key := keys.get(row.owner)) is None or not hmac.compare_digest(row.proof, _proof(token, key)):
            return None
        return row.owner

    def close(self, owner: str) -> None:
        """Ends all sessions of a user."""
        with self._database.writing() as connection:
            connection.execute(_TABLE.delete().where(_TABLE.c.owner == owner))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _proof(token: str, key: bytes) -> str:
    return hmac.new(key, token.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
