"""Engines answer with every mixer as the whole text says, however they batch, reuse and guess; packed weights included. And what exact
engines say has the bits that it has alone, with every mixer and with or without the C++ routines."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from arrivals import take_turns
from plan_talkers import plan_talker
from tiny_engines import scheduler

from steelyard.core.protocols import AnswerSettings
from steelyard.core.run import Run
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.generate.states.kv_cache import KvCache
from steelyard.kernels.native import CHOICE
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


PLANS: dict[str, dict[str, Any]] = {
    **{name: {"mixer": mixer} for name, mixer in MIXERS.items()},
    "layer by layer": {"mixer": ["attention", "lstm", "s4"], "depth": 3},
    "in few bits": {"mixer": ["monarch", MIXERS["transformer_xl"], MIXERS["sparse_attention"]], "depth": 3},
    "attention": {"mixer": "attention", "channel": "monarch_channel"},
    "experts": {"mixer": "attention", "channel": {"moe": {"experts": 6, "active": 2}}},
    "mamba": {"mixer": {"mamba": {"state": 4}}},
    "mamba2": {"mixer": {"mamba2": {"state": 8}}},
    "recurrent_gemma": {"mixer": "recurrent_gemma"},
    "rwkv": {"mixer": "rwkv", "channel": "rwkv_channel"},
    "rwkv7": {"mixer": "rwkv7", "channel": {"rwkv_channel": {"receptance": False}}},
}

KEPT = KvCache(bits=8, window=16, group=8)


def questions(draw: random.Random) -> list[tuple[list[int], AnswerSettings, int, None]]:
    """Prompts short and long, a few that repeat themselves or begin alike, and the turns they come at."""
    asked, beginning = [], [draw.randrange(1, 250) for _ in range(280)]
    for number, letters in enumerate((250, 250, 3, 250, 7)):
        drawn = draw.choice((draw.randrange(1, 20), draw.randrange(20, 90), draw.randrange(200, 280)))
        length = (96, 110)[number] if number < 2 else drawn  # read together; a group of `KEPT` changes over at the shorter one's end
        wanted = AnswerSettings(
            max_tokens=draw.randrange(2, 9),
            temperature=draw.choice((0.0, 1.0)),
            seed=draw.randrange(9),
            token_events=True,
            ignore_eos=True,
            alternatives=2,
        )
        own = [draw.randrange(1, letters) for _ in range(length)]
        asked.append((beginning[: length - 5] + own[-5:] if letters == 250 else own, wanted, draw.randrange(6) if number > 1 else 0, None))
    return asked


@pytest.mark.parametrize("routines", ["", "off"])
@pytest.mark.parametrize("name", PLANS)
def test_every_probability_has_the_bits_that_it_has_alone(name, routines, monkeypatch):
    """36 channels fill no vector, and products in PyTorch want rows in tiles; without the routines answers are guessed, too."""
    monkeypatch.setenv(CHOICE, routines)
    model = plan_talker({"width": 36} | PLANS[name], max_position_embeddings=512)
    spec = EngineSpec(model, deterministic=True, slots=4, dtype="float32", context=300)
    spec = KEPT.decode(spec) if name == "in few bits" else spec
    turns = scheduler(PromptLookup(shortest=1).decode(spec) if routines == "off" else spec)
    asked = questions(random.Random(name))
    together = take_turns(turns, model, asked)
    for (prompt, wanted, _, cancel), beside in zip(asked, together, strict=True):
        turns.slots.held.clear()
        (solo,) = take_turns(turns, model, [(prompt, wanted, 0, cancel)])
        assert beside.said == solo.said and len(solo.tokens) == wanted.max_tokens
