"""OpenAI's own Python client, unmodified, against a whole server."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.serve.live_server import LiveServer

openai = pytest.importorskip("openai", reason="the client is of the extra `test`")

HI: Any = [{"role": "user", "content": "hi"}]
ZONE = {"type": "object", "properties": {"zone": {"$ref": "#/$defs/zone"}}, "required": ["zone"], "additionalProperties": False}
CLOCK: Any = {
    "type": "function",
    "function": {"name": "clock", "description": "Tells the time.", "parameters": {**ZONE, "$defs": {"zone": {"enum": ["utc", "cet"]}}}},
}
STOP: Any = {"type": "function", "function": {"name": "stop"}}
FORM: Any = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Any:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_example_of_the_documentation_gets_an_answer(server: LiveServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    here = block.replace("http://127.0.0.1:8000", server.url).replace("smollm2-135m-instruct", "tiny")
    names: dict[str, Any] = {}
    exec(compile(here, "docs/serve.md", "exec"), names)
    assert here != block and names["answer"].choices[0].message.role == "assistant"


def test_the_client_lists_models(client: Any) -> None:
    assert {"tiny", "tooled", "encoder"} == {model.id for model in client.models.list()}
    assert client.models.retrieve("tiny").owned_by == "steelyard"


def test_the_client_gets_an_answer_with_usage(client: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, max_completion_tokens=5, temperature=0)
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].message.content
    assert answer.usage.completion_tokens == 5 and answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    again = client.chat.completions.create(model="tiny", messages=HI, max_tokens=5, temperature=0)
    assert again.choices[0].message.content == answer.choices[0].message.content


def test_the_client_gets_several_answers_that_its_seed_repeats(client: Any) -> None:
    first, second = (client.chat.completions.create(model="tiny", messages=HI, max_tokens=6, n=3, seed=-7) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts == [choice.message.content for choice in second.choices]


def test_a_stream_is_the_whole_answer_in_pieces_and_ends_with_usage(client: Any) -> None:
    options: Any = {"model": "tiny", "messages": HI, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.choices[0].message.content
    counted = [usage.model_dump(exclude={"steelyard"}) for usage in (chunks[-1].usage, whole.usage)]  # which took other energies
    assert chunks[-1].choices == [] and counted[0] == counted[1]
    assert chunks[-2].choices[0].finish_reason == "length"


def test_several_answers_stream_side_by_side(client: Any) -> None:
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="tiny", messages=HI, max_tokens=8, n=2, seed=1, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    whole = client.chat.completions.create(model="tiny", messages=HI, max_tokens=8, n=2, seed=1)
    assert [texts[0], texts[1]] == [choice.message.content for choice in whole.choices]


def test_log_probabilities_come_with_alternatives_best_first(client: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 4
    for token in tokens:
        values = [other.logprob for other in token.top_logprobs]
        assert len(values) == 3 and values == sorted(values, reverse=True) and values[0] == pytest.approx(token.logprob)
    chunks = client.chat.completions.create(model="tiny", messages=HI, max_tokens=4, temperature=0, logprobs=True, stream=True)
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in tokens])


def test_an_answer_has_the_form_of_its_json_schema(client: Any) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "choice", "schema": FORM, "strict": True}}
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=200, seed=3, response_format=form)
    assert answer.choices[0].finish_reason == "stop"
    assert json.loads(answer.choices[0].message.content)["a"] in ("x", "y")


def test_a_form_that_cannot_be_honoured_is_refused_and_never_ignored(client: Any) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "(?=a)b"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=HI, response_format=form)


@pytest.mark.parametrize("model", ["tiny", "tooled"])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "clock"}}])
def test_a_forced_call_matches_its_schema_with_and_without_a_template_for_tools(client: Any, model: str, choice: Any) -> None:
    options: Any = {"model": model, "messages": HI, "tools": [CLOCK, STOP], "tool_choice": choice, "max_tokens": 400, "seed": 5}
    answer = client.chat.completions.create(**options).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    (call,) = answer.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert (call.function.name, set(arguments)) in (("clock", {"zone"}), ("stop", set()))
    assert choice == "required" or arguments["zone"] in ("utc", "cet")
    with client.chat.completions.stream(**options) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)


def test_what_a_tool_gave_back_is_read_even_after_arguments_that_are_no_json(client: Any) -> None:
    call: Any = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": '}}
    turns: Any = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": "call_1", "content": "12:00"})
    for model in ("tiny", "tooled"):
        assert client.chat.completions.create(model=model, messages=turns, tools=[CLOCK], tool_choice="none", max_tokens=3).choices


def test_a_model_without_a_place_for_tools_says_so(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="no place for tools") as refusal:
        client.chat.completions.create(model="tiny", messages=HI, tools=[CLOCK])
    assert refusal.value.param == "tools"
    assert (
        client.chat.completions.create(model="tooled", messages=HI, tools=[CLOCK], max_tokens=3, temperature=0).choices[0].message.content
    )


def test_raw_text_is_continued(client: Any) -> None:
    answer = client.completions.create(model="tiny", prompt=["one", "two"], max_tokens=3, n=2, seed=1, logprobs=2, echo=False)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3] and answer.usage.completion_tokens == 12
    told = answer.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == 3 and told.text_offset[0] == 0
    ids = client.completions.create(model="tiny", prompt=[71, 72], max_tokens=3, temperature=0, echo=True)
    assert ids.choices[0].text.startswith("hi")
    streamed = client.completions.create(model="tiny", prompt=[71, 72], max_tokens=3, temperature=0, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == ids.choices[0].text


def test_vectors_come_as_numbers_and_as_bytes(client: Any) -> None:
    texts = ["hello", "the world"]
    coded = client.embeddings.create(model="encoder", input=texts)  # the client asks for base64 by itself
    plain = client.embeddings.create(model="encoder", input=texts, encoding_format="float")
    assert [len(one.embedding) for one in coded.data] == [32, 32] and coded.usage.prompt_tokens > 0
    assert coded.data[1].embedding == pytest.approx(plain.data[1].embedding)


def test_a_response_is_created_and_streamed(client: Any) -> None:
    options: Any = {"model": "tiny", "input": "hi", "instructions": "Be brief.", "max_output_tokens": 6, "temperature": 0}
    whole = client.responses.create(**options)
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens" and whole.output_text
    events = list(client.responses.create(**options, stream=True))
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == "response.incomplete" and events[-1].response.output_text == whole.output_text


def test_a_response_calls_functions_and_reads_their_results(client: Any) -> None:
    tool: Any = {"type": "function", **CLOCK["function"], "strict": True}
    options: Any = {"model": "tiny", "tools": [tool], "tool_choice": "required", "max_output_tokens": 400}
    asked: Any = [{"role": "user", "content": "What time is it?"}]
    (call,) = client.responses.create(input=asked, **options).output
    assert call.type == "function_call" and json.loads(call.arguments)["zone"] in ("utc", "cet")
    with client.responses.stream(input=asked, **options) as stream:
        (streamed,) = stream.get_final_response().output
    assert streamed.name == "clock" and json.loads(streamed.arguments)
    asked += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "12:00"}]
    answer = client.responses.create(model="tiny", input=asked, tools=[tool], tool_choice="none", max_output_tokens=4, temperature=0)
    assert answer.output[0].type == "message"


def test_a_response_has_the_form_it_is_asked_for(client: Any) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "choice", "schema": FORM, "strict": True}}
    assert json.loads(client.responses.create(model="tiny", input="hi", text=text, max_output_tokens=300).output_text)["a"] in ("x", "y")


def test_errors_are_the_exceptions_the_client_knows(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.chat.completions.create(model="tinny", messages=HI)
    with pytest.raises(openai.BadRequestError, match=r"5\d\d\d tokens.*2048") as long:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 5000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="tiny", messages=HI, extra_body={"temprature": 1})
    assert unknown.value.param == "temprature" and "temperature" in unknown.value.message


def test_many_at_once_answer_and_too_many_are_told_to_come_again(server: LiveServer) -> None:
    async def ask(count: int) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(model="tiny", messages=HI, max_tokens=400, extra_body={"ignore_eos": True})
                for _ in range(count)
            ]
            return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(ask(16))  # two slots and six in the queue
    busy = [one for one in outcomes if isinstance(one, openai.RateLimitError)]
    answered = [one for one in outcomes if not isinstance(one, Exception)]
    assert len(answered) + len(busy) == 16 and len(answered) >= 8 and busy
    assert all(one.response.headers["retry-after"] for one in busy)
    assert all(one.usage.completion_tokens == 400 for one in answered)


def test_a_retrying_client_gets_its_answer_from_a_busy_server(server: LiveServer) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=30) as client:
            return await asyncio.gather(*[client.chat.completions.create(model="tiny", messages=HI, max_tokens=60) for _ in range(12)])

    assert len(asyncio.run(ask())) == 12
