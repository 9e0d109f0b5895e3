"""Engines answer with models of patches, byte by byte, as the whole text says, however they batch, reuse and guess."""

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

PROMPTS = ["to be or not to be, to be or not " * 4, "q", "the quick brown fox jumps over the lazy dog"]
TOKENS = 13


ENTROPY = {"size": 7, "ends": list(b" ,o")}


def made(mixer: Any, patches: dict[str, Any], tmp_path: Any) -> Model:
    inputs = {"patches": patches}
    plan = {"mixer": mixer, "inputs": inputs, "width": 32, "depth": 2, "context": 256, "initial": 0.2}
    return new_model(DecoderPlan.model_validate(plan), Run(tmp_path, 3))


def said(spec: EngineSpec, prompts: list[str]) -> list[list[int]]:
    settings = AnswerSettings(max_tokens=TOKENS, ignore_eos=True, token_events=True)
    with Engine.from_spec(spec) as engine:
        return [[token.id for token in answer.tokens] for answer in engine.generate(prompts, settings=settings)]


@pytest.mark.parametrize(("mixer", "patches"), [("attention", {"size": 4}), (["lstm", "attention"], {"size": 3}), ("attention", ENTROPY)])
def test_engines_say_what_the_whole_text_says(mixer, patches, tmp_path):
    model, expected = made(mixer, patches, tmp_path), []
    for prompt in PROMPTS:
        ids = model.tokenizer.encode(prompt)
        with torch.inference_mode():
            for _ in range(TOKENS):
                ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
        expected.append(ids[-TOKENS:])
    spec = EngineSpec(model, slots=4, dtype="float32", deterministic=True)
    assert said(spec, PROMPTS) == expected
    assert said(replace(spec, deterministic=False), PROMPTS) == expected
    assert said(PromptLookup().decode(spec), PROMPTS) == expected
    packed = said(replace(spec, dtype=None, deterministic=False), PROMPTS)
    assert [len(answer) for answer in packed] == [TOKENS] * len(PROMPTS)


@pytest.mark.parametrize("patches", [{"size": 4}, ENTROPY])
def test_company_and_what_was_read_before_change_no_bit(patches, tmp_path):
    model = made("attention", patches, tmp_path)
    settings = AnswerSettings(max_tokens=TOKENS, ignore_eos=True, token_events=True)
    with Engine.from_spec(EngineSpec(model, slots=4, dtype="float32", deterministic=True)) as engine:
        alone = engine.generate(PROMPTS[2:], settings=settings)[0]
        together = engine.generate([PROMPTS[2], *PROMPTS, PROMPTS[2] + " again"], settings=settings)
        later = engine.generate([PROMPTS[0] + PROMPTS[2], PROMPTS[2]], settings=settings)[1]
    for other in (together[0], together[3], later):
        assert [(token.id, token.logprob) for token in other.tokens] == [(token.id, token.logprob) for token in alone.tokens]
