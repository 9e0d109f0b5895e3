"""`GET /api/reports`: the reports in the folder of runs, to be read and nothing else."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from steelyard.serve.api.replies import ERRORS
from steelyard.serve.http_errors import ApiError
from steelyard.serve.report_sessions import NAME, PATH
from steelyard.serve.service import Service

TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json", ".js": "text/javascript; charset=utf-8"}
POLICY = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'self'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""A report is a page of its own: it may run the script it came with, in an origin that is nobody's."""
MOST = 1000


def router(service: Service) -> APIRouter:
    """The list of reports, and their files."""
    routes = APIRouter(tags=["reports"])
    folder = service.settings.runs

    @routes.get("/api/reports")
    def reports() -> dict[str, Any]:
        """Runs that have a report, the newest first."""
        found = [path for path in folder.glob("*/report.html") if path.is_file()] if folder.is_dir() else []
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        told = [{"name": path.parent.name, "created": _time(path)} for path in found[:MOST]]
        return {"reports": told, "more": len(found) > MOST}

    @routes.post("/api/reports/session", status_code=204, responses=ERRORS)
    def open_session(request: Request) -> Response:
        """Lets this browser open reports for some minutes, by a cookie. Without keys there is nothing to let in, and no cookie."""
        response = Response(status_code=204)
        if service.sessions is not None:
            response.set_cookie(**_cookie(request, service.sessions.open(request.state.user), round(service.sessions.seconds)))
        return response

    @routes.delete("/api/reports/session", status_code=204, responses=ERRORS)
    def close_session(request: Request) -> Response:
        """Ends all sessions of the user who asks."""
        response = Response(status_code=204)
        if service.sessions is not None:
            service.sessions.close(request.state.user)
            response.set_cookie(**_cookie(request, "", 0))
        return response

    @routes.get("/api/reports/{name}/{file:path}", response_class=FileResponse, responses=ERRORS)
    def report(name: str, file: str) -> FileResponse:
        """A file of a report: its page, its figures, its answers."""
        path = folder / name / file
        kind = TYPES.get(path.suffix)
        if kind is None or not _is_within(path, folder) or not path.is_file():
            raise ApiError("No such file of a report.", status=404)
        return FileResponse(path, media_type=kind, headers={"Content-Security-Policy": POLICY})

    return routes


def _cookie(request: Request, value: str, seconds: int) -> dict[str, Any]:
    """The cookie of a session, sent for reports alone and to no script."""
    secure = request.url.scheme == "https"
    return {"key": NAME, "value": value, "max_age": seconds, "path": PATH, "secure": secure, "httponly": True, "samesite": "strict"}


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a path lies below a folder, links resolved; a null byte lies nowhere."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError):
        return False


def _time(path: Path) -> str:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).isoformat(timespec="seconds")
