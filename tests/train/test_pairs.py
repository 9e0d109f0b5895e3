"""Encoder-decoders from a recipe to an answer: read, trained, saved, loaded to the bit, asked, weighed; what does not fit is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import re

import pytest
import torch
from typer.testing import CliRunner

from steelyard.augment.pair_answerer import PairAnswerer
from steelyard.cli.main import app
from steelyard.core import recipe as recipes
from steelyard.core.errors import ContextLengthError, DataError, RecipeError, SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, Done, Message, Text, Token, Usage
from steelyard.core.run import Run
from steelyard.data.generated.toy_language import WORDS, training_pair, translated
from steelyard.generate.beams.beam import Beam
from steelyard.generate.constraints.constraint import Constraint
from steelyard.generate.engine import Engine
from steelyard.generate.processors.typical import Typical
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.inspect import inspect
from steelyard.model.load import load
from steelyard.train.make import make
from steelyard.train.pretrain.new import new_model
from steelyard.weigh.runner import weigh

NEW = {"kind": "encoder_decoder", "width": 16, "depth": 1, "context": 16, "inputs": {"tokens": {"positions": "learned"}}}
LETTERS = "abc"


def rows(count, seed=1):
    draw = random.Random(seed)
    texts = ["".join(draw.choices(LETTERS, k=draw.randint(1, 3))) for _ in range(count)]
    return [{"prompt": text, "completion": text.upper()} for text in texts]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(200)))
    return path


def recipe(data, new=NEW, **settings):
    sft = {"data": str(data), "full": True, "steps": 120, "batch": 16, "learning_rate": 0.01, "validation": 0.1} | settings
    return recipes.from_mapping({"new": new, "steps": [{"sft": sft}], "seed": 1}, name="pairs")


def answered(model, text, *levers, **settings):
    async def gather():
        return [event async for event in PairAnswerer(model, levers).answer([Message("user", text)], AnswerSettings(**settings))]

    return asyncio.run(gather())


@pytest.fixture
def made(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make(recipe(data), tmp_path / "out", say=lambda line: None), tmp_path / "out"


def test_it_is_trained_saved_loaded_to_the_bit_and_answers_the_same(made):
    model, directory = made
    (entry,) = model.record["training"]
    assert entry["result"]["validation_loss"] < 0.2 * entry["result"]["validation_before"]
    again = load(directory)
    assert again.fingerprint == model.fingerprint
    for (name, one), (_, other) in zip(model.trunk.state_dict().items(), again.trunk.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    events = answered(again, "abc", max_tokens=12)
    assert events == answered(model, "abc", max_tokens=12)
    assert isinstance(events[-2], Usage) and events[-1] == Done("stop") and all(isinstance(event, Text) for event in events[:-2])
    assert "".join(event.text for event in events[:-2]) == "ABC"
    found = inspect(directory, check=True)
    assert found["problems"] == [] and found["opens_in"] == "Steelyard only" and found["plan"]["kind"] == "encoder_decoder"
    assert found["parameters"] == model.trunk.parameter_count()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config: config["plan"].update(kind="decoders"), "kind"),
        (lambda config: config["plan"]["decoder"].update(width=7), "7 wide"),
        (lambda config: config.update(decoder_start_token_id=10_000), "decoder_start_token_id"),
        (lambda config: config.pop("decoder_start_token_id"), "decoder_start_token_id"),
        (lambda config: config["plan"]["cross"].update(sees="nothing"), "sees"),
        (lambda config: config["plan"]["encoder"].update(depth=3), "missing"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(tmp_path, change, told):
    model = new_model(recipes.from_mapping({"new": NEW}).base.plan, Run(tmp_path / "run", 1))
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    with pytest.raises(SteelyardError) as error:
        load(tmp_path / "model")
    assert told in str(error.value)


def test_chat_asks_it_and_the_engine_refuses_it_by_name(made):
    model, directory = made
    said = CliRunner().invoke(app, ["chat", str(directory)], input="cab\n")
    assert said.exit_code == 0 and "CAB" in said.output and "one message at a time" in said.output
    with pytest.raises(UnsupportedError, match="encoder-decoder, which the engine does not run"):
        Engine(model)
    with pytest.raises(UnsupportedError, match="reads one text and writes another"):
        model.logits([[1, 2]])


def test_it_is_weighed_beside_an_untrained_one_and_its_words_are_scrambled_as_a_check(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    questions = tmp_path / "questions.jsonl"
    kept = {row["prompt"]: row["completion"] for row in rows(400, seed=2) if len(set(row["prompt"])) > 1}
    questions.write_text("".join(json.dumps({"prompt": f"{q}", "expected": a}) + "\n" for q, a in list(kept.items())[:12]))
    one = recipe(data)
    mapping = one.resolved() | {
        "arms": {"untrained": {"new": NEW, "steps": []}},
        "tasks": [{"chat": {"path": str(questions)}}],
        "axes": ["quality"],
    }
    report = weigh(recipes.from_mapping(mapping), tmp_path / "run", say=lambda line: None)
    cell = next(cell for cell in report.cells if cell.arm == "untrained" and cell.primary)
    assert cell.base > 0.8 and cell.value < 0.3 and cell.verdict == "worse"
    assert report.arms["base"].parameters == report.arms["untrained"].parameters > 0
    (defect,) = [cell for cell in report.checks["planted_defect"] if cell.primary]
    assert defect.verdict != "not measurable"


def test_the_recipe_says_again_what_it_was_read_from():
    new = NEW | {"mixer": "lstm", "decoder": {"depth": 2}, "cross": {"heads": 2, "sees": "last"}}
    one = recipes.from_mapping({"new": new, "arms": {"attending": ["attention"], "all": [{"cross_attention": {"sees": "all"}}]}})
    assert recipes.from_mapping(one.resolved()) == one
    plan = one.base.plan
    assert (plan.encoder.depth, plan.decoder.depth) == (1, 2) and plan.cross.sees == "last"
    shaped = one.arms["attending"].source.shaped(one.arms["attending"].levers)
    assert {shaped.encoder.mixer[0].name, shaped.decoder.mixer[0].name} == {"attention"}
    assert one.arms["all"].source.shaped(one.arms["all"].levers).cross.sees == "all"


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (NEW | {"kind": "encoder_decoders"}, "no kind of new model is called `encoder_decoders`"),
        (NEW | {"encoder": {"depths": 2}}, "`encoder` has no key `depths`"),
        (NEW | {"vocabulary": 300}, "vocabulary"),
        (NEW | {"stack": "universal"}, "stack"),
        (NEW | {"cross": {"heads": 3}}, "3 heads do not divide the width 16"),
        (NEW | {"mixer": "mambo"}, "mambo"),
        (NEW | {"encoder": 3}, "encoder"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_recipe_is_read(new, told):
    with pytest.raises(RecipeError) as error:
        recipes.from_mapping({"new": new})
    assert told in str(error.value)


def test_a_kind_may_be_said_of_a_plain_decoder():
    assert recipes.from_mapping({"new": {"kind": "decoder", "width": 16}}) == recipes.from_mapping({"new": {"width": 16}})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"full": False}, "adapters"),
        ({"pack": True, "max_length": 8}, "`pack` has no meaning"),
        ({"learn": "last"}, "`learn` has no meaning"),
        ({"dtype": "bfloat16"}, "float32"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(tmp_path, data, settings, told):
    one = recipe(data, **settings)
    model = new_model(one.base.plan, Run(tmp_path / "run", 1))
    with pytest.raises(RecipeError, match=told):
        one.steps[0].train(model, None, Run(tmp_path / "run", 1))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "a" * 40, "completion": "A"}, "40 tokens to read"),
        ({"prompt": "a", "completion": "A" * 16}, "17 to write"),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}]},
            "turns system",
        ),
    ],
)
def test_rows_that_are_no_pair_or_too_long_are_refused_with_their_line(tmp_path, row, told):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row) + "\n")
    one = recipe(path, validation=0.0)
    model = new_model(one.base.plan, Run(tmp_path / "run", 1))
    with pytest.raises(DataError, match=told) as error:
        one.steps[0].train(model, None, Run(tmp_path / "run", 1))
    assert "bad.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("conversation", "settings", "kind"),
    [
        ([Message("user", "a")], {"temperature": -1.0}, SteelyardError),
        ([Message("user", "a")], {"presence_penalty": float("nan")}, SteelyardError),
        ([Message("user", "a")], {"logit_bias": ((999, 1.0),)}, SteelyardError),
        ([Message("system", "be kind"), Message("user", "a")], {}, UnsupportedError),
        ([Message("user", "a" * 17)], {}, ContextLengthError),
        ([], {}, SteelyardError),
        ([Message("user", "a"), Message("assistant", "A")], {}, SteelyardError),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_written(tmp_path, conversation, settings, kind):
    answerer = PairAnswerer(new_model(recipes.from_mapping({"new": NEW}).base.plan, Run(tmp_path, 1)))

    async def first():
        async for event in answerer.answer(conversation, dataclasses.replace(AnswerSettings(), **settings)):
            return event

    with pytest.raises(kind):
        asyncio.run(first())


def test_an_answer_is_as_long_as_it_was_allowed_to_be(tmp_path):
    model = new_model(recipes.from_mapping({"new": NEW}).base.plan, Run(tmp_path, 3))
    *_, usage, done = answered(model, "ab", max_tokens=2)
    assert usage.completion_tokens <= 2 and done.reason in ("length", "stop")


def test_answers_are_drawn_from_what_its_scores_say(tmp_path):
    model = new_model(recipes.from_mapping({"new": NEW}).base.plan, Run(tmp_path, 3))
    border, seen = model.trunk.plan.border, []
    for seed in range(400):
        settings = {"max_tokens": 1, "temperature": 1.0, "seed": seed, "token_events": True, "alternatives": 3, "top_k": 4}
        tokens = [event for event in answered(model, "ab", **settings) if isinstance(event, Token)]
        assert all(abs(token.logprob) < 30 and len(token.alternatives) == 3 for token in tokens)
        seen += [token.id for token in tokens] or [border]
    encoded = model.trunk.encode(torch.tensor([model.tokenizer.encode("ab")]), [2])
    first = model.trunk.logits(encoded, torch.tensor([[border]]))[0, -1].softmax(-1)
    kept = first.topk(4)
    expected = kept.values / kept.values.sum() * len(seen)
    counts = torch.tensor([float(seen.count(token)) for token in kept.indices.tolist()])
    assert counts.sum() == len(seen) and ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001
    assert answered(model, "ab", temperature=1.0, seed=5) == answered(model, "ab", temperature=1.0, seed=5)


@torch.no_grad()
def test_scores_are_the_sums_of_what_follows_each_token(tmp_path):
    model = new_model(recipes.from_mapping({"new": NEW}).base.plan, Run(tmp_path, 3))
    answerer, texts = PairAnswerer(model), ["A", "AB", "xyz!", "AB", *"abcdefghijklmnop"]
    scores = asyncio.run(answerer.score([Message("user", "ab")], texts))
    encoded = model.trunk.encode(torch.tensor([model.tokenizer.encode("ab")]), [2])
    for text, score in zip(texts, scores, strict=True):
        ids = model.tokenizer.encode(text)
        logprobs = model.trunk.logits(encoded, torch.tensor([[model.trunk.plan.border, *ids[:-1]]]))[0].log_softmax(-1)
        assert abs(score.logprob - float(logprobs[range(len(ids)), ids].sum())) < 1e-4
        assert score.greedy == (logprobs.argmax(-1).tolist() == ids) and (score.tokens, score.bytes) == (len(ids), len(text))
    with pytest.raises(SteelyardError, match="no tokens"):
        asyncio.run(answerer.score([Message("user", "ab")], [""]))
    with pytest.raises(ContextLengthError):
        asyncio.run(answerer.score([Message("user", "ab")], ["x" * 16]))


@torch.no_grad()
def test_a_search_as_wide_as_the_vocabulary_finds_the_likeliest_answer_of_all(tmp_path):
    model = new_model(recipes.from_mapping({"new": NEW | {"initial": 0.3}}).base.plan, Run(tmp_path, 3))
    border, size = model.trunk.plan.border, model.tokenizer.vocabulary_size
    for text in ("ab", "c", "bca"):
        ids = model.tokenizer.encode(text)
        encoded = model.trunk.encode(torch.tensor([ids] * size), [len(ids)] * size)
        begun = torch.tensor([[border, token] for token in range(size)])
        first, second = model.trunk.logits(encoded, begun).log_softmax(-1).unbind(1)
        totals = first[0][:, None] + second
        totals[border] = -torch.inf  # after the border nothing follows
        best = max([(float(first[0, border]), [])] + [
            (float(totals[one, two]), [one] if two == border else [one, two])
            for one, two in (divmod(int(totals.argmax()), size),)
        ])  # fmt: skip
        events = answered(model, text, Beam(beams=256, length_penalty=0.0), max_tokens=2, token_events=True, alternatives=1)
        tokens = [event for event in events if isinstance(event, Token)]
        assert [token.id for token in tokens] == best[1]
        assert events[-1] == Done("length" if len(best[1]) == 2 else "stop") and events[-2].prompt_tokens == len(ids)


def test_one_branch_is_the_greedy_answer_and_more_find_no_less_likely_ones(made):
    model, _ = made
    for text in ("abc", "ca", "b"):
        plain, one, four = (answered(model, text, *levers) for levers in ((), (Beam(beams=1),), (Beam(beams=4, length_penalty=0.0),)))
        assert plain == one
        texts = ["".join(event.text for event in events if isinstance(event, Text)) for events in (plain, four)]
        likely = asyncio.run(PairAnswerer(model).score([Message("user", text)], [told + "<|endoftext|>" for told in texts]))
        assert likely[1].logprob >= likely[0].logprob - 1e-5


def test_settings_and_levers_that_shape_what_is_drawn_hold(tmp_path):
    model = new_model(recipes.from_mapping({"new": NEW}).base.plan, Run(tmp_path, 3))

    def text(*levers, **settings):
        events = answered(model, "ab", *levers, **({"max_tokens": 12, "temperature": 1.0} | settings))
        return "".join(event.text for event in events if isinstance(event, Text)), events[-1]

    letters = {token: 30.0 for token in model.tokenizer.encode("xyz")}
    biased, _ = text(logit_bias=tuple(letters.items()), ignore_eos=True)
    assert set(biased) == set("xyz") and len(biased) == 12
    once, _ = text(logit_bias=tuple(letters.items()), presence_penalty=100.0, max_tokens=3, ignore_eos=True)
    assert sorted(once) == list("xyz")
    assert re.fullmatch("[AB]{3}", text(constraint={"regex": "[AB]{3}"})[0])
    assert re.fullmatch("[AB]{3}", text(Constraint(regex="[AB]{3}"))[0])
    assert re.fullmatch("[AB]{3}", text(Constraint(regex="[AB]{3}"), Beam(beams=3), temperature=0.0)[0])
    # More than the context holds is never written, and what would follow is not asked for.
    assert text(ignore_eos=True, max_tokens=99)[1] == Done("length")
    assert len({PairAnswerer(model, levers).fingerprint for levers in ((), (Beam(),), (Typical(),), (Beam(beams=2),))}) == 4
    with pytest.raises(UnsupportedError, match="prompt_lookup"):
        PairAnswerer(model, [PromptLookup()])


def test_it_ends_at_a_stop_string_and_when_nobody_listens(made):
    model, _ = made
    events = answered(model, "abc", stop=("C",))
    assert "".join(event.text for event in events[:-2]) == "AB" and events[-1] == Done("stop")

    async def leave():
        answerer = PairAnswerer(model)
        events = answerer.answer([Message("user", "abc")], AnswerSettings(max_tokens=15, ignore_eos=True))
        await anext(events)
        await events.aclose()
        return [event async for event in answerer.answer([Message("user", "abc")], AnswerSettings())]

    assert asyncio.run(leave())[-1] == Done("stop")


def test_the_toy_language_has_another_word_for_each_of_the_same_length():
    assert translated("moon rain") == f"{WORDS['moon']} {WORDS['rain']}"
    assert len(set(WORDS.values())) == len(WORDS) and {len(word) for pair in WORDS.items() for word in pair} == {4}
    question, answer = training_pair(random.Random(1))
    assert translated(question) == answer and training_pair(random.Random(1)) == (question, answer)
