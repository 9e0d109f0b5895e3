"""Fine-tuning: answers are learned, the base stays as it is, and what cannot be done is refused before any work."""

import json
import math

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.core.errors import DataError, RecipeError, SteelyardError, UnsupportedError
from steelyard.core.levers import make as make_lever
from steelyard.core.run import Run
from steelyard.data.batching import NOT_LEARNED, Batches
from steelyard.data.encoding import Encoder
from steelyard.data.formats import read_jsonl, to_example
from steelyard.model.linears.lora import branches, view
from steelyard.train import objectives
from steelyard.train.adapters.lora import LoraPlan, attach
from steelyard.train.objectives import next_token_loss
from steelyard.train.supervised.sft import Sft, split

COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"{thing}?"}, {"role": "assistant", "content": colour}]}
        for thing, colour in COLOURS.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    return str(path)


def teachable(**config):
    """A random model whose frozen maps can tell questions apart and whose frozen head can be sure of an answer.

    The 0.02 that weights are drawn at bounds every logit by 0.6 in a model this thin, so adapters alone could teach it nothing.
    """
    model = tiny_talker(**config)
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            if parameter.dim() == 2:
                parameter.mul_(25 if parameter is model.trunk.inputs.weight else 9)
    return model


def tuned(model, tmp_path, data, **settings):
    settings = {"learning_rate": 2e-2, "batch": 4, "rank": 4, "warmup": 0.0, "dtype": "float32", **settings}
    return Sft(data=data, **settings).train(model, None, Run(tmp_path / "run", seed=1))


def metrics(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]


def greedy(model, question, tokens=8):
    ids = model.tokenizer.encode(model.render([{"role": "user", "content": question}]))
    start = len(ids)
    while len(ids) - start < tokens and ids[-1] not in model.tokenizer.eos_ids:
        ids.append(int(model.logits([ids])[0, -1].argmax()))
    return model.tokenizer.decode(ids[start:], skip_special=True)


@pytest.mark.parametrize("way", [{"steps": 60}, {"steps": 60, "full": True, "learning_rate": 1e-2}, {"steps": 60, "dtype": "bfloat16"}])
def test_a_tuned_model_gives_the_answers_and_stops(tmp_path, data, way):
    model = teachable()
    before = {name: tensor.clone() for name, tensor in model.trunk.state_dict().items()}
    made = tuned(model, tmp_path, data, **way)
    assert {thing: greedy(made, f"{thing}?") for thing in COLOURS} == COLOURS
    assert all(torch.equal(before[name], tensor) for name, tensor in model.trunk.state_dict().items())
    assert made.fingerprint != model.fingerprint
    assert not branches(made.trunk) and not made.trunk.training


def test_an_adapter_kept_apart_computes_what_the_merged_one_does(tmp_path, data):
    apart = tuned(teachable(), tmp_path / "a", data, steps=10, merge=False)
    merged = tuned(teachable(), tmp_path / "b", data, steps=10)
    ids = [[5, 6, 7, 8]]
    assert float((apart.logits(ids) - merged.logits(ids)).abs().max()) < 1e-4
    assert len(branches(apart.trunk)) == 2 * 7
    with pytest.raises(UnsupportedError, match="Merge"):
        apart.save(tmp_path / "saved")


def test_no_steps_change_nothing(tmp_path, data):
    model = teachable()
    assert Sft(data=data, **Sft.identity).train(model, None, Run(tmp_path)) is model


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, data):
    lever = Sft(data=data, steps=3, learning_rate=1e-2, dropout=0.1)
    one, same, other = (lever.train(teachable(), None, Run(tmp_path / str(i), seed=seed)) for i, seed in enumerate((1, 1, 2)))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_only_the_answers_are_learned(tmp_path, data):
    """The loss of a row is the mean log-probability of its answer's tokens, computed here by hand."""
    model = teachable()
    tuned(model, tmp_path, data, epochs=1, batch=12, learning_rate=1e-6)
    total, learned = 0.0, 0
    for example in read_jsonl(tmp_path / "rows.jsonl").examples:
        prompt = model.tokenizer.encode(model.render([example.turns[0].message]))
        answer = [*model.tokenizer.encode(example.turns[1].message.content), *model.tokenizer.eos_ids]
        logprobs = model.logits([prompt + answer])[0].log_softmax(-1)
        total -= sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(answer))
        learned += len(answer)
    (line,) = metrics(tmp_path)
    assert line["loss"] == pytest.approx(total / learned, abs=1e-5)


def test_epochs_count_passes_and_metrics_count_tokens(tmp_path, data):
    model = teachable()
    tuned(model, tmp_path, data, epochs=2.5, batch=2, accumulation=3)
    lines = metrics(tmp_path)
    assert len(lines) == 2.5 * 12 / 2 / 3
    encoder = Encoder(model.tokenizer, model.template)
    tokens = sum(len(encoder.encode(example)) for example in read_jsonl(tmp_path / "rows.jsonl").examples)
    assert tokens * 2 < lines[-1]["tokens"] < tokens * 3


def test_validation_rows_are_never_trained_on(tmp_path, data):
    made = tuned(teachable(), tmp_path, data, steps=20, validation=0.25, validate_every=4)
    assert [line["step"] for line in metrics(tmp_path) if "validation_loss" in line] == [4, 8, 12, 16, 20]
    (entry,) = made.record["training"]
    assert (entry["data"]["rows"], entry["data"]["validation_rows"]) == (9, 3)
    result = entry["result"]
    assert result["loss"] < 0.5 * result["validation_before"] and result["validation_loss"] > result["loss"]
    rows = [row for row in (Encoder(made.tokenizer, made.template).encode(e) for e in read_jsonl(tmp_path / "rows.jsonl").examples)]
    learned, kept = split(rows, 0.25, 5)
    assert not {row.key for row in learned} & {row.key for row in kept}


