"""`steelyard serve`: one command that answers, refuses what is not safe, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.serve.commanded import COMMAND, commanded, until
from tests.serve.tiny_served import saved_talker

KEY = "a-key-of-more-than-16-characters"
LONG = {"model": "small", "prompt": "hi", "max_tokens": 4000, "ignore_eos": True, "stream": True}


def test_a_server_told_to_end_says_so_and_lets_what_it_began_finish(tmp_path: Path) -> None:
    saved_talker(tmp_path / "tiny", max_position_embeddings=4096)
    options = [f"small={tmp_path / 'tiny'}", "--data", str(tmp_path / "data"), "--key", "A_KEY", "--threads", "1", "--grace", "240"]
    with commanded(options, A_KEY=KEY) as one, one.client(KEY) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "small"
        assert client.get("/v1/models", headers={"Authorization": ""}).status_code == 401
        assert client.get("/ready").status_code == 200
        with client.stream("POST", "/v1/completions", json=LONG) as response:
            lines = response.iter_lines()
            next(lines)
            one.process.send_signal(signal.SIGTERM)
            until(lambda: client.get("/ready").status_code == 503)
            told = client.get("/ready")  # an orchestrator still reaches it, and hears that it is to be left alone
            assert told.json() == {"status": "ending"} and told.headers["Retry-After"]
            assert client.get("/health").status_code == 200 and "steelyard_engine_ready" in client.get("/metrics").text
            late = client.post("/v1/completions", json={"model": "small", "prompt": "hi"})
            assert late.status_code == 503 and late.headers["Retry-After"] and late.json()["error"]["code"] == "server_ending"
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert one.process.wait(240) == 0
        assert KEY not in one.told()


def test_an_answer_that_outlasts_the_grace_is_told_that_it_ends(tmp_path: Path) -> None:
    saved_talker(tmp_path / "tiny", max_position_embeddings=4096)
    with commanded([f"small={tmp_path / 'tiny'}", "--data", str(tmp_path / "data"), "--grace", "0"]) as one, one.client() as client:
        with client.stream("POST", "/v1/completions", json=LONG) as response:
            lines = response.iter_lines()
            next(lines)
            one.process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        assert "the server closed" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert one.process.wait(240) == 0


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
    done = subprocess.run([*COMMAND, *options, "--data", str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and words in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told_before_any_model_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, "--port", port, "--data", str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and "another program listens there" in done.stderr
