"""Directions are what the pairs say, are added where and as far as told, in answers and in scores, and survive a file."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_engines import said_by, talker

from steelyard.core import levers
from steelyard.core.errors import DataError, ModelFileError, RecipeError, SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.generate.steering.directions import Direction, Pair, activations, direction, fit, held_out, load, probe, read_pairs, save
from steelyard.generate.steering.steering import Steering, steered
from steelyard.model.model import Model
from steelyard.model.sites import SiteProgram
from steelyard.model.step import Step

CONTEXT = 96
SITES = ("blocks.1.input", "blocks.0.mixer", "blocks.1.channel", "final_norm")
PAIRS = [Pair(f"up {word} up", f"down {word} down") for word in ("and", "or", "not", "so", "but")]


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(6.0, max_position_embeddings=CONTEXT)


@pytest.fixture()
def pairs(tmp_path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(dataclasses.asdict(pair)) + "\n" for pair in PAIRS), encoding="utf-8")
    return str(path)


# Fitting


def test_the_direction_of_means_is_their_difference_in_units_of_the_spread(model):
    found = fit(model, PAIRS, SITES, "means", "last")
    for site, one in found.items():
        high = activations(model, [pair.positive for pair in PAIRS], [site], "last")[site]
        low = activations(model, [pair.negative for pair in PAIRS], [site], "last")[site]
        shift = high.mean(0) - low.mean(0)
        assert torch.allclose(one.vector, shift / shift.norm(), atol=1e-6)
        assert float(one.vector.norm()) == pytest.approx(1, abs=1e-5)
        assert one.spread == pytest.approx(float((torch.cat((high, low)) @ one.vector).std()), rel=1e-5)
        assert one.accuracy is not None and 0 <= one.accuracy <= 1


def test_activations_are_what_the_trunk_holds_there(model):
    """Of the mean every token counts but the one put ahead; the last stands alone."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    ids = [tokenizer.bos_id, *tokenizer.encode("abc")]
    program = SiteProgram(read=frozenset(SITES))
    with torch.inference_mode():
        model.trunk(torch.tensor([ids]), dataclasses.replace(Step.whole(1, 4, torch.device("cpu")), program=program))
    for site in SITES:
        value = program.readings[site][0]
        assert torch.allclose(activations(model, ["abc"], [site], "mean")[site][0], value[1:].mean(0), atol=1e-6)
        assert torch.allclose(activations(model, ["abc"], [site], "last")[site][0], value[3], atol=1e-6)


