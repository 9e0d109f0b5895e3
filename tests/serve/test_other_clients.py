"""Clients that others wrote, unmodified, each in an environment of its own (`clients/install.py`), against a whole server."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.serve.live_server import LiveServer

FOLDER = Path(__file__).parent / "clients"
ENVIRONMENT = Path(__file__).parents[2] / "build" / "clients"
INSTALL = "`make clients` installs it"


def _told(*command: object) -> dict[str, Any]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_litellm_gets_text_streams_calls_forms_likelihoods_vectors_and_errors(server: LiveServer) -> None:
    if not (ENVIRONMENT / "installed.txt").is_file():
        pytest.skip(f"litellm is not installed: {INSTALL}")
    told = _told(ENVIRONMENT / "bin" / "python", FOLDER / "litellm_calls.py", server.url)
    assert told["text"] and told["pieces"] == told["text"] and told["tokens"] == 6
    (call,) = told["calls"]
    assert call["name"] == "clock" and call["input"]["a"] in ("x", "y") and told["object"]["a"] in ("x", "y")
    assert told["alternatives"] == [2] * 6 and told["vectors"] == [32, 32]
    assert (told["too_long"], told["unknown"]) == ("ContextWindowExceededError", "NotFoundError")


def test_the_ai_sdk_gets_text_streams_calls_objects_vectors_and_errors(server: LiveServer) -> None:
    if shutil.which("node") is None or not (FOLDER / "node_modules" / "ai").is_dir():
        pytest.skip(f"npm's `ai` is not installed: {INSTALL}")
    told = _told("node", FOLDER / "ai_sdk.mjs", server.url)
    assert told["text"] and told["pieces"] == told["text"] and told["finish"] == "length"
    assert told["usage"]["outputTokens"] == told["streamedUsage"]["outputTokens"] == 6
    (call,) = told["calls"]
    assert call["name"] == "clock" and call["input"]["a"] in ("x", "y")
    assert told["object"]["a"] in ("x", "y") and told["vectors"] == [32, 32]
    assert told["refused"]["status"] == 404 and "Did you mean `tiny`?" in told["refused"]["message"]
