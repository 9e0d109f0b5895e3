"""`steelyard inspect`: what a model is, and with --check an exit status that can be trusted."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_models import write_gguf
from random_models import GROUPED, change_config, config_of, reference, saved
from safetensors.torch import load_file, save_file
from tiny_talker import tiny_talker, tiny_tokenizer
from typer.testing import CliRunner

import steelyard
from steelyard.cli.main import app
from steelyard.compress.quantize.quantize import Quantize
from steelyard.model.adapters import save_adapter
from steelyard.model.inspect import inspect, problems
from steelyard.model.linears.lora import BRANCH, LowRank


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    tiny_talker().save(folder)
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def check(path: Path) -> tuple[int, list[str]]:
    """Exit status and problems of `steelyard inspect PATH --check --json`."""
    result = CliRunner().invoke(app, ["inspect", str(path), "--check", "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])["problems"] if result.exit_code < 2 else [result.output]


def change_tensor(folder: Path, name: str, index: int, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[index] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_whole_model_has_no_problems(model: Path, tmp_path: Path) -> None:
    assert check(model) == (0, [])
    Quantize().compress(steelyard.load(model), None).save(tmp_path / "int8")
    assert check(tmp_path / "int8") == (0, [])
    theirs = reference(config_of("Llama", **GROUPED, pad_token_id=0))
    assert check(saved(theirs, tmp_path / "theirs")) == (0, [])
    assert check(write_gguf(theirs, tmp_path / "model.gguf")) == (0, [])


def test_real_models_have_no_problems(minilm: Path) -> None:
    assert check(minilm) == (0, [])


def test_what_a_model_is_is_told_without_reading_its_weights(model: Path, tmp_path: Path) -> None:
    told = inspect(model)
    assert "problems" not in told
    assert told["family"] == "llama" and told["architecture"] == "LlamaForCausalLM" and told["tokenizer"] == "tokenizer.json"
    assert (told["context"], told["width"], told["depth"], told["vocabulary"], told["heads"]) == (256, 32, 2, 260, ["lm"])
    loaded = steelyard.load(model)
    assert told["parameters"] == sum(parameter.numel() for parameter in loaded.trunk.parameters())
    assert told["bytes"] == (model / "model.safetensors").stat().st_size and told["stored_as"] == {"F32": told["tensors"]}
    Quantize().compress(loaded, None).save(tmp_path / "int8")
    packed = inspect(tmp_path / "int8")
    assert packed["parameters"] == told["parameters"] and packed["stored_as"]["I8"] == 14
    gguf = inspect(write_gguf(reference(config_of("Qwen2", **GROUPED)), tmp_path / "model.gguf"))
    assert gguf["family"] == "qwen2" and gguf["tokenizer"] == "in the file" and "GGUF" in gguf["opens_in"]


def test_one_flipped_bit_of_a_finite_weight_is_noticed(model: Path) -> None:
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    steelyard.load(model)  # it opens, and nothing else could tell
    status, found = check(model)
    assert status == 1 and len(found) == 1 and "`model.safetensors` is not the one that was saved" in found[0]


def test_every_bad_tensor_is_named_and_digests_too(model: Path) -> None:
    change_tensor(model, "model.norm.weight", 3, math.nan)
    change_tensor(model, "model.layers.1.mlp.up_proj.weight", 5, math.inf)
    status, found = check(model)
    assert status == 1
    for part in ("SHA-256 differs", "`model.norm.weight` has 1 NaN of 32", "`model.layers.1.mlp.up_proj.weight` has 1 infinite of"):
        assert any(part in problem for problem in found), part
        assert sum(part in problem for problem in found) == 1, "told once"


def test_code_that_a_config_asks_for_is_named_as_ignored(model: Path) -> None:
    assert "ignored" not in inspect(model)
    change_config(model, auto_map={"AutoModelForCausalLM": "evil.Model"})
    assert "auto_map" in inspect(model)["ignored"][0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: change_config(m, intermediate_size=47), "the config calls for [47, 32]"),
        (lambda m: change_config(m, num_hidden_layers=1), "is not part of this architecture"),
        (lambda m: change_config(m, num_hidden_layers=3), "is missing"),
        (lambda m: (m / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda m: (m / "chat_template.jinja").write_text("{% for %}"), "template"),
        (lambda m: (m / "chat_template.jinja").write_text("{% for i in range(10**9) %}x{% endfor %}"), "chat_template"),
        (lambda m: (m / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}"), "chat_template"),
        (lambda m: (m / "steelyard.json").write_text('{"files": {"../x": "0"}}'), "steelyard.json"),
        (lambda m: (m / "extra.json").write_text("{}"), "`extra.json` was added"),
        (lambda m: (m / "tokenizer.json").unlink(), "`tokenizer.json` is missing"),
    ],
)
def test_what_is_wrong_is_a_problem_and_an_exit_status(model: Path, damage: Any, message: str) -> None:
    damage(model)
    status, found = check(model)
    assert status == 1 and any(message in problem for problem in found), found


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: (m / "config.json").write_text("{"),
        lambda m: change_config(m, model_type="retnet"),
        lambda m: change_config(m, hidden_size=-8),
        lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:-1]),
        lambda m: (m / "model.safetensors").unlink(),
        lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"),
    ],
)
def test_files_that_do_not_even_say_what_they_are_end_with_status_2(model: Path, damage: Any) -> None:
    damage(model)
    status, (output,) = check(model)
    assert status == 2 and "Traceback" not in output


def test_a_truncated_or_flipped_gguf_file_is_a_problem(tmp_path: Path) -> None:
    path = write_gguf(reference(config_of("Llama", **GROUPED, pad_token_id=0)), tmp_path / "model.gguf")
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    assert check(path)[0] == 2
    flipped = bytearray(content)
    flipped[-1] |= 0x7F  # the last weight's exponent
    flipped[-2] |= 0x80
    path.write_bytes(flipped)
    status, found = check(path)
    assert status == 1 and any("of 4848 weights" in problem or "weights" in problem for problem in found)


def test_ordinary_tokens_without_a_row_are_a_problem_and_spare_special_ones_are_not(model: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend.add_special_tokens(["<picture>"])
    tokenizer.save(model)
    (model / "steelyard.json").unlink()
    assert problems(model) == []
    tokenizer.backend.add_tokens(["zebra", "yak"])
    tokenizer.save(model)
    status, found = check(model)
    assert status == 1 and "2 tokens of the tokenizer have no row in the model, which has 260; the first is 'zebra' (261)" in found[0]


def test_an_answer_that_could_never_end_is_a_problem(model: Path) -> None:
    (model / "steelyard.json").unlink()
    (model / "generation_config.json").write_text('{"eos_token_id": [300]}')
    status, found = check(model)
    assert status == 1 and "the token that ends an answer (300) has no row" in found[0]


def test_weights_that_overflow_in_use_are_a_problem(model: Path) -> None:
    (model / "steelyard.json").unlink()
    change_tensor(model, "model.norm.weight", 0, 3e38)
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"].mul_(1e4)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    assert any("not finite" in problem for problem in problems(model))


def test_problems_are_shown_to_people_too(model: Path) -> None:
    change_tensor(model, "model.norm.weight", 3, math.nan)
    result = CliRunner().invoke(app, ["inspect", str(model), "--check"])
    assert result.exit_code == 1 and "model.norm.weight" in result.output
    assert CliRunner().invoke(app, ["inspect", str(model)]).exit_code == 0
    assert torch.isnan(load_file(model / "model.safetensors")["model.norm.weight"]).sum() == 1


def test_how_a_model_came_to_be_is_told(tmp_path: Path) -> None:
    talker = tiny_talker()
    talker.record |= {"parents": [{"name": "before", "fingerprint": "f"}], "steps": [], "card": "# Long text"}
    talker.save(tmp_path / "model")
    assert inspect(tmp_path / "model")["made_from"] == {"parents": [{"name": "before", "fingerprint": "f"}], "steps": []}


def test_an_adapter_is_described_and_checked_on_its_base(model: Path, tmp_path: Path) -> None:
    loaded = steelyard.load(model)
    linear: Any = loaded.trunk.get_submodule("blocks.1.channel.up")
    linear.branches[BRANCH] = LowRank(32, 48, 2, 4.0)
    linear.branches[BRANCH].draw(torch.Generator().manual_seed(0))
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(loaded.family, loaded.trunk, folder, str(model))
    told = inspect(folder)
    assert told["family"] == "adapter" and told["base"] == str(model) and told["rank"] == 2 and told["parameters"] == 2 * (32 + 48)
    assert told["bytes"] < 0.1 * inspect(model)["bytes"]
    assert check(folder) == (0, [])
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = math.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    status, found = check(folder)
    assert status == 1 and any("1 NaN of" in problem for problem in found)
    shutil.rmtree(model)
    assert any("cannot be opened" in problem for problem in check(folder)[1])
