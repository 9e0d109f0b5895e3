"""Making: a directory that says how it came to be, whole or not at all, and the same whether or not it was interrupted."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from tiny_talker import tiny_talker

from steelyard.core import recipe as recipes
from steelyard.core.errors import ModelFileError, RecipeError, SteelyardError
from steelyard.model.load import load
from steelyard.train.make import make
from steelyard.train.trainer import TrainingStopped

IDS = [[5, 6, 7, 8, 9]]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a base model, rows to learn and recipes; runs go there too."""
    monkeypatch.chdir(tmp_path)
    tiny_talker().save(tmp_path / "base")
    rows = [{"prompt": f"{thing}?", "completion": colour} for thing, colour in (("sky", "blue"), ("snow", "white"), ("coal", "black"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe(here, *steps, name="tiny", **more):
    content = {"base": "base", "seed": 3, **more} | ({"steps": list(steps)} if steps else {})
    (here / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML
    return here / f"{name}.yaml"


def sft(**settings):
    return {"sft": {"data": "rows.jsonl", "steps": 4, "learning_rate": 1e-2, "rank": 2, "dtype": "float32", **settings}}


def quietly(path, out=None, *overrides, **more):
    return make(path, out, overrides, say=lambda line: None, **more)


def test_what_was_made_opens_as_it_was_and_tells_its_history(here):
    made = quietly(recipe(here, sft(validation=0.3)), "taught")
    opened = load("taught")
    assert torch.equal(opened.logits(IDS), made.logits(IDS))
    assert not torch.equal(opened.logits(IDS), load("base").logits(IDS))
    record = opened.record
    assert record["parents"] == [{"name": str(here / "base"), "fingerprint": load("base").fingerprint, "parents": []}]
    assert record["steps"][0]["sft"]["steps"] == 4 and record["seed"] == 3 and record["recipe"]["name"] == "tiny"
    (entry,) = record["training"]
    assert entry["data"]["rows"] == 2 and entry["data"]["validation_rows"] == 1
    assert entry["result"]["step"] == 4 and entry["result"]["dtype"] == "float32"
    assert {"steelyard", "torch"} <= set(record["versions"]) and "cpu" in record["machine"]
    card = (here / "taught" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| sft | {here / 'rows.jsonl'} " in card and "`steelyard.json`" in card
    assert (here / "runs/tiny/make/recipe.resolved.yaml").exists()
    assert len(list((here / "runs/tiny/make").glob("01-sft-*/metrics.jsonl"))) == 1


def test_steps_follow_one_another_and_all_are_told(here):
    quietly(recipe(here, sft(), sft(full=True, learning_rate=1e-3), {"quantize": {"bits": 8}}, {"prompt_lookup": {}}), "taught")
    record = load("taught").record
    assert [next(iter(step)) for step in record["steps"]] == ["sft", "sft", "quantize"]
    assert [next(iter(step)) for step in record["serve"]] == ["prompt_lookup"]
    assert [entry["settings"]["full"] for entry in record["training"]] == [False, True]
    assert len(list((here / "runs/tiny/make").glob("0?-sft-*"))) == 2


def test_a_model_made_from_a_made_one_carries_both_histories(here):
    quietly(recipe(here, sft()), "first")
    quietly(recipe(here, sft(learning_rate=1e-3), name="next", base="first"), "second")
    record = load("second").record
    assert [entry["settings"]["learning_rate"] for entry in record["training"]] == [1e-2, 1e-3]
    assert record["parents"][0]["parents"][0]["name"] == str(here / "base")


def test_an_adapter_kept_apart_opens_here_and_in_peft_as_the_merged_model_does(here):
    quietly(recipe(here, sft(merge=False)), "adapter")
    quietly(recipe(here, sft(), name="whole"), "whole")
    assert not (here / "adapter" / "config.json").exists()
    opened = load("adapter")
    assert float((opened.logits(IDS) - load("whole").logits(IDS)).abs().max()) < 1e-5
    assert opened.render([{"role": "user", "content": "sky?"}]) == load("base").render([{"role": "user", "content": "sky?"}])
    assert opened.record["steps"][0]["sft"]["merge"] is False
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    twin = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained("base"), "adapter").eval()
    with torch.no_grad():
        assert float((twin(torch.tensor(IDS)).logits - opened.logits(IDS)).abs().max()) < 1e-4
        merged = twin.merge_and_unload()
        assert float((merged(torch.tensor(IDS)).logits - opened.logits(IDS)).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("base", "words"),
    [("gone", "nothing is called `gone`"), (None, "does not say what it stands on"), ("adapter", "an adapter too")],
)
def test_an_adapter_without_its_base_says_what_is_missing(here, base, words):
    quietly(recipe(here, sft(merge=False)), "adapter")
    config = here / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
    with pytest.raises(ModelFileError, match=words):
        load("adapter")


def test_an_interrupted_making_goes_on_and_ends_with_the_same_model(here):
    path = recipe(here, sft(steps=8), sft(steps=8, full=True))
    straight = quietly(path, "straight", "name=straight")

    def interrupt(line):
        if "step 1/8" in line:
            interrupted.append(line)
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = []
    for step in (1, 2):
        with pytest.raises(TrainingStopped, match=re.escape(f"step {step} (sft)")):
            make(path, "cut", say=interrupt)
        assert not (here / "cut").exists()
    assert quietly(path, "cut").fingerprint == straight.fingerprint and len(interrupted) == 2


def test_changed_settings_start_anew_beside_what_was_there(here):
    path = recipe(here, sft())
    first = quietly(path, "one")
    other = quietly(path, "two", "steps.0.sft.learning_rate=0.001")
    assert first.fingerprint != other.fingerprint
    assert quietly(path, "three").fingerprint == first.fingerprint


def test_what_was_made_here_is_replaced_and_nothing_else_is(here):
    path = recipe(here, sft())
    quietly(path, "taught")
    quietly(path, "taught", "steps.0.sft.learning_rate=0.001")
    assert load("taught").record["steps"][0]["sft"]["learning_rate"] == 0.001
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("years of work")
    for out, words in (("mine", "not made here"), ("base", "not made here|own base"), ("rows.jsonl", "a file stands there")):
        with pytest.raises(SteelyardError, match=words):
            quietly(path, out)
    assert (here / "mine" / "thesis.txt").read_text() == "years of work" and load("base").fingerprint == tiny_talker().fingerprint


def test_nothing_to_make_says_what_to_add(here):
    with pytest.raises(RecipeError, match="no steps"):
        quietly(recipe(here))
    two = {"arms": {"hot": [sft(learning_rate=0.1)], "cold": [sft(learning_rate=1e-5)]}}
    with pytest.raises(RecipeError, match="hot, cold"):
        quietly(recipe(here, **two))
    with pytest.raises(RecipeError, match="Did you mean `cold`"):
        quietly(recipe(here, **two), arm="coled")


def test_one_arm_is_made_by_its_name_or_because_it_is_the_only_one(here):
    arms = {"hot": [sft(learning_rate=0.1)], "cold": [sft(learning_rate=1e-5)]}
    quietly(recipe(here, arms=arms), "hot", arm="hot")
    assert load("hot").record["steps"][0]["sft"]["learning_rate"] == 0.1 and load("hot").record["arm"] == "hot"
    quietly(recipe(here, arms={"cold": arms["cold"]}), "only")
    assert load("only").record["arm"] == "cold"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"quantize": {"bits": 8}}, sft()], r"step 2 \(sft\)[\s\S]*quantize afterwards"),
        ([sft(merge=False), sft()], "keeps its adapter apart"),
        ([sft(), {"fim": {}}], "`fim` changes samples that no later step trains on"),
        ([sft(data="absent.jsonl")], r"step 1 \(sft\)[\s\S]*no such file"),
    ],
)
def test_a_failing_step_is_named_and_leaves_no_directory(here, steps, words):
    with pytest.raises(SteelyardError, match=words):
        quietly(recipe(here, *steps), "out")
    assert not (here / "out").exists()


