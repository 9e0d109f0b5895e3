"""Contrasts with an amateur and with earlier layers are those of the papers, in answers and in scores."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engines import Heard, generation, run_all, said_by, scheduler, talker

from steelyard.core import levers
from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.protocols import AnswerSettings
from steelyard.core.references import ModelRef
from steelyard.generate.engine import Engine
from steelyard.generate.readouts.contrastive import Contrastive, middle
from steelyard.generate.readouts.dola import Dola, candidates, furthest, site
from steelyard.generate.readouts.plausible import contrasted
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.depth.shortened import shortened
from steelyard.model.model import Model
from steelyard.model.sites import SiteProgram
from steelyard.model.step import Step

CONTEXT = 128
PROMPT = [70, 71, 72, 73]


@pytest.fixture(scope="module")
def model() -> Model:
    return talker(6.0, max_position_embeddings=CONTEXT, num_hidden_layers=5)


@pytest.fixture(scope="module")
def weak() -> Model:
    return talker(6.0, max_position_embeddings=CONTEXT, num_hidden_layers=1, hidden_size=16, seed=3)


def beside(weak: Model) -> ModelRef:
    return ModelRef("weak", weak)


def layer_views(model: Model, ids: list[int]) -> list[torch.Tensor]:
    """Log-probabilities [t, v] after 0, 1, ... blocks, the last of them the model's own, by the trunk itself."""
    blocks = len(model.trunk.plan.depth.blocks)
    program = SiteProgram(read=frozenset(map(site, range(blocks))))
    with torch.inference_mode():
        own = model.trunk.logits(torch.tensor([ids]), dataclasses.replace(Step.whole(1, len(ids), torch.device("cpu")), program=program))
        early = [model.trunk.heads["lm"](model.trunk.norm(program.readings[site(block)])) for block in range(blocks)]  # type: ignore[misc]
    return [torch.log_softmax(view[0], -1) for view in (*early, own)]


def by_hand(own: torch.Tensor, other: torch.Tensor, strength: float, alpha: float) -> torch.Tensor:
    """One row, token by token, as the papers write it; -infinity for what is not plausible."""
    most = max(float(value) for value in own.exp())
    return torch.tensor(
        [
            float(p) - strength * float(q) if math.exp(float(p)) >= alpha * most else -math.inf
            for p, q in zip(own, other, strict=True)
        ]
    )  # fmt: skip


