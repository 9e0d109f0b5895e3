"""`litellm`, unmodified, in its own environment: prints what it got from the server at argv[1] as one line of JSON."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for prices as it is imported
import litellm  # pyright: ignore[reportMissingImports]

URL = f"{sys.argv[1]}/v1"
FORM = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": FORM}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM, "strict": True}}


def ask(tokens=6, model="tiny", content="hi", **options):
    messages = [{"role": "user", "content": content}]
    return litellm.completion(
        model=f"openai/{model}", api_base=URL, api_key="none", messages=messages, max_tokens=tokens, num_retries=0, **options
    )


def refusal(**options):
    try:
        ask(**options)
    except Exception as error:
        return type(error).__name__
    return None


text = ask(temperature=0)
chunks = ask(temperature=0, stream=True, stream_options={"include_usage": True})
calls = ask(400, tools=[CLOCK], tool_choice="required").choices[0].message.tool_calls
likelihoods = ask(temperature=0, logprobs=True, top_logprobs=2).choices[0].logprobs.content
vectors = litellm.embedding(model="openai/encoder", input=["one", "two"], api_base=URL, api_key="none")
print(
    json.dumps(
        {
            "text": text.choices[0].message.content,
            "tokens": text.usage.completion_tokens,
            "pieces": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "calls": [{"name": call.function.name, "input": json.loads(call.function.arguments)} for call in calls],
            "object": json.loads(ask(400, response_format=SCHEMA).choices[0].message.content),
            "alternatives": [len(token.top_logprobs) for token in likelihoods],
            "vectors": [len(vector["embedding"]) for vector in vectors.data],
            "too_long": refusal(content="x" * 5000),
            "unknown": refusal(model="tinny"),
        }
    )
)