def test_examples_that_are_not_there_are_missed_before_the_first_step_trains(here):
    with pytest.raises(SteelyardError, match=r"step 2 \(sft\)[\s\S]*no such file"):
        quietly(recipe(here, sft(), sft(data="absent.jsonl")), "out")
    with pytest.raises(SteelyardError, match=r"step 2 \(sft\)[\s\S]*no generator is called `reversals`"):
        quietly(recipe(here, sft(), sft(data="generated:reversals")), "out")
    assert not (here / "runs").exists()


def test_a_recipe_read_before_is_made_as_it_was_read(here):
    made = quietly(recipes.read(recipe(here, sft()), ["seed=4"]), "out")
    assert made.record["seed"] == 4


NEW = """
new: {width: 32, depth: 1, context: 32, channel: {moe: {experts: 4, balance: 1.0}}}
steps: [{pretrain: {data: texts, steps: 4, batch: 4, dtype: float32, learning_rate: 0.01}}]
seed: 1
"""


def test_torchrun_makes_the_model_that_one_process_makes(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("the cat sat on the mat while two dogs ran past. " * 60)
    (tmp_path / "small.yaml").write_text(NEW)
    settings = os.environ | {"OMP_NUM_THREADS": "1", "STEELYARD_HOME": str(tmp_path / "home")}
    alone = [sys.executable, "-m", "steelyard.cli.main"]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "steelyard.cli.main"]
    for name, start in (("one", alone), ("two", together)):
        (tmp_path / name).mkdir()
        command = [*start, "make", "../small.yaml", "-o", "model"]
        done = subprocess.run(command, cwd=tmp_path / name, env=settings, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("saved model") == 1
    one, two = (load(tmp_path / name / "model") for name in ("one", "two"))
    for a, b in zip(one.trunk.parameters(), two.trunk.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-5
