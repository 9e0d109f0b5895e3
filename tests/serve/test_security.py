"""Who may ask, and how much: one layer that denies what it does not know to be allowed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from steelyard.core.errors import SteelyardError
from steelyard.serve import security
from steelyard.serve.security import Security
from steelyard.serve.settings import ServeSettings, is_loopback, key_from
from tests.serve.live_server import LiveServer

KEY = "a-key-of-more-than-16-characters"


def _app(**settings: object) -> TestClient:
    app = FastAPI()

    @app.post("/v1/echo")
    async def echo(request: Request) -> dict[str, object]:
        return {"size": len(await request.body()), "user": request.state.user}

    @app.get("/assets/a.js")
    @app.get("/health")
    @app.get("/api/thing")
    async def thing() -> str:
        return "here"

    app.add_middleware(Security, settings=ServeSettings.model_validate(settings))
    return TestClient(app, base_url="http://127.0.0.1:8000")


def test_nobody_but_this_machine_is_let_in_without_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        if host:
            with pytest.raises(SteelyardError, match="key"):
                ServeSettings.model_validate({"host": host}).check()
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        ServeSettings.model_validate({"host": host}).check()
        assert is_loopback(host)
    ServeSettings.model_validate({"host": "0.0.0.0", "key": KEY}).check()


def test_a_key_comes_from_a_variable_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_from(None) is None
    with pytest.raises(SteelyardError, match="not set"):
        key_from("NO_SUCH_VARIABLE_HERE")
    monkeypatch.setenv("A_KEY", "short")
    with pytest.raises(SteelyardError) as refusal:
        key_from("A_KEY")
    assert "short" not in str(refusal.value)
    monkeypatch.setenv("A_KEY", KEY)
    key = key_from("A_KEY")
    assert key is not None and KEY not in repr(ServeSettings.model_validate({"key": key}))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "8.8.8.8", "", "a@b", "[::"]
)
def test_a_host_that_is_not_the_servers_own_is_refused(host: str) -> None:
    assert _app().get("/api/thing", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000"])
def test_the_servers_own_names_are_known(host: str) -> None:
    assert _app().get("/api/thing", headers={"Host": host}).status_code == 200


def test_further_names_and_origins_are_allowed_by_the_operator() -> None:
    client = _app(hosts=("models.example",), origins=("https://app.example",))
    assert client.get("/api/thing", headers={"Host": "models.example:8000"}).status_code == 200
    assert client.get("/api/thing", headers={"Origin": "https://app.example"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8000", ""])
def test_pages_of_other_origins_are_refused_and_never_told_otherwise(origin: str) -> None:
    response = _app().get("/api/thing", headers={"Origin": origin})
    assert response.status_code == 403 and "access-control-allow-origin" not in response.headers
    preflight = _app().options("/v1/echo", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 403


def test_the_servers_own_page_may_ask_and_other_sites_may_only_link_to_it() -> None:
    client = _app()
    assert client.get("/api/thing", headers={"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert client.get("/api/thing", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/health", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200


def test_every_route_needs_the_key_but_the_files_of_the_page() -> None:
    client = _app(key=KEY)
    for path in ("/api/thing", "/v1/echo", "/openapi.json", "/nowhere", "/assets/../api/thing"):
        refusal = client.get(path)
        assert refusal.status_code == 401 and refusal.headers["www-authenticate"] == "Bearer"
        assert refusal.json()["error"]["code"] == "invalid_api_key"
    for key in (KEY[:-1], KEY + "x", "", "é" * 16):
        assert client.get("/api/thing", headers={"Authorization": f"Bearer {key}".encode()}).status_code == 401  # type: ignore[arg-type]
    assert client.get("/api/thing", headers={"Authorization": f"Basic {KEY}"}).status_code == 401
    assert client.get("/api/thing", headers={"Authorization": f"bearer {KEY}"}).status_code == 200
    assert client.get("/assets/a.js").status_code == client.get("/health").status_code == 200
    assert client.post("/health").status_code == 401


def test_a_body_that_is_too_large_is_refused_whatever_it_says_of_itself() -> None:
    client = _app(body_bytes=1024)
    assert client.post("/v1/echo", content=b"x" * 1024).json() == {"size": 1024, "user": "local"}
    told = client.post("/v1/echo", content=b"x" * 1025)
    assert told.status_code == 413 and told.json()["error"]["code"] == "body_too_large"
    untold = client.post("/v1/echo", content=iter([b"x" * 600] * 3))
    assert untold.status_code == 413
    for length in ("-1", "1e9", "9" * 30):
        assert client.post("/v1/echo", content=b"x", headers={"Content-Length": length}).status_code == 413


def test_answers_protect_whoever_reads_them() -> None:
    headers = _app().get("/api/thing").headers
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


@pytest.fixture
def raw(server: LiveServer) -> Iterator[socket.socket]:
    with socket.create_connection((server.client.base_url.host, server.client.base_url.port), timeout=20) as connection:
        yield connection


def test_a_body_that_is_too_large_is_not_read_to_its_end(server: LiveServer, raw: socket.socket) -> None:
    raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n")
    assert b"413" in raw.recv(1000).split(b"\r\n")[0]
    sent, most = 0, security.LINGER_BYTES + 64 * 2**20  # what lies in the buffers of both ends comes on top
    with contextlib.suppress(OSError):
        while sent < most:
            raw.sendall(b"a" * 2**20)
            sent += 2**20
    assert sent < most, "the connection was not closed"


def test_a_body_whose_length_is_told_in_two_ways_is_refused_and_what_follows_it_is_no_request(
    server: LiveServer, raw: socket.socket
) -> None:
    hidden = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw.sendall(head % (5 + len(hidden)) + b"0\r\n\r\n" + hidden)
    told = b"".join(iter(lambda: raw.recv(65536), b""))  # to the end of the connection
    assert told.startswith(b"HTTP/1.1 400") and told.count(b"HTTP/1.1") == 1 and b"Transfer-Encoding: send one" in told


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/attachments", "/api/import"])
def test_a_client_that_writes_before_it_reads_is_told_why(server: LiveServer, path: str) -> None:
    largest = server.settings.upload_bytes if path.startswith(security.UPLOADS) else server.settings.body_bytes
    response = server.client.post(path, content=iter([b"a" * 2**20] * (largest // 2**20 + 8)))
    assert response.status_code == 413 and response.headers["connection"] == "close"
    assert server.client.get("/ready").status_code == 200


@pytest.mark.parametrize(
    "path", ["..%2fsecret.html", "%2e%2e/secret.html", "first/../../secret.html", "%00", "first/report.html%00", "first"]
)
def test_no_file_outside_a_report_is_read(server: LiveServer, path: str) -> None:
    response = httpx.get(f"{server.url}/api/reports/{path}")
    assert response.status_code == 404 and "SECRET" not in response.text
    nested = httpx.get(f"{server.url}/api/reports/first/{path}")
    assert nested.status_code == 404 and "SECRET" not in nested.text


def test_a_report_is_read_in_an_origin_that_is_nobodys(server: LiveServer) -> None:
    assert [report["name"] for report in server.client.get("/api/reports").json()["reports"]] == ["first"]
    page = server.client.get("/api/reports/first/report.html")
    assert page.text == "<h1>first</h1>" and page.headers["content-security-policy"].startswith("sandbox")
