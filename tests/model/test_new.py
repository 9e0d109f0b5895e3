"""New decoders: what a recipe may say of them, what they are saved as, and what is refused before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import PARTS, SMALL

from steelyard.core import recipe
from steelyard.core.errors import ModelFileError, RecipeError, UnsupportedError
from steelyard.core.run import Run
from steelyard.model.cost import flops, state_bytes, training_flops
from steelyard.model.inspect import inspect
from steelyard.model.load import load
from steelyard.model.model import Model
from steelyard.model.new import DecoderPlan
from steelyard.train.pretrain.new import new_model

IDS = torch.randint(0, 257, (2, 24), generator=torch.Generator().manual_seed(0))


def made(folder: Path, seed: int = 0, **plan: object) -> Model:
    return new_model(DecoderPlan.model_validate(SMALL | plan), Run(folder, seed=seed))


@pytest.mark.parametrize("name", PARTS)
def test_a_new_model_is_saved_and_is_the_same_when_it_is_opened_again(name: str, tmp_path: Path) -> None:
    model = made(tmp_path, **PARTS[name])
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.trunk.plan == model.trunk.plan
    assert torch.equal(again.logits(IDS), model.logits(IDS))


def test_a_plain_transformer_opens_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for changes in ({}, {"tied": False, "mixer": {"attention": {"heads": 4, "key_value_heads": 2, "base": 500.0}}}):
        model = made(tmp_path, **changes)
        assert model.family.name == "llama"
        model.save(tmp_path / "model")
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert (theirs(IDS).logits - model.logits(IDS)).abs().max() < 1e-4
        text = "Naïve 日本 text"
        assert AutoTokenizer.from_pretrained(tmp_path / "model").encode(text) == model.tokenizer.encode(text)  # type: ignore[union-attr]


def test_what_no_public_class_knows_says_so_and_keeps_its_plan(tmp_path: Path) -> None:
    model = made(tmp_path, mixer=["attention", "linear_attention"])
    model.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == "steelyard" and len(config["plan"]["mixer"]) == 2
    told = inspect(tmp_path / "model", check=True)
    assert told["opens_in"] == "Steelyard only" and told["plan"] == config["plan"] and not told["problems"]


def test_the_same_seed_draws_the_same_weights(tmp_path: Path) -> None:
    first, same, other = (made(tmp_path, seed=seed) for seed in (3, 3, 4))
    assert first.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"mixer": "gated"}, "`gated` is no mixer"),
        ({"mixer": {"attentoin": {}}}, "Did you mean `attention`"),
        ({"channel": "attention"}, "`attention` is no channel"),
        ({"mixer": {"attention": {"heads": 5}}, "width": 32}, "5 heads do not divide the width 32"),
        ({"mixer": {"attention": {"heads": 4, "key_value_heads": 3}}}, "3 key/value heads do not divide 4"),
        ({"mixer": {"attention": {"window": 500}}}, "longer than the context"),
        ({"mixer": {"attention": {"head": 5}}}, "unknown key `head`"),
        ({"width": 0}, "width"),
        ({"witdh": 5}, "Did you mean `width`"),
        ({"depth": 10**9}, "depth"),
        ({"tokenizer": {"kind": "bpe"}}, "name its `data`"),
        ({"tokenizer": {"model": "x", "vocabulary": 7}}, "leave the other keys out"),
        ({"tokenizer": {"kind": "words"}}, "kind"),
        ({"mixer": {"sft": {"data": "x"}}}, "`sft` is no mixer"),
        ({"vocabulary": 100}, "the tokenizer has 257 tokens"),
        ({"vocabulary": 258, "tokenizer": {"kind": "bytes", "special": ["<a>", "<b>"]}}, "the tokenizer has 259 tokens"),
        ({"mixer": ["attention", "mamba", "lstm"]}, "lists 3 parts for 2 blocks"),
        ({"channel": ["gated", "none", "moe"]}, "lists 3 parts for 2 blocks"),
        ({"vocabulary": 4095, "tokenizer": {"kind": "bpe", "data": "python"}}, "the tokenizer has 4096 tokens"),
        ({"vocabulary": 399, "tokenizer": {"kind": "unigram", "data": "python", "vocabulary": 400}}, "the tokenizer has 400 tokens"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_when_the_recipe_is_read(plan: dict, told: str) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe.from_mapping({"new": SMALL | plan})
    assert told in str(refused.value)


@pytest.mark.parametrize("plan", [{"width": 2**17, "depth": 64}, {"kind": "encoder_decoder", "width": 2**17, "depth": 64}])
def test_a_model_larger_than_memory_is_refused_before_a_text_is_read(plan: dict, tmp_path: Path) -> None:
    it = recipe.from_mapping({"new": plan | {"tokenizer": {"kind": "bpe", "data": str(tmp_path / "absent.txt")}}})
    with pytest.raises(UnsupportedError, match=r"weights, which take [\d,.]+ GB"):
        new_model(it.base.plan, Run(tmp_path))  # type: ignore[union-attr]


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(tmp_path: Path) -> None:
    """Where its size is not known when the recipe is read."""
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh")
    with pytest.raises(RecipeError, match="the tokenizer has 10"):
        made(tmp_path, vocabulary=9, tokenizer={"kind": "characters", "data": str(text)})


def test_arms_shape_the_base_before_its_steps() -> None:
    it = recipe.from_mapping({"new": SMALL, "arms": {"linear": ["linear_attention"], "plain": [{"feed_forward": {"hidden": 64}}]}})
    arm = it.arms["linear"]
    assert arm.source.shaped(arm.levers).mixer[0].name == "linear_attention"  # type: ignore[union-attr]
    assert recipe.from_mapping(it.resolved()) == it


def test_shaping_a_model_that_is_there_already_is_refused() -> None:
    with pytest.raises(RecipeError, match="before it has weights"):
        recipe.from_mapping({"base": "smollm2-135m-instruct", "arms": {"a": ["linear_attention"]}})


@pytest.mark.parametrize("plan", ['{"mixer": ["os.system"]}', '{"depth": 99999999}', "[1]", '{"mixer": [{"sft": {"data": "x"}}]}', '"x"'])
def test_a_hostile_saved_plan_is_refused(plan: str, tmp_path: Path) -> None:
    made(tmp_path, mixer="linear_attention").save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"plan": json.loads(plan)}))
    with pytest.raises(ModelFileError):
        load(tmp_path / "model")


@settings(max_examples=20, deadline=None)
@given(width=st.sampled_from([32, 64]), depth=st.integers(1, 3), time=st.integers(1, 300))
def test_operations_are_counted_as_the_scaling_laws_count_them(width: int, depth: int, time: int) -> None:
    plan = DecoderPlan.model_validate({"width": width, "depth": depth, "channel": {"feed_forward": {"bias": False}}})
    with torch.device("meta"):
        trunk = plan.trunk(100).build()
    maps = depth * (4 * width * width + 8 * width * width) + 100 * width
    scores = depth * 4 * width * time * (time + 1) // 2
    assert flops(trunk, time) == 2 * maps * time + scores
    assert training_flops(trunk, time) == 3 * flops(trunk, time)


def test_a_recurrences_memory_does_not_grow_and_attentions_does(tmp_path: Path) -> None:
    linear, attention = (made(tmp_path, mixer=mixer, context=4096).trunk for mixer in ("linear_attention", "attention"))
    assert state_bytes(linear, 64) == state_bytes(linear, 4096)
    assert state_bytes(attention, 4096) == 64 * state_bytes(attention, 64)
