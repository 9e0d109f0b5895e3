"""`steelyard serve`: one command that answers, refuses what is not safe, and ends when it is told to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.serve.tiny_served import saved_talker

COMMAND = [sys.executable, "-m", "steelyard.cli.main", "serve"]


def test_a_server_tells_its_address_answers_and_lets_what_it_began_finish(tmp_path: Path) -> None:
    saved_talker(tmp_path / "tiny", max_position_embeddings=2048)
    environment = {**os.environ, "A_KEY": "a-key-of-more-than-16-characters"}
    options = [f"small={tmp_path / 'tiny'}", "--port", "0", "--data", str(tmp_path / "data"), "--key", "A_KEY", "--threads", "1"]
    with subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        patience = threading.Timer(120, process.kill)  # a server that does not end must not hold up the tests
        patience.start()
        told = ""
        while (found := re.search(r"http://127\.0\.0\.1:\d+", told)) is None:
            line = process.stderr.readline()
            assert line, told
            told += line
        rest = threading.Thread(target=process.stderr.read, daemon=True)
        rest.start()
        with httpx.Client(base_url=found[0], timeout=60, headers={"Authorization": f"Bearer {environment['A_KEY']}"}) as client:
            assert client.get("/v1/models").json()["data"][0]["id"] == "small"
            assert httpx.get(f"{found[0]}/v1/models").status_code == 401
            body = {"model": "small", "prompt": "hi", "max_tokens": 800, "ignore_eos": True, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert process.wait(60) == 0
        patience.cancel()
        assert environment["A_KEY"] not in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "no key is set"),
        (["--key", "NO_SUCH_VARIABLE_HERE"], "is not set"),
        (["=x"], "names no model"),
        (["no-such-model-anywhere", "--port", "0"], "no-such-model-anywhere"),
    ],
)
def test_what_cannot_be_served_is_told_without_a_traceback(tmp_path: Path, options: list[str], words: str) -> None:
    done = subprocess.run([*COMMAND, *options, "--data", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and words in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told_before_any_model_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, "--port", port, "--data", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "another program listens there" in done.stderr