# The difference itself


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(st.lists(st.floats(-12, 12, width=32), min_size=6, max_size=6), min_size=2 * n, max_size=2 * n)
    ),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.floats(0.01, 1.0),
)
def test_scores_are_the_papers_and_sum_to_one(rows, strength, alpha):
    views = torch.log_softmax(torch.tensor(rows), -1)
    own, other = views[: len(rows) // 2], views[len(rows) // 2 :]
    kept, excluded = (contrasted(own, other, strength, alpha, tail) for tail in ("kept", "excluded"))
    for row, (p, q) in enumerate(zip(own, other, strict=True)):
        expected = by_hand(p, q, strength, alpha)
        inside = expected.isfinite()
        edge = (p - p.max() - math.log(alpha)).abs() < 1e-5  # either side is right to within rounding
        assert torch.equal(excluded[row].isfinite()[~edge], inside[~edge])
        if edge.any():
            continue
        assert torch.allclose(excluded[row].exp(), torch.softmax(expected, -1), atol=1e-5)
        assert torch.allclose(kept[row][inside].exp(), p.exp()[inside].sum() * torch.softmax(expected, -1)[inside], atol=1e-5)
        assert torch.equal(kept[row][~inside], p[~inside])
        assert float(kept[row].exp().sum()) == pytest.approx(1, abs=1e-4)
        assert float(kept[row].max()) == pytest.approx(float(kept[row][inside].max()))


def test_rows_do_not_depend_on_how_many_there_are():
    generator = torch.Generator().manual_seed(1)
    own, other = (torch.log_softmax(6 * torch.randn(9, 40_000, generator=generator), -1) for _ in range(2))
    own.requires_grad_(False)
    whole = contrasted(own, other, 1.0, 0.1, "kept")
    views = [torch.log_softmax(3 * torch.randn(9, 40_000, generator=generator), -1) for _ in range(3)]
    chosen, number = furthest(own, iter(views))
    for row in range(9):
        assert torch.equal(contrasted(own[row : row + 1], other[row : row + 1], 1.0, 0.1, "kept")[0], whole[row])
        alone = furthest(own[row : row + 1], [view[row : row + 1] for view in views])
        assert torch.equal(alone[0][0], chosen[row]) and alone[1][0] == number[row]


def test_the_arguments_are_left_as_they_were():
    own, other = (torch.log_softmax(torch.randn(2, 50), -1) for _ in range(2))
    before = own.clone(), other.clone()
    contrasted(own, other, 1.0, 0.1, "kept")
    assert torch.equal(own, before[0]) and torch.equal(other, before[1])


@pytest.mark.parametrize("tail", ["kept", "excluded"])
def test_logits_that_are_no_numbers_end_the_request_with_a_message(model, tail):
    spoilt = dataclasses.replace(model, trunk=shortened(model.trunk, [0]))
    with torch.no_grad():
        spoilt.trunk.heads["lm"].linear.storage.weight = torch.nn.Parameter(spoilt.trunk.heads["lm"].linear.weight * float("nan"))
    spec = Dola(layers=(1,), tail=tail).decode(EngineSpec(spoilt, dtype="float32"))
    turns, heard = scheduler(spec), Heard()
    turns.add(generation(spoilt, [5], AnswerSettings(temperature=1.0), heard, CONTEXT))
    run_all(turns)
    assert heard.reason == "error" and "no token can be drawn" in (heard.failure or "")


# Contrastive


def test_greedy_answers_and_scores_are_those_of_the_formula(model, weak):
    lever = Contrastive(amateur=beside(weak), strength=0.7, alpha=0.2, temperature=1.5)
    with Engine.from_spec(lever.decode(EngineSpec(model, dtype="float32", context=CONTEXT))) as engine:
        (said,) = engine.generate([PROMPT], max_tokens=24, ignore_eos=True)
        score = engine.score([("abcd", "efgh")])[0]
    ids = PROMPT + [token.id for token in said.tokens]
    own, other = torch.log_softmax(model.logits([ids])[0], -1), torch.log_softmax(weak.logits([ids])[0] / 1.5, -1)
    expected = contrasted(own, other, 0.7, 0.2, "kept")
    for place, token in enumerate(said.tokens):
        assert token.id == int(by_hand(own[3 + place], other[3 + place], 0.7, 0.2).argmax())
        assert token.logprob == pytest.approx(float(expected[3 + place, token.id]), abs=1e-3)
    assert any(token.id != int(own[3 + place].argmax()) for place, token in enumerate(said.tokens)), "nothing changed: this shows nothing"
    ids = model.tokenizer.encode("abcdefgh")  # type: ignore[union-attr]
    whole = contrasted(torch.log_softmax(model.logits([ids])[0], -1), torch.log_softmax(weak.logits([ids])[0] / 1.5, -1), 0.7, 0.2, "kept")
    assert score.logprob == pytest.approx(sum(float(whole[place - 1, ids[place]]) for place in range(4, 8)), abs=1e-3)


def test_an_expert_as_its_own_amateur_finds_all_plausible_tokens_alike(model):
    lever = Contrastive(amateur=beside(model), tail="excluded")
    with Engine.from_spec(lever.decode(EngineSpec(model, dtype="float32", context=CONTEXT))) as engine:
        (said,) = engine.generate([PROMPT], max_tokens=8, ignore_eos=True)
    for token in said.tokens:
        assert token.logprob == pytest.approx(-token.entropy, abs=1e-4)


def test_the_amateur_without_a_name_is_the_expert_without_its_middle(model):
    spec = Contrastive(without=0.4).decode(EngineSpec(model, dtype="float32", context=CONTEXT))
    amateur = spec.companions["amateur"]
    assert middle(30, 0.2) == range(12, 18) and "without blocks 1-2" in amateur.name
    skipped = dataclasses.replace(Step.whole(1, 4, torch.device("cpu")), program=SiteProgram(skip={1: None, 2: None}))
    with torch.inference_mode():
        assert torch.allclose(amateur.logits([PROMPT]), model.trunk.logits(torch.tensor([PROMPT]), skipped), atol=1e-5)
    assert amateur.trunk.blocks[4 - 2].mixer.query.weight is model.trunk.blocks[4].mixer.query.weight  # type: ignore[union-attr,index]
    assert len(model.trunk.blocks) == 5 and model.trunk.blocks[4].name == "blocks.4"  # type: ignore[union-attr]
    with Engine.from_spec(spec) as engine:
        engine.generate([PROMPT], max_tokens=4)


def test_blocks_that_are_not_there_cannot_be_left_out(model):
    with pytest.raises(SteelyardError, match="no block 7 among 5"):
        shortened(model.trunk, [1, 7])
    with pytest.raises(SteelyardError, match="no block would be left"):
        shortened(model.trunk, range(5))
    one = talker(num_hidden_layers=1)
    with pytest.raises(SteelyardError, match="cannot do without"):
        Contrastive().decode(EngineSpec(one))


def test_an_amateur_of_another_tokenizer_or_a_second_one_is_refused(model, weak):
    import tiny_talker

    other = dataclasses.replace(weak, tokenizer=tiny_talker.tiny_tokenizer(eos=None))
    with pytest.raises(SteelyardError, match="tokenizer differs"):
        Engine.from_spec(Contrastive(amateur=beside(other)).decode(EngineSpec(model)))
    with pytest.raises(SteelyardError, match="an amateur already"):
        Contrastive().decode(Contrastive().decode(EngineSpec(model)))


# DoLa


def test_the_layer_that_differs_most_is_subtracted(model):
    lever = Dola(layers=(1, 2, 3, 4), strength=0.6, alpha=0.15)
    with Engine.from_spec(lever.decode(EngineSpec(model, dtype="float32", context=CONTEXT))) as engine:
        (said,) = engine.generate([PROMPT], max_tokens=24, ignore_eos=True)
        score = engine.score_text(["abcdefgh"])[0]
    ids = PROMPT + [token.id for token in said.tokens]
    views, chosen = layer_views(model, ids), set()
    for place, token in enumerate(said.tokens):
        own = views[-1][3 + place].double()
        best = max((1, 2, 3, 4), key=lambda layer: divergence(own, views[layer][3 + place].double()))
        chosen.add(best)
        expected = by_hand(own, views[best][3 + place], 0.6, 0.15)
        assert token.id == int(expected.argmax())
    assert len(chosen) > 1, "always the same layer: this shows nothing of the choice"
    assert math.isfinite(score.logprob) and score.tokens == 8


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Jensen and Shannon's, as they define it."""
    middle = ((p.exp() + q.exp()) / 2).log()
    return float(0.5 * (p.exp() * (p - middle)).sum() + 0.5 * (q.exp() * (q - middle)).sum())


def test_the_furthest_view_is_found_in_closed_form():
    own = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]).log()
    views = [torch.tensor(rows).log() for rows in ([[0.5, 0.5, 0.0]] * 2, [[0.0, 0.0, 1.0]] * 2, [[0.4, 0.6, 0.0], [0.9, 0.1, 0.0]])]
    chosen, number = furthest(own, views)
    assert number.tolist() == [1, 2] and torch.equal(chosen[0], views[1][0]) and torch.equal(chosen[1], views[2][1])