def test_packing_changes_the_batches_not_what_is_learned(tmp_path, data):
    made = tuned(teachable(), tmp_path, data, steps=60, pack=True, max_length=128, batch=2)
    assert {thing: greedy(made, f"{thing}?") for thing in COLOURS} == COLOURS


def test_a_data_lever_before_it_changes_what_it_reads(tmp_path, data):
    made = Sft(data=data, steps=1).train(teachable(), lambda examples: examples[:2], Run(tmp_path / "run"))
    assert made.record["training"][0]["data"]["rows"] == 2


def test_bad_rows_stop_or_are_quarantined_in_the_run(tmp_path, data):
    with open(data, "a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match="line 13"):
        tuned(teachable(), tmp_path, data, steps=1)
    assert "line 13" not in (quarantine := (tmp_path / "run" / "quarantine.jsonl").read_text()) and '"line": 13' in quarantine
    tuned(teachable(), tmp_path, data, steps=1, bad_rows="skip")
    assert "line 13" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_length": 300}, "reads at most 256"),
        ({"max_length": 20}, "longer than 20 tokens"),
        ({"targets": ("q_porj",)}, "q_proj"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tmp_path, data, settings, words):
    with pytest.raises(SteelyardError, match=words):
        tuned(teachable(), tmp_path, data, steps=1, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "data"),
        ({"data": "x", "epoch": 1}, "Did you mean `epochs`"),
        ({"data": "x", "learning_rate": math.nan}, "learning_rate"),
        ({"data": "x", "learning_rate": 5}, "less than 1"),
        ({"data": "x", "rank": 0}, "rank"),
        ({"data": "x", "pack": True}, "max_length"),
        ({"data": "x", "full": True, "merge": False}, "adapters"),
        ({"data": "x", "epochs": math.inf}, "finite"),
        ({"data": "x", "alpha": math.inf}, "finite"),
    ],
)
def test_bad_settings_are_refused_when_they_are_read(settings, words):
    with pytest.raises(RecipeError, match=words):
        make_lever(Sft, settings, "here")


def test_a_model_without_a_template_says_so(tmp_path, data):
    with pytest.raises(DataError, match="plain: true"):
        tuned(tiny_talker(template=None), tmp_path, data, steps=1)
    tuned(tiny_talker(template=None), tmp_path / "plain", data, steps=1, plain=True)


def test_packed_weights_are_refused_with_the_reason(tmp_path, data):
    quantize = pytest.importorskip("steelyard.compress.quantize.quantize").Quantize
    packed = quantize().compress(teachable(), None, Run(tmp_path))
    with pytest.raises(UnsupportedError, match="quantize afterwards"):
        tuned(packed, tmp_path, data, steps=1)


def test_too_little_memory_names_the_batch_and_the_way_out(tmp_path, data, monkeypatch):
    def starved(*args, **kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("torch.nn.functional.cross_entropy", starved)
    with pytest.raises(SteelyardError, match=r"memory ran out[\s\S]*raise `accumulation`"):
        tuned(teachable(), tmp_path, data, steps=1)


def one_batch(model, *rows):
    encoder = Encoder(model.tokenizer, model.template)
    examples = [to_example({"prompt": prompt, "completion": answer}, "prompt_completion", "x") for prompt, answer in rows]
    return next(Batches([encoder.encode(example) for example in examples], len(rows)).iterate())[0]


def test_the_loss_of_a_batch_is_the_same_in_evaluation_and_training():
    model = tiny_talker()
    trunk, batch = view(model.trunk), one_batch(model, ("a", "b"))
    assert float(next_token_loss(trunk.train())(batch)[0].detach()) == float(next_token_loss(trunk.eval())(batch)[0].detach())


@pytest.mark.parametrize("full", [False, True])
def test_logits_computed_a_piece_at_a_time_give_the_same_loss_and_gradients(monkeypatch, full):
    model = teachable()
    batch = one_batch(model, ("a", "a long answer"), ("b", "another one"), ("c", "d"))
    results = []
    for piece in (1024, 5):
        monkeypatch.setattr(objectives, "PIECE", piece)
        trunk = model.trunk.requires_grad_(True) if full else attach(model, model.trunk, LoraPlan(4), seed=0)
        trunk.zero_grad()
        loss, learned, _ = next_token_loss(trunk)(batch)
        loss.backward()
        results.append((float(loss.detach()), learned, [p.grad.clone() for p in trunk.parameters() if p.requires_grad]))
    (loss, learned, gradients), (pieced_loss, pieced_learned, pieced_gradients) = results
    assert pieced_loss == pytest.approx(loss, rel=1e-6) and pieced_learned == learned > 10
    for gradient, pieced in zip(gradients, pieced_gradients, strict=True):
        assert torch.allclose(gradient, pieced, rtol=1e-4, atol=1e-4)


def test_a_batch_without_anything_to_learn_adds_nothing():
    model = teachable()
    batch = one_batch(model, ("a", "b"))
    batch.targets[:] = NOT_LEARNED
    loss, learned, _ = next_token_loss(attach(model, model.trunk, LoraPlan(4), seed=0))(batch)
    assert (float(loss.detach()), learned) == (0.0, 0)
