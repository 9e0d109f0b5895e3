"""What lets a browser open reports where a key is needed: a cookie that is good for that and for nothing else.

A tab or a frame cannot send a header, so `GET /api/reports/NAME/report.html` needs something that a browser sends by itself. The page,
which has the key, asks for a session (`POST /api/reports/session`) right before it opens a report and is given a cookie:

* read only: `security.py` looks at it for GET of a report's file, and nowhere else, so that a request forged by another page can change
  nothing and read nothing (`SameSite=Strict`, and the checks of `Origin` and `Sec-Fetch-Site` come first);
* short-lived, and ended by `DELETE /api/reports/session`, by a restart of the server, or where its user is no longer known;
* `HttpOnly`, so that no script can read it, and only ever sent below `/api/reports/`.

Browsers send cookies to all ports of a host. Another program on this host may see one, and could read reports with it until it ends.
Sessions are kept in this process: behind a balancer, a browser must stay with one server for as long as one lives.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

NAME = "steelyard_reports"
PATH = "/api/reports"
MOST = 1000
"""Sessions kept at once; the oldest goes for a new one."""


class ReportSessions:
    """The sessions of one server.

    Args:
        seconds: how long one lasts.
        clock: tells seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.seconds, self._clock = seconds, clock
        self._known: dict[bytes, tuple[str, float]] = {}

    def open(self, user: str) -> str:
        """A new session; returns what the cookie holds."""
        now = self._clock()
        self._known = {token: one for token, one in self._known.items() if one[1] > now}
        while len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        token = secrets.token_urlsafe(32)
        self._known[_digest(token)] = (user, now + self.seconds)
        return token

    def user(self, cookies: str) -> str | None:
        """Whose session a Cookie header names; None for nobody's."""
        try:
            token = SimpleCookie(cookies).get(NAME)
        except CookieError:
            return None
        # A digest is looked up, so the time it takes tells nothing of what is kept.
        user, until = self._known.get(_digest(token.value), ("", 0.0)) if token is not None else ("", 0.0)
        return user if until > self._clock() else None

    def close(self, user: str) -> None:
        """Ends all sessions of a user."""
        self._known = {token: one for token, one in self._known.items() if one[0] != user}


def opens(method: str, path: str) -> bool:
    """Whether a session lets a request in: it gets a report's file."""
    rest = path.removeprefix(f"{PATH}/")
    return method in ("GET", "HEAD") and rest != path and "/" in rest.strip("/")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