@pytest.mark.parametrize(
    "layers, blocks, tied, expected",
    [
        ("low", 32, False, tuple(range(0, 16, 2))),
        ("low", 32, True, tuple(range(2, 16, 2))),
        ("high", 32, False, tuple(range(16, 32, 2))),
        ("high", 30, True, (15, 17, 19, 21, 23, 25, 27, 29)),
        ("low", 60, False, tuple(range(0, 20, 2))),
        ("high", 60, False, tuple(range(40, 60, 2))),
        ((3, 1), 4, False, (3, 1)),
    ],
)
def test_candidates_are_those_of_the_paper(layers, blocks, tied, expected):
    assert candidates(layers, blocks, tied) == expected


@pytest.mark.parametrize(
    "layers, blocks, what", [((5,), 5, "layer 5"), ((1, 1), 5, "twice"), ("low", 2, "no candidate"), ((), 5, "no cand")]
)
def test_layers_that_are_not_there_are_refused(layers, blocks, what):
    with pytest.raises(SteelyardError, match=what):
        candidates(layers, blocks, True)


# Both, in the engine


KINDS = ["contrastive", "dola"]


def made(kind: str, weak: Model, **changes) -> Contrastive | Dola:
    return Contrastive(amateur=beside(weak), **changes) if kind == "contrastive" else Dola(layers=(1, 3), **changes)


