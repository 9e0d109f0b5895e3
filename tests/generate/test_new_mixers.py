"""Engines answer with every mixer as the whole text says, however they batch, reuse and guess; packed weights included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from steelyard.core.protocols import AnswerSettings
from steelyard.core.run import Run
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.model import Model
from steelyard.model.new import DecoderPlan
from steelyard.train.pretrain.new import new_model

MIXERS: dict[str, Any] = {
    "linear_attention": "linear_attention",
    "lstm": "lstm",
    "performer": {"performer": {"features": 32}},
    "sparse_attention": {"sparse_attention": {"window": 16, "stride": 8, "strided": 3}},
    "transformer_xl": {"transformer_xl": {"segment": 24}},
    "s4": "s4",
    "monarch": "monarch",
    "layer by layer": ["attention", "lstm", "s4"],
}
PROMPTS = ["to be or not to be, to be or not " * 4, "q", "the quick brown fox jumps over the lazy dog"]
TOKENS = 12


def made(mixer: Any, tmp_path: Any) -> Model:
    depth = len(mixer) if isinstance(mixer, list) else 2
    plan = {"mixer": mixer, "width": 32, "depth": depth, "context": 256, "initial": 0.2, "tokenizer": {"kind": "bytes"}}
    return new_model(DecoderPlan.model_validate(plan), Run(tmp_path, 3))


def said(spec: EngineSpec, prompts: list[str]) -> list[list[int]]:
    settings = AnswerSettings(max_tokens=TOKENS, ignore_eos=True, token_events=True)
    with Engine.from_spec(spec) as engine:
        return [[token.id for token in answer.tokens] for answer in engine.generate(prompts, settings=settings)]


@pytest.mark.parametrize("name", MIXERS)
def test_engines_say_what_the_whole_text_says(name, tmp_path):
    model, expected = made(MIXERS[name], tmp_path), []
    for prompt in PROMPTS:
        ids = model.tokenizer.encode(prompt)
        with torch.inference_mode():
            for _ in range(TOKENS):
                ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
        expected.append(ids[-TOKENS:])
    spec = EngineSpec(model, slots=4, dtype="float32", deterministic=True)
    assert said(spec, PROMPTS) == expected
    assert said(PromptLookup().decode(spec), PROMPTS) == expected
    packed = said(replace(spec, dtype=None, deterministic=False), PROMPTS)
    assert [len(answer) for answer in packed] == [TOKENS] * len(PROMPTS)