def test_a_probe_finds_the_axis_that_means_miss():
    """Both kinds vary widely along an axis that says nothing; their means differ along it by chance, the probe looks elsewhere."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator) * torch.tensor([0.3, 30.0, 1.0, 1.0, 1.0])
    x[:200, 0] += 2
    weight = probe(x[:200], x[200:])
    assert abs(float(weight[0])) / float(weight.norm()) > 0.98
    assert held_out(x[:200], x[200:], "probe") > held_out(x[:200], x[200:], "means")  # type: ignore[operator]


def test_pairs_that_do_not_differ_are_told_apart_by_chance_and_equal_ones_are_refused(model):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 300, 20, generator=generator)
    accuracy = held_out(noise[0], noise[1], "means")
    assert accuracy is not None and 0.38 < accuracy < 0.62
    with pytest.raises(DataError, match="do not differ"):
        fit(model, [Pair("same", "same")] * 3, ["blocks.1.input"])
    for how in ("means", "probe"):
        with pytest.raises(DataError, match="do not differ"):
            direction(torch.full((3, 4), float("nan")), torch.ones(3, 4), how)


@pytest.mark.parametrize(
    "text, what",
    [
        ("", "0 pairs"),
        ('{"positive": "a", "negative": "b"}', "1 pair"),
        ('{"positive": "a", "negative": "b"}\n{"positive": "a"}', "line 2: not a pair"),
        ('{"positive": "a", "negative": " "}\n', "not a pair"),
        ('{"positive": "a", "negative": 3}\n', "not a pair"),
        ('{"positive": "a", "negative": "b", "weight": 1}\n', "not a pair"),
        ("[1, 2]", "expected a JSON object"),
        ("{'positive'", "not valid JSON"),
        ('{"positive": NaN, "negative": "b"}', "not valid JSON"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_bad_pairs_are_refused_with_their_line(tmp_path, text, what):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=what):
        read_pairs(path)


def test_bytes_that_are_no_text_are_refused_and_a_byte_order_mark_is_not(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="line 1"):
        read_pairs(path)
    path.write_text('\ufeff{"positive": "é", "negative": "日本"}\n\n{"positive": "a", "negative": "b"}\n', encoding="utf-8")
    assert read_pairs(path)[0] == [Pair("é", "日本"), Pair("a", "b")]
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "nowhere.jsonl")


# The file


def test_what_is_written_is_read_again(model, tmp_path):
    found = fit(model, PAIRS, SITES)
    save(found, tmp_path / "sub" / "d.safetensors", {"model": "tiny"})
    again = load(tmp_path / "sub" / "d.safetensors", model.trunk)
    assert set(again) == set(SITES)
    for site in SITES:
        assert torch.equal(again[site].vector, found[site].vector) and again[site].spread == pytest.approx(found[site].spread)


def test_files_that_are_no_directions_for_this_model_are_refused(model, tmp_path):
    path = tmp_path / "d.safetensors"
    unit, spread = torch.ones(32), torch.ones(1)
    for tensors, what in (
        ({"weight": unit}, "not a file of directions"),
        ({"blocks.0.input.direction": unit}, "not a file of directions"),
        ({"blocks.0.input.direction": torch.ones(31), "blocks.0.input.spread": spread}, r"\[31\], not \[32\]"),
        ({"blocks.9.input.direction": unit, "blocks.9.input.spread": spread}, "no site is called"),
        ({"blocks.0.input.direction": unit * float("nan"), "blocks.0.input.spread": spread}, "NaN"),
    ):
        safetensors.torch.save_file(tensors, path)
        with pytest.raises(SteelyardError, match=what):
            load(path, model.trunk)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelFileError):
        load(path, model.trunk)


# In the engine


def by_hand(model: Model, ids: list[int], site: str, vector: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [t, v] with a vector added by a PyTorch hook, which knows nothing of site programs."""
    block = model.trunk.blocks[int(site.split(".")[1])]  # type: ignore[index]
    part = site.split(".")[2]
    if part == "input":
        handle = block.register_forward_pre_hook(lambda module, given: (given[0] + vector, *given[1:]))
    else:
        handle = getattr(block, part).register_forward_hook(lambda module, given, out: out + vector)
    try:
        return torch.log_softmax(model.logits([ids])[0], -1)
    finally:
        handle.remove()


@pytest.mark.parametrize("site", ["blocks.1.input", "blocks.0.mixer", "blocks.1.channel"])
def test_answers_and_scores_are_those_of_a_model_with_the_vector_added(model, pairs, site):
    lever = Steering(pairs=pairs, strength=6.0, sites=(site,))
    one = fit(model, PAIRS, [site])[site]
    vector = 6.0 * one.spread * one.vector
    spec = lever.decode(EngineSpec(model, dtype="float32"))
    with Engine.from_spec(spec) as engine, Engine.from_spec(EngineSpec(model, dtype="float32")) as plain:
        (said,), (unsteered,) = (each.generate([[70, 71, 72]], max_tokens=16, ignore_eos=True) for each in (engine, plain))
        score = engine.score([("abc", "def")])[0]
    ids = [70, 71, 72, *(token.id for token in said.tokens)]
    expected = by_hand(model, ids, site, vector)
    for place, token in enumerate(said.tokens):
        assert token.id == int(expected[2 + place].argmax())
        assert token.logprob == pytest.approx(float(expected[2 + place, token.id]), abs=1e-3)
    assert said.text != unsteered.text
    ids = model.tokenizer.encode("abcdef")  # type: ignore[union-attr]
    whole = by_hand(model, ids, site, vector)
    assert score.logprob == pytest.approx(sum(float(whole[place - 1, ids[place]]) for place in (3, 4, 5)), abs=1e-3)