def requests_of(dice: random.Random, count: int) -> list[tuple[list[int], AnswerSettings]]:
    out = []
    for _ in range(count):
        prompt = [dice.randrange(256) for _ in range(dice.randint(1, 8))] * dice.randint(1, 6)
        temperature = dice.choice([0.0, 0.8])
        wanted = AnswerSettings(max_tokens=20, temperature=temperature, seed=dice.randrange(99), token_events=True, ignore_eos=True)
        out.append((prompt, wanted))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_does_not_depend_on_what_else_runs_or_is_guessed(model, weak, kind):
    spec = made(kind, weak).decode(EngineSpec(model, deterministic=True, slots=3, context=CONTEXT, dtype="float32"))
    requests = requests_of(random.Random(4), 9)
    plain = said_by(spec, model, requests, CONTEXT, apart=True)
    assert plain == said_by(spec, model, requests, CONTEXT)
    guessed = said_by(PromptLookup(shortest=1).decode(spec), model, requests, CONTEXT)
    assert [(text, [token.id for token in tokens]) for text, tokens, _ in guessed] == [
        (text, [token.id for token in tokens]) for text, tokens, _ in plain
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_readable_kernels_say_the_same(model, weak, kind):
    requests = requests_of(random.Random(6), 4)
    spec = made(kind, weak).decode(EngineSpec(model, dtype="float32", context=CONTEXT))
    fast, readable = (said_by(dataclasses.replace(spec, kernels=kernels), model, requests, CONTEXT) for kernels in ("auto", "reference"))
    assert [text for text, _, _ in fast] == [text for text, _, _ in readable]


@pytest.mark.parametrize("kind", KINDS)
def test_a_strength_of_zero_is_no_change_at_all_and_settings_tell_engines_apart(model, weak, kind):
    spec = EngineSpec(model, context=CONTEXT)
    assert made(kind, weak, strength=0).decode(spec) is spec
    kinds = [made(kind, weak), made(kind, weak, strength=0.5), made(kind, weak, alpha=0.3), made(kind, weak, tail="excluded")]
    assert len({lever.decode(spec).fingerprint for lever in kinds} | {spec.fingerprint}) == 5


def test_other_amateurs_and_other_layers_are_other_engines(model, weak):
    spec = EngineSpec(model, context=CONTEXT)
    assert Contrastive().decode(spec).fingerprint != Contrastive(amateur=beside(weak)).decode(spec).fingerprint
    assert Dola(layers=(1,)).decode(spec).fingerprint != Dola(layers=(2,)).decode(spec).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_excluded_scores_minus_infinity_and_what_is_kept_does_not(model, weak, kind):
    scores = {}
    for tail in ("kept", "excluded"):
        with Engine.from_spec(made(kind, weak, tail=tail, alpha=1.0).decode(EngineSpec(model, context=CONTEXT))) as engine:
            scores[tail] = engine.score_text(["an unlikely text"])[0].logprob
    assert math.isfinite(scores["kept"]) and scores["excluded"] == -math.inf


def test_levers_are_found_by_name_and_refuse_settings_that_mean_nothing():
    assert levers.parse({"contrastive": 0.5}) == Contrastive(strength=0.5)
    assert levers.parse({"dola": "low"}) == Dola(layers="low")
    assert levers.parse({"dola": {"layers": [2, 4]}}) == Dola(layers=(2, 4))
    assert levers.parse({"contrastive": {"amateur": "./weak"}}).references() == {"amateur": ModelRef("./weak")}
    for name, wrong in (
        ("contrastive", {"strength": -1}), ("contrastive", {"alpha": 0}), ("contrastive", {"temperature": 0}), ("contrastive", {"without": 1}),
        ("dola", {"layers": "middle"}), ("dola", {"layers": [-1]}), ("dola", {"alpha": 1.5}), ("dola", {"strength": float("inf")}),
    ):  # fmt: skip
        with pytest.raises(RecipeError):
            levers.parse({name: wrong})
    with pytest.raises(RecipeError, match="conflicts with contrastive"):
        levers.check_chain([Contrastive(), Contrastive(strength=2)], {"weights"}, "arm")
