"""The smaller routes: what is served, tokens, figures, levers, and the description of it all."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.serve.live_server import LiveServer

HI = [{"role": "user", "content": "hi"}]


def test_models_tell_what_may_be_asked_of_them(server: LiveServer) -> None:
    models = {model["id"]: model for model in server.client.get("/v1/models").json()["data"]}
    tiny, tooled, encoder = (models[name]["steelyard"] for name in ("tiny", "tooled", "encoder"))
    assert (tiny["kind"], encoder["kind"], tiny["context_length"]) == ("chat", "embedding", 2048)
    assert "tools" in tooled["capabilities"] and "tools" not in tiny["capabilities"]
    assert "prompt" in tiny["levers"] and "quantize" not in tiny["levers"]
    assert models["tiny"]["object"] == "model" and server.client.get("/v1/models/tiny").json() == models["tiny"]
    missing = server.client.get("/v1/models/some/name")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_what_a_model_cannot_do_is_told(server: LiveServer) -> None:
    for path, body in (
        ("/v1/chat/completions", {"model": "encoder", "messages": HI}),
        ("/v1/completions", {"model": "encoder", "prompt": "hi"}),
        ("/v1/embeddings", {"model": "tiny", "input": "hi"}),
        ("/v1/embeddings", {"model": "encoder", "input": "hi", "dimensions": 7}),
        ("/v1/embeddings", {"model": "encoder", "input": [1, 2]}),
        ("/v1/embeddings", {"model": "encoder", "input": []}),
        ("/v1/completions", {"model": "tiny", "prompt": [10**9]}),
        ("/v1/completions", {"model": "tiny", "prompt": ["a"] * 65}),
        ("/v1/completions", {"model": "tiny", "prompt": "a", "suffix": "b"}),
        ("/v1/completions", {"model": "tiny", "prompt": "a", "best_of": 3}),
        ("/v1/responses", {"model": "tiny", "input": "hi", "previous_response_id": "resp_1"}),
        ("/v1/responses", {"model": "tiny", "input": [{"type": "item_reference", "id": "x"}]}),
    ):
        response = server.post(path, body)
        assert response.status_code == 400 and response.json()["error"]["param"], (path, body)
    long = server.post("/v1/embeddings", {"model": "encoder", "input": ["long " * 100]}).json()["error"]
    assert (long["code"], long["param"]) == ("context_length_exceeded", "input")


def test_text_comes_back_from_its_tokens(server: LiveServer) -> None:
    told = server.post("/tokenize", {"model": "tiny", "prompt": "héllo", "return_token_strs": True}).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) == 6 and told["max_model_len"] == 2048
    assert server.post("/detokenize", {"model": "tiny", "tokens": told["tokens"]}).json() == {"prompt": "héllo"}
    marked, plain = (
        server.post("/tokenize", {"model": "tiny", "prompt": "<|end|>", "add_special_tokens": special}).json() for special in (True, False)
    )
    assert (marked["count"], plain["count"]) == (1, 7)
    chat = server.post("/tokenize", {"model": "tiny", "messages": HI}).json()["count"]
    answer = server.post("/v1/chat/completions", {"model": "tiny", "messages": HI, "max_tokens": 1}).json()
    assert answer["usage"]["prompt_tokens"] == chat
    for wrong in ({"model": "tiny"}, {"model": "tiny", "prompt": "a", "messages": HI}):
        assert server.post("/tokenize", wrong).status_code == 400
    assert server.post("/detokenize", {"model": "tiny", "tokens": [-1]}).status_code == 400


def test_figures_count_what_was_asked_and_never_what_was_said(server: LiveServer) -> None:
    server.post("/v1/completions", {"model": "tiny", "prompt": "unheard-of", "max_tokens": 2})
    text = server.client.get("/metrics").text
    assert 'steelyard_requests_total{route="/v1/completions",status="200"}' in text and "unheard-of" not in text
    assert 'steelyard_engine_slots{model="tiny"} 2.0' in text and "steelyard_engine_memory_bytes" in text


def test_levers_are_told_with_the_schemas_of_their_settings_by_another_process(server: LiveServer) -> None:
    levers: dict[str, Any] = {lever["name"]: lever for lever in server.client.get("/api/levers", timeout=600).json()["levers"]}
    assert (
        levers["prompt"]["per_request"] and levers["beam"]["per_request"] and not levers["steering"]["per_request"] and "sft" not in levers
    )
    assert levers["retrieve"]["schema"]["properties"]["passages"]["maximum"] == 64
    assert (levers["speculative"]["references"], levers["retrieve"]["references"]) == ({"draft": "model"}, {"documents": "index"})


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405), ("POST", "/v1/models", 405)]
)
def test_what_is_not_there_is_told_in_the_same_shape(server: LiveServer, method: str, path: str, status: int) -> None:
    response = server.client.request(method, path)
    assert response.status_code == status and path in response.json()["error"]["message"]


def test_every_route_is_described(server: LiveServer) -> None:
    document = server.client.get("/openapi.json").json()
    wanted = {"chat/completions", "completions", "responses", "embeddings", "models"}
    assert {f"/v1/{name}" for name in wanted} | {"/tokenize", "/detokenize", "/health", "/ready", "/metrics"} <= set(document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), f"{method} {path}"
    known = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert "without effect" in known["user"]["description"] and "Not supported" in known["audio"]["description"]


def test_the_application_is_light() -> None:
    import subprocess

    code = "import sys, steelyard.serve.server; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_orchestrators_may_ask_without_wanting_a_body(server: LiveServer) -> None:
    for path in ("/health", "/ready"):
        response = server.client.head(path)
        assert response.status_code == 200 and response.content == b""
