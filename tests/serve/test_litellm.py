"""`litellm`, unmodified, against a whole server.

It wants an older `openai` and, through boto3, an older `dateutil` than the other tests run with, so it is in no extra: in an
environment that has it these tests run, elsewhere they are skipped.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.serve.live_server import LiveServer

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network for prices as it is imported
litellm = pytest.importorskip(
    "litellm", reason="litellm wants older packages than the other tests: install it in an environment of its own"
)

HI: Any = [{"role": "user", "content": "hi"}]
FORM: Any = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": FORM}}


@pytest.fixture
def options(server: LiveServer) -> dict[str, Any]:
    return {"model": "openai/tiny", "api_base": f"{server.url}/v1", "api_key": "none", "messages": HI, "max_tokens": 6, "num_retries": 0}


def test_litellm_gets_an_answer_and_its_stream(options: dict[str, Any]) -> None:
    answer = litellm.completion(**options, temperature=0)
    assert answer.usage.completion_tokens == 6
    chunks = litellm.completion(**options, temperature=0, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer.choices[0].message.content


def test_litellm_gets_calls_forms_and_likelihoods(options: dict[str, Any]) -> None:
    long = {**options, "max_tokens": 400}
    (call,) = litellm.completion(**long, tools=[CLOCK], tool_choice="required").choices[0].message.tool_calls
    assert call.function.name == "clock" and json.loads(call.function.arguments)["a"] in ("x", "y")
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM, "strict": True}}
    assert json.loads(litellm.completion(**long, response_format=form).choices[0].message.content)["a"] in ("x", "y")
    told = litellm.completion(**options, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(told) == 6 and len(told[0].top_logprobs) == 2


def test_litellm_gets_vectors_and_knows_errors(options: dict[str, Any], server: LiveServer) -> None:
    vectors = litellm.embedding(model="openai/encoder", input=["one", "two"], api_base=f"{server.url}/v1", api_key="none")
    assert [len(one["embedding"]) for one in vectors.data] == [32, 32]
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**{**options, "messages": [{"role": "user", "content": "x" * 5000}]})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**options, "model": "openai/tinny"})
