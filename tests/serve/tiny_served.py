"""Tiny models in directories, as a server is given them, and an engine's process with an event loop of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from steelyard.model.families.config import Config
from steelyard.model.families.family import find
from steelyard.model.model import Model
from steelyard.serve.engine_process import EngineProcess, ServedModel
from tests.tiny_talker import tiny_talker, tiny_tokenizer

T = TypeVar("T")


def saved_talker(folder: Path, serve: Sequence[dict[str, Any]] = (), special: Sequence[str] = (), **config: Any) -> Path:
    """A random llama of 256 tokens in a directory whose `steelyard.json` asks for levers; `special` are tokens beside the usual ones."""
    more = {"vocab_size": tiny_tokenizer().vocabulary_size + len(special)} if special else {}
    model = tiny_talker(**more, **config)
    assert model.tokenizer is not None
    model.tokenizer.backend.add_special_tokens(list(special))
    model.save(folder)
    record = json.loads((folder / "steelyard.json").read_text()) | {"serve": list(serve), "parents": [{"name": "tiny-parent"}]}
    (folder / "steelyard.json").write_text(json.dumps(record))
    return folder


def saved_encoder(folder: Path) -> Path:
    """A random encoder of 64 tokens in a directory."""
    tokenizer, family = tiny_tokenizer(), find("bert", "tiny")
    config = {
        "vocab_size": tokenizer.vocabulary_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    Model(family.plan(Config(config)).build().eval(), family, config, tokenizer, None, "tiny").save(folder)
    return folder


class Running:
    """An engine's process and the loop it belongs to."""

    def __init__(self, models: Sequence[ServedModel], **settings: Any):
        self.loop = asyncio.new_event_loop()
        self.said: list[str] = []
        self.engine = EngineProcess(models, say=self.said.append, **settings)
        self.run(self.engine.start())

    def run(self, awaited: Awaitable[T], seconds: float = 300) -> T:
        """What is awaited, within some patience: a test that hangs says so."""

        async def waited() -> T:
            return await asyncio.wait_for(awaited, seconds)

        return self.loop.run_until_complete(waited())

    def close(self, drain: float = 0) -> None:
        self.run(self.engine.close(drain))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
