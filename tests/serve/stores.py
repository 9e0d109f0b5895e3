"""What the tests of the store share: a store on each database, and a short way to say things in it."""

from __future__ import annotations

from typing import Any

from steelyard.serve.store.answers import Generation
from steelyard.serve.store.parts import TextPart
from steelyard.serve.store.store import Store

ANN, BOB = "ann", "bob"
TOKENS = [
    {"id": 7, "text": "Pa", "logprob": -0.25, "entropy": 0.5, "alternatives": [{"text": "Pa", "logprob": -0.25}]},
    {"id": 9, "text": "ris\0", "logprob": None, "entropy": 0.0, "alternatives": []},
]


def say(store: Store, conversation: str, text: str, parent: str | None = None, role: Any = "user", **more: Any) -> str:
    """Adds a message of one text; returns its id."""
    return store.messages.add(ANN, conversation, parent, role, [TextPart(type="text", text=text)], **more)["id"]


def answer(store: Store, conversation: str, text: str, parent: str) -> str:
    """Adds a finished answer with its record; returns its id."""
    made = Generation("tiny", "f00d", levers=[{"prompt": {"text": "Be brief"}}], settings={"temperature": 0.5, "stop": []})
    id = store.answers.begin(ANN, conversation, parent, made)
    made.reason, made.tokens = "stop", list(TOKENS)
    made.usage = {"prompt_tokens": 3, "completion_tokens": 2, "seconds": 0.5, "first_token_seconds": 0.25}
    assert store.answers.finish(ANN, conversation, id, text, made)
    return id


def shown(store: Store, conversation: str) -> dict[str, dict[str, Any]]:
    """The messages of a conversation by id."""
    return {message["id"]: message for message in store.conversations.read(ANN, conversation)["messages"]}


def text_of(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["parts"])
