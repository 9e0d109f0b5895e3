"""What an answer took stands beside its counts of tokens, in every API, whole and streamed, and is shared by those at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serve.live_server import LiveServer

HI = [{"role": "user", "content": "hi"}]


def checked(usage: dict[str, Any]) -> dict[str, Any]:
    took = usage["steelyard"]["energy_joules"]
    assert 0 < took["low"] <= took["high"] and set(took["source"].split("+")) <= {"rapl", "nvml", "modelled"}
    return took


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI, "max_tokens": 4}),
        ("/v1/completions", {"prompt": "hi", "max_tokens": 4}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 16}),
    ],
)
def test_an_answer_says_what_it_took_whole_and_streamed(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    body = {"model": "tiny", **body}
    whole = checked(server.post(path, body).json()["usage"])
    assert whole["shared"] is False
    options = {} if path.endswith("responses") else {"stream_options": {"include_usage": True}}
    lines = [line for line in server.post(path, {**body, "stream": True, **options}).text.splitlines() if line.startswith("data: {")]
    last = json.loads(lines[-1].removeprefix("data: "))
    checked(last.get("response", last)["usage"])


def test_answers_at_once_share_and_say_so(server: LiveServer) -> None:
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 1000, "ignore_eos": True}
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: checked(server.post("/v1/completions", body).json()["usage"]), range(2)))
    assert all(took["shared"] for took in both)
    several = checked(server.post("/v1/completions", {**body, "n": 2, "max_tokens": 50}).json()["usage"])
    assert several["shared"], "the answers of one request are added up"
