"""Biases, prompts that are given back with their probabilities, and middles between two texts: completions beyond going on."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from steelyard.serve.infilling import Infilling, infilling
from tests.serve.live_server import LiveServer
from tests.tiny_talker import tiny_talker

HI = [{"role": "user", "content": "hi"}]


def asked(server: LiveServer, **body: Any) -> httpx.Response:
    return server.post("/v1/completions", {"model": "tiny", "prompt": "hello", "max_tokens": 3, "temperature": 0, **body})


def refused(response: httpx.Response, param: str) -> bool:
    return response.status_code == 400 and response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_biased_token_comes_or_does_not(server: LiveServer, path: str) -> None:
    body = {"model": "tiny", "max_tokens": 4, "ignore_eos": True, **({"messages": HI} if "chat" in path else {"prompt": "hello"})}
    (forced,) = server.post("/tokenize", {"model": "tiny", "prompt": "x"}).json()["tokens"]

    def said(**more: Any) -> str:
        choice = server.post(path, {**body, **more}).json()["choices"][0]
        return choice["text"] if "text" in choice else choice["message"]["content"]

    assert said(logit_bias={str(forced): 100}) == "xxxx"
    assert "x" not in said(logit_bias={str(forced): -100}, seed=1, temperature=2)
    for wrong in ({"260": 1}, {"-1": 1}, {"x": 1}, {"01": 1}, {"5": 101}, {"9" * 40: 1}, {str(id): 1 for id in range(1025)}):
        assert refused(server.post(path, {**body, "logit_bias": wrong}), "logit_bias"), wrong
    assert server.post(path, {**body, "logit_bias": {"5": "much"}}).status_code == 400


def test_a_prompt_is_given_back_with_the_probabilities_of_its_tokens(server: LiveServer) -> None:
    choice = asked(server, echo=True, logprobs=2).json()["choices"][0]
    told = choice["logprobs"]
    assert choice["text"].startswith("hello") and "".join(told["tokens"][:5]) == "hello"
    assert len(told["tokens"]) == 8 and told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    assert all(value <= 0 for value in told["token_logprobs"][1:]) and told["text_offset"][:6] == [0, 1, 2, 3, 4, 5]
    alone = asked(server, logprobs=2).json()["choices"][0]["logprobs"]
    assert told["tokens"][5:] == alone["tokens"] and told["token_logprobs"][5:] == pytest.approx(alone["token_logprobs"], abs=1e-3)
    # What the model went on with has the same probability when it is a prompt itself.
    ids = server.post("/tokenize", {"model": "tiny", "prompt": choice["text"]}).json()["tokens"]
    scored = asked(server, prompt=ids, echo=True, logprobs=0, max_tokens=0).json()
    assert scored["choices"][0]["finish_reason"] == "length" and scored["usage"]["completion_tokens"] == 0
    values = scored["choices"][0]["logprobs"]["token_logprobs"]
    if "\ufffd" not in choice["text"]:
        assert values[1:] == pytest.approx(told["token_logprobs"][1:], abs=1e-3)
    assert refused(asked(server, max_tokens=0), "max_tokens")


def test_a_streamed_prompt_comes_with_its_probabilities_too(server: LiveServer) -> None:
    whole = asked(server, echo=True, logprobs=1, n=2, prompt=["hello", "you"]).json()["choices"]
    lines = asked(server, echo=True, logprobs=1, n=2, prompt=["hello", "you"], stream=True).text.splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    for place in range(4):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == place]
        assert "".join(choice["text"] for choice in mine) == whole[place]["text"]
        for key in ("tokens", "text_offset"):
            assert [one for choice in mine if choice["logprobs"] for one in choice["logprobs"][key]] == whole[place]["logprobs"][key]


def test_a_middle_is_written_by_models_that_learned_to_and_refused_by_name_elsewhere(server: LiveServer) -> None:
    body = {"model": "tooled", "prompt": "def f(x):", "suffix": "return y", "max_tokens": 5, "temperature": 0, "ignore_eos": True}
    answer = server.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    spelled = {**body, "prompt": "<|fim_prefix|>def f(x):<|fim_suffix|>return y<|fim_middle|>"}
    del spelled["suffix"]
    same = server.post("/v1/completions", spelled).json()
    assert answer.json()["choices"][0]["text"] == same["choices"][0]["text"]
    assert answer.json()["usage"]["prompt_tokens"] == same["usage"]["prompt_tokens"] == 3 + len("def f(x):return y")
    told = asked(server, suffix="end")
    assert refused(told, "suffix") and "infill" in told.json()["error"]["message"]
    assert asked(server, suffix="").status_code == 200
    assert server.post("/v1/completions", {**body, "suffix": "a <|fim_middle|> b"}).status_code == 400
    assert refused(server.post("/v1/completions", {**body, "echo": True}), "echo")
    assert refused(server.post("/v1/completions", {**body, "prompt": [1, 2]}), "suffix")
    assert refused(asked(server, best_of=3), "best_of")


def test_a_model_says_itself_how_it_learned_to_fill_in() -> None:
    model = tiny_talker(vocab_size=263)
    assert infilling(model) is None
    assert model.tokenizer is not None
    model.tokenizer.backend.add_special_tokens(["<A>", "<B>", "<C>"])
    assert infilling(model) is None
    model.record["recipe"] = {"steps": [{"fim": {"tokens": ["<A>", "<B>", "<C>"], "spm": 1.0}}, {"pretrain": {}}]}  # type: ignore[index]
    assert infilling(model) == Infilling(("<A>", "<B>", "<C>"), suffix_first=True)
    assert infilling(model).ask("x", "y") == "<A><B>y<C>x"  # type: ignore[union-attr]
    starcoder = tiny_talker(vocab_size=263)
    starcoder.tokenizer.backend.add_special_tokens(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])  # type: ignore[union-attr]
    assert infilling(starcoder).ask("x", "y") == "<fim_prefix>x<fim_suffix>y<fim_middle>"  # type: ignore[union-attr]
    narrow = tiny_talker()
    narrow.tokenizer.backend.add_special_tokens(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])  # type: ignore[union-attr]
    assert infilling(narrow) is None, "its table has no rows for them"
