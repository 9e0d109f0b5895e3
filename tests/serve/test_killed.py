"""A server that is killed while it streams and writes: what was acknowledged is there afterwards, and so is what was read of an answer."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from steelyard.serve.store.store import Store
from tests.serve.commanded import commanded, until
from tests.serve.stores import text_of
from tests.serve.tiny_served import saved_talker

LOCAL = "local"


class Reader(threading.Thread):
    """Reads an answer until its server is gone."""

    def __init__(self, client: httpx.Client, conversation: str, question: str):
        super().__init__(daemon=True)
        settings = {"max_tokens": 15_000, "ignore_eos": True, "alternatives": 0, "token_events": False}
        body = {"parent": question, "model": "tiny", "settings": settings}
        self.client, self.path, self.body = client, f"/api/conversations/{conversation}/answer", body
        self.conversation, self.id, self.text, self.ended = conversation, "", "", False

    def run(self) -> None:
        try:
            with self.client.stream("POST", self.path, json=self.body) as response:
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        self.hear(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError:
            pass  # the server is gone, as it should be

    def hear(self, event: dict[str, Any]) -> None:
        self.id = event["id"] if event["type"] == "message" else self.id
        self.text += event["text"] if event["type"] == "text" else ""
        self.ended = self.ended or event["type"] == "done"


@pytest.mark.parametrize("writes", [1, 8])
def test_a_killed_server_loses_nothing_it_acknowledged(tmp_path: Path, writes: int) -> None:
    saved_talker(tmp_path / "tiny", max_position_embeddings=16_384)
    data = tmp_path / "data"
    with commanded([str(tmp_path / "tiny"), "--data", str(data), "--threads", "1"]) as one, one.client() as client:

        def post(path: str, body: Any) -> dict[str, Any]:
            answered = client.post(path, json=body)
            assert answered.status_code == 200, answered.text
            return answered.json()

        def said(conversation: str, text: str) -> str:
            body = {"parent": None, "role": "user", "parts": [{"type": "text", "text": text}]}
            return post(f"/api/conversations/{conversation}/messages", body)["id"]

        readers = []
        for _ in range(2):
            conversation = post("/api/conversations", {})["id"]
            readers.append(Reader(client, conversation, said(conversation, "hello")))
            readers[-1].start()
        until(lambda: all(reader.text for reader in readers))
        notes = post("/api/conversations", {"title": "notes"})["id"]
        acknowledged = {}
        for number in range(writes):
            acknowledged[said(notes, f"note {number}")] = f"note {number}"
            post("/api/feedback", {"message": list(acknowledged)[-1], "kind": "tag", "value": f"tag {number}"})
        read = [reader.text for reader in readers]

        def written() -> bool:
            """Whether the disk holds what was read by then; without this the test would measure time."""
            with Store(data / "steelyard.sqlite") as store:
                shown = [answer_of(store, reader) for reader in readers]
            return all(text_of(message).startswith(text) for message, text in zip(shown, read, strict=True))

        until(written)
        assert not any(reader.ended for reader in readers), "the model was too quick for this test"
        one.process.kill()
        one.process.wait()
        for reader in readers:
            reader.join(20)
            assert reader.id and not reader.ended
    with Store(data / "steelyard.sqlite") as store:
        messages = {message["id"]: message for message in store.conversations.read(LOCAL, notes)["messages"]}
        assert {id: text_of(message) for id, message in messages.items()} == acknowledged
        assert [message["feedback"][0]["value"] for message in messages.values()] == [f"tag {number}" for number in range(writes)]
        for reader, text in zip(readers, read, strict=True):
            message = answer_of(store, reader)
            stored = text_of(message)
            assert stored.startswith(text) and (stored.startswith(reader.text) or reader.text.startswith(stored))
            assert message["generation"]["reason"] == "interrupted" and message["generation"]["model"] == "tiny"


def answer_of(store: Store, reader: Reader) -> dict[str, Any]:
    return next(message for message in store.conversations.read(LOCAL, reader.conversation)["messages"] if message["id"] == reader.id)
