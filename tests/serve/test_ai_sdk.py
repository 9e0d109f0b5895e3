"""npm's `ai` with `@ai-sdk/openai-compatible`, unmodified, against a whole server; skipped where it is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serve.live_server import LiveServer

FOLDER = Path(__file__).parent / "ai_client"


def test_the_ai_sdk_gets_text_streams_calls_objects_vectors_and_errors(server: LiveServer) -> None:
    if shutil.which("node") is None or not (FOLDER / "node_modules" / "ai").is_dir():
        pytest.skip("npm's `ai` is not installed: `npm install --no-package-lock --prefix tests/serve/ai_client`")
    done = subprocess.run(["node", str(FOLDER / "client.mjs"), server.url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["text"] and told["pieces"] == told["text"] and told["finish"] == "length"
    assert told["usage"]["outputTokens"] == told["streamedUsage"]["outputTokens"] == 6
    (call,) = told["calls"]
    assert call["name"] == "clock" and call["input"]["a"] in ("x", "y")
    assert told["object"]["a"] in ("x", "y") and told["vectors"] == [32, 32]
    assert told["refused"]["status"] == 404 and "Did you mean `tiny`?" in told["refused"]["message"]
