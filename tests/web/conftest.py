"""The page, built once, in a real Chromium. Each test has a server of its own, so that tests can run side by side."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from steelyard.serve import page
from steelyard.serve.engine_process import ServedModel
from tests.serve.live_server import LiveServer
from tests.serve.tiny_served import saved_talker
from tests.web.fake_api import Kept, create_app

WEB = Path(__file__).parents[2] / "web"
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH")
SLOW_MACHINE_MS = 60_000  # how long a browser may take on a machine that does much else; nothing waits that long when all is well
with contextlib.suppress(ImportError):  # without it the tests of the page are left out
    from playwright.sync_api import expect

    expect.set_options(timeout=SLOW_MACHINE_MS)

PATIENT = """{
  const wait = setTimeout;
  window.setTimeout = (work, ms, ...given) => wait(work, ms >= 9000 ? 20 * ms : ms, ...given);
  try {
    localStorage.getItem("steelyard.preferences") ?? localStorage.setItem("steelyard.preferences", '{"pause": 120}');
  } catch { /* a frame that may keep nothing */ }
}"""
"""What the page gives a person time for, a slow machine may take longer to do. The turn of somebody who writes several messages ends when
the test says so, not after the second and a half that the page waits by itself; and notices stay for minutes, not for nine seconds."""

HANDBOOK = "\n\n".join(
    ["# Boats of Orvia", *[f"Boat {number} 🚣 is  kept\tdry. " + "Dry boats last longer. " * 20 for number in range(40)]]
    + ["## The Brindle", "The Brindle 🚣🚣 was built\nin 1874 by Ida Halvorsen.", "## The Ferry", "The ferry leaves at noon."]
)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built page: once for all workers of a run."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("building the page needs node and npm (`make web` gets them from PyPI)")
    with open(WEB / ".build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = tmp_path_factory.getbasetemp().parent / f"page-{_digest()}"
        if not (folder / "index.html").is_file():
            made = subprocess.run([sys.executable, WEB / "build.py", folder], capture_output=True, text=True)
            said = made.stdout + made.stderr
            if made.returncode and any(sign in said for sign in UNREACHABLE):
                pytest.skip("the packages of the page cannot be had: npm's registry is not reachable")
            assert made.returncode == 0, said
    return folder


def _digest() -> str:
    """Of all that the page is made from."""
    files = []
    for folder, folders, names in os.walk(WEB):
        folders[:] = sorted(name for name in folders if name != "node_modules")
        files += [Path(folder, name) for name in sorted(names) if name != ".build.lock"]
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()[:16]


@pytest.fixture(scope="module")
def running(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A real server with a tiny random model that reads 2048 tokens, for tests that need no more of one; all may search its handbook."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "handbook").mkdir()
    (folder / "handbook" / "boats.md").write_text(HANDBOOK, encoding="utf-8")
    before, page.BUILT = page.BUILT, built
    model = ServedModel("tiny", str(saved_talker(folder / "tiny", max_position_embeddings=2048)), slots=2, threads=1)
    server = LiveServer([model], store=folder / "store.sqlite", runs=folder / "runs", documents=(str(folder / "handbook"),))
    yield server
    server.close()
    page.BUILT = before


@pytest.fixture
def kept() -> Kept:
    """What the fake server knows; a test fills it before and looks into it after."""
    return Kept()


@pytest.fixture
def server(built: Path, kept: Kept) -> Iterator[str]:
    """The address of the page over the fake API."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(create_app(built, kept), log_config=None, timeout_graceful_shutdown=0))
    thread = threading.Thread(target=lambda: running.run(sockets=[listener]), daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive(), "the fake server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    running.should_exit = True
    thread.join(30)


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complains about in `tab`; a test that means a request to be refused takes that complaint out."""
    return []


@pytest.fixture
def tab(chromium: Any, server: str, complaints: list[str]) -> Iterator[Any]:
    """A fresh tab, closed before its server is; anything the browser complains about (a script's error, a refused style or picture) fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.add_init_script(PATIENT)
    tab = context.new_page()
    tab.set_default_timeout(SLOW_MACHINE_MS)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda line: complaints.append(line.text) if line.type == "error" and "401" not in line.text else None)
    yield tab
    context.close()
    assert complaints == []
