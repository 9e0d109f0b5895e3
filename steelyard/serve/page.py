"""The page: files that `make web` (and the building of a wheel) put into `page/`, served under a strict content policy.

The page holds no data and no secret, so it is readable without a key; all it shows comes from the API, which asks for one.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

BUILT = Path(__file__).parent / "page"

# A document gets this: scripts and styles only from files of the page, no plugins, no frames but reports, and pictures never
# from elsewhere, so that nothing a model writes can call home.
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "frame-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
FOR_A_YEAR = {"Cache-Control": "public, max-age=31536000, immutable"}  # built files have a hash of their content in their names
ASK_AGAIN = {"Cache-Control": "no-cache"}

NOT_BUILT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Steelyard: no page</title></head>
<body><h1>The page is not built</h1>
<p>The server runs and its API answers, but this installation holds no page. In a checkout of the source, build it with
<code>make web</code> and load this address again. Wheels bring it ready made.</p></body></html>
"""


def router(built: Path | None = None) -> APIRouter:
    """Routes of the page: `/`, `/favicon.svg` and `/assets/...`.

    Args:
        built: where the built page lies, None for where `make web` puts it. It is looked at on each request, so a page built later is served without a restart.
    """
    folder = built or BUILT
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def index() -> Response:
        document = folder / "index.html"
        if not document.is_file():
            return HTMLResponse(NOT_BUILT, status_code=503, headers={**HEADERS, **ASK_AGAIN})
        return FileResponse(document, media_type="text/html", headers={**HEADERS, **ASK_AGAIN})

    @routes.get("/favicon.svg")
    async def favicon() -> Response:
        return _file(folder, "favicon.svg", ASK_AGAIN)

    @routes.get("/assets/{name}")
    async def asset(name: str) -> Response:
        return _file(folder / "assets", name, FOR_A_YEAR)

    return routes


def _file(folder: Path, name: str, cache: dict[str, str]) -> Response:
    """A file that lies directly in `folder`, or 404: a name is only looked up among those there, never followed."""
    there = {entry.name: entry for entry in folder.iterdir()} if folder.is_dir() else {}
    path = there.get(name)
    if path is None or path.is_symlink() or not path.is_file():
        return Response("There is no such file.", status_code=404, media_type="text/plain", headers=HEADERS)
    return FileResponse(path, headers={**HEADERS, **cache})
