"""What lets a browser open reports where a key is needed: a cookie that is good for that and for nothing else.

A tab or a frame cannot send a header, so `GET /api/reports/NAME/report.html` needs something that a browser sends by itself. The page,
which has the key, asks for a session (`POST /api/reports/session`) right before it opens a report and is given a cookie:

* read only: `security.py` looks at it for GET of a report's file, and nowhere else, so that a request forged by another page can change
  nothing and read nothing (`SameSite=Strict`, and the checks of `Origin` and `Sec-Fetch-Site` come first);
* short-lived, and ended by `DELETE /api/reports/session`, or where its user has another key or is no longer known;
* `HttpOnly`, so that no script can read it, and only ever sent below `/api/reports/`.

Browsers send cookies to all ports of a host. Another program on this host may see one, and could read reports with it until it ends.
Sessions are kept in the database, so that every server over it knows them; their tokens are not (`store/sessions.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from steelyard.serve.store.sessions import Sessions

NAME = "steelyard_reports"
PATH = "/api/reports"


class ReportSessions:
    """The sessions of one server.

    Args:
        kept: where they are.
        keys: the digests of the keys that let users in, by name.
        seconds: how long one lasts.
    """

    def __init__(self, kept: Sessions, keys: Mapping[str, bytes], seconds: float):
        self.kept, self.keys, self.seconds = kept, keys, seconds

    def open(self, user: str) -> str:
        """A new session; returns what the cookie holds."""
        return self.kept.open(user, self.keys[user], self.seconds)

    def user(self, cookies: str) -> str | None:
        """Whose session a Cookie header names; None for nobody's. It asks the database."""
        try:
            token = SimpleCookie(cookies).get(NAME)
        except CookieError:
            return None
        return self.kept.user(token.value, self.keys) if token is not None and token.value else None

    def close(self, user: str) -> None:
        """Ends all sessions of a user."""
        self.kept.close(user)


def opens(method: str, path: str) -> bool:
    """Whether a session lets a request in: it gets a report's file."""
    rest = path.removeprefix(f"{PATH}/")
    return method in ("GET", "HEAD") and rest != path and "/" in rest.strip("/")