def test_twice_the_strength_is_twice_the_vector_and_two_levers_add_up(model, pairs):
    site = "blocks.1.input"
    specs = [Steering(pairs=pairs, strength=s).decode(EngineSpec(model)) for s in (1.0, 2.0)]
    both = Steering(pairs=pairs, strength=1.0).decode(specs[0])
    first, second, sum_ = (spec.program.add[site].vectors for spec in (*specs, both))  # type: ignore[union-attr]
    assert torch.allclose(2 * first, second) and torch.allclose(sum_, second)


def test_the_text_does_not_depend_on_what_else_runs_or_is_guessed(model, pairs):
    dice = random.Random(3)
    spec = Steering(pairs=pairs).decode(EngineSpec(model, deterministic=True, slots=3, context=CONTEXT, dtype="float32"))
    requests = []
    for _ in range(8):
        prompt = [dice.randrange(256) for _ in range(dice.randint(1, 8))] * dice.randint(1, 5)
        requests.append((prompt, AnswerSettings(max_tokens=16, temperature=dice.choice([0, 0.9]), token_events=True, ignore_eos=True)))

    assert said_by(spec, model, requests, CONTEXT, apart=True) == said_by(spec, model, requests, CONTEXT)
    assert [text for text, _, _ in said_by(PromptLookup(shortest=1).decode(spec), model, requests, CONTEXT)] == [
        text for text, _, _ in said_by(spec, model, requests, CONTEXT)
    ]


def test_directions_are_kept_in_the_runs_folder_and_used_again(model, pairs, tmp_path):
    folder = tmp_path / "fitted"
    spec = EngineSpec(model, folder=folder)
    first = Steering(pairs=pairs).decode(spec)
    (kept,) = folder.glob("steering-*.safetensors")
    before = kept.stat().st_mtime_ns
    again = Steering(pairs=pairs, strength=4.0).decode(spec)
    assert kept.stat().st_mtime_ns == before and len(list(folder.iterdir())) == 1
    named = Steering(directions=str(kept)).decode(EngineSpec(model))
    assert first.fingerprint == named.fingerprint != again.fingerprint
    Steering(pairs=pairs, fit="probe").decode(spec)
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(ModelFileError, match="no direction for blocks.0.mixer"):
        Steering(directions=str(kept), sites=("blocks.0.mixer",)).decode(spec)


def test_a_strength_of_zero_is_no_change_at_all(model, pairs):
    spec = EngineSpec(model)
    assert Steering(strength=0).decode(spec) is spec and Steering(pairs=pairs, strength=0).decode(spec) is spec


def test_another_folder_is_the_same_engine_and_other_pairs_are_not(model, pairs, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"positive": "x y", "negative": "z"}\n{"positive": "u v", "negative": "w"}\n', encoding="utf-8")
    spec = EngineSpec(model)
    prints = [
        Steering(pairs=pairs).decode(spec).fingerprint,
        Steering(pairs=pairs).decode(dataclasses.replace(spec, folder=tmp_path)).fingerprint,
        Steering(pairs=str(other)).decode(spec).fingerprint,
        Steering(pairs=pairs, sites=("blocks.0.input",)).decode(spec).fingerprint,
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_what_cannot_be_steered_is_refused_with_a_reason(model, pairs):
    for site in ("blocks.2.input", "blocks.0.head", "blocks.x.input", "heads.lm", "blocks.00000000009.input", ""):
        with pytest.raises(SteelyardError, match="no site is called"):
            Steering(pairs=pairs, sites=(site,)).decode(EngineSpec(model))
    for wrong, what in (
        ({}, "either `pairs` or `directions`"), ({"pairs": "a", "directions": "b"}, "either"), ({"pairs": "a", "strength": math.inf}, "strength"),
        ({"pairs": "a", "sites": ["final_norm", "final_norm"]}, "named twice"), ({"pairs": "a", "fit": "median"}, "fit"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=what):
            levers.parse({"steering": wrong})
    assert levers.parse({"steering": "pairs.jsonl"}) == Steering(pairs=Path("pairs.jsonl"))


def test_steering_adds_to_a_program_that_is_there(model):
    unit = Direction(torch.eye(32)[0], 2.0)
    program = steered(SiteProgram(read=frozenset({"final_norm"})), {"blocks.0.input": unit}, 3.0)
    assert program.read == {"final_norm"} and float(program.add["blocks.0.input"].vectors[0, 0]) == 6.0
