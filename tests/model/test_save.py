"""Saving: whole or not at all, and what comes back is what went in, packed weights included."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_models import write_gguf
from random_models import GROUPED, SMALL, config_of, random_ids, reference, saved
from safetensors import safe_open
from tiny_talker import tiny_talker
from transformers import AutoModelForCausalLM, AutoTokenizer

import steelyard
from steelyard.compress.quantize.quantize import Quantize
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.model.files import safetensors_file
from steelyard.model.linears.int8 import Int8Storage
from steelyard.model.linears.lora import BRANCH, LowRank

IDS = random_ids()
FUSED = {"vocab_size": 101, "n_embd": 48, "n_head": 3, "n_layer": 2, "n_positions": 64}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("Llama", GROUPED | {"tie_word_embeddings": True}),
    "llama, biases": ("Llama", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "gpt2, transposed and fused": ("GPT2", FUSED),
    "gpt_neox, interleaved": ("GPTNeoX", SMALL | {"num_attention_heads": 3}),
    "phi3, fused": ("Phi3", GROUPED),
    "gemma3": ("Gemma3Text", GROUPED | {"head_dim": 8}),
}


def opened(kind: str, folder: Path) -> Any:
    name, values = KINDS[kind]
    return steelyard.load(saved(reference(config_of(name, **{"pad_token_id": 0} | values)), folder))


def quantized(model: Any, **settings: Any) -> Any:
    return Quantize(**settings).compress(model, None)


def weights_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


# ---- packed weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [False, True], ids=["head left", "head packed"])
def test_packed_models_come_back_bit_for_bit(kind: str, head: bool, tmp_path: Path) -> None:
    model = quantized(opened(kind, tmp_path / "float"), head=head)
    model.save(tmp_path / "int8")
    again = steelyard.load(tmp_path / "int8")
    assert torch.equal(again.logits(IDS), model.logits(IDS))
    assert again.fingerprint == model.fingerprint
    packed = [name for name, module in again.trunk.named_modules() if isinstance(module, Int8Storage)]
    assert len(packed) == len([name for name, module in model.trunk.named_modules() if isinstance(module, Int8Storage)]) > 0
    assert ("heads.lm.linear.storage" in packed) == head
    again.save(tmp_path / "twice")
    assert (tmp_path / "twice" / "model.safetensors").read_bytes() == (tmp_path / "int8" / "model.safetensors").read_bytes()


def test_packed_models_are_really_smaller_on_disk_and_in_memory(tmp_path: Path) -> None:
    model = steelyard.load(
        saved(
            reference(config_of("Llama", **GROUPED | {"hidden_size": 192, "intermediate_size": 512, "tie_word_embeddings": True})),
            tmp_path / "float",
        )
    )
    small = quantized(model)
    small.save(tmp_path / "int8")
    linears = sum(module.weight.numel() for _, module in model.trunk.blocks.named_modules() if hasattr(module, "branches"))
    saving = weights_size(tmp_path / "float") - weights_size(tmp_path / "int8")
    assert saving > 2.8 * linears  # float32 has four bytes a weight, int8 one and a scale a row
    assert model.trunk.weight_bytes() - small.trunk.weight_bytes() > 2.8 * linears
    assert steelyard.load(tmp_path / "int8").trunk.weight_bytes() == small.trunk.weight_bytes()


def test_packed_weights_are_int8_in_the_form_that_compressed_tensors_names(tmp_path: Path) -> None:
    quantized(opened("llama, tied", tmp_path / "float")).save(tmp_path / "int8")
    config = json.loads((tmp_path / "int8" / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["format"], config["ignore"]) == ("compressed-tensors", "int-quantized", ["lm_head"])
    with safe_open(tmp_path / "int8" / "model.safetensors", "pt") as file:
        weight = file.get_tensor("model.layers.0.mlp.up_proj.weight")
        scale = file.get_tensor("model.layers.0.mlp.up_proj.weight_scale")
        assert file.get_tensor("model.embed_tokens.weight").dtype == torch.float32
    with safe_open(tmp_path / "float" / "model.safetensors", "pt") as file:
        original = file.get_tensor("model.layers.0.mlp.up_proj.weight")
    assert weight.dtype == torch.int8 and scale.shape == (80, 1)
    assert ((weight * scale - original).abs() <= scale / 2 * 1.001).all()


def test_a_packed_head_no_longer_shares_the_token_table(tmp_path: Path) -> None:
    model = quantized(opened("llama, tied", tmp_path / "float"), head=True)
    model.save(tmp_path / "int8")
    assert json.loads((tmp_path / "int8" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"quant_method": "gptq"}, "is not read here"),
        (lambda c: c | {"config_groups": []}, "is not read here"),
        (lambda c: c | {"config_groups": {"g": {"weights": {"num_bits": 4, "type": "int", "strategy": "group"}}}}, "is not read here"),
        (
            lambda c: c | {"config_groups": {"g": c["config_groups"]["group_0"] | {"input_activations": {"num_bits": 4}}}},
            "is not read here",
        ),
        (lambda c: {}, "holds torch.int8, not floats|is not part of this architecture"),
        (lambda c: "int8", "is not read here"),
    ],
)
def test_other_packings_are_refused_by_name(change: Any, message: str, tmp_path: Path) -> None:
    quantized(opened("llama, tied", tmp_path / "float")).save(tmp_path / "int8")
    path = tmp_path / "int8" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": change(config["quantization_config"])}))
    with pytest.raises(SteelyardError, match=message):
        steelyard.load(tmp_path / "int8")


def test_a_packed_encoder_gives_the_same_vectors_when_it_comes_back(minilm: Path, tmp_path: Path) -> None:
    model = quantized(steelyard.load(minilm))
    model.save(tmp_path / "int8")
    texts = ["A man is eating food.", "Καλημέρα"]
    assert torch.equal(steelyard.load(tmp_path / "int8").embed(texts), model.embed(texts))
    assert weights_size(tmp_path / "int8") < 0.65 * weights_size(minilm)  # half of MiniLM is its token table, which stays


# ---- whole models ------------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_the_same_model_here_and_to_transformers(tmp_path: Path) -> None:
    model = tiny_talker()
    model.record["note"] = "kept"
    model.save(tmp_path / "model")
    again = steelyard.load(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    assert again.record["note"] == "kept" and set(again.record["files"]) >= {"model.safetensors", "config.json", "tokenizer.json"}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    messages = [{"role": "user", "content": "Hello, wörld"}]
    text = model.render(messages)
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == text
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    assert ids[0].tolist() == again.tokenizer.encode(text)
    with torch.inference_mode():
        assert (theirs(ids).logits - again.logits(ids)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_model_is_saved_in_its_type(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_talker().cast(dtype)
    model.save(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    again = steelyard.load(tmp_path / "half", dtype=str(dtype).removeprefix("torch."))
    assert torch.equal(again.logits([[1, 2, 3]]), model.logits([[1, 2, 3]]))


# ---- the type of the file ----------------------------------------------------------------------------------------------------


def narrow(kind: str, folder: Path, dtype: torch.dtype) -> Path:
    name, values = KINDS[kind]
    return saved(reference(config_of(name, **{"pad_token_id": 0} | values)).to(dtype), folder)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_was_not_changed_is_saved_bit_for_bit_in_the_type_of_its_file(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = narrow(kind, tmp_path / "theirs", dtype)
    model = steelyard.load(theirs)
    model.save(tmp_path / "ours")
    before = {name.removeprefix("transformer.").removeprefix("gpt_neox."): tensor for name, tensor in tensors_of(theirs).items()}
    after = {name.removeprefix("transformer.").removeprefix("gpt_neox."): tensor for name, tensor in tensors_of(tmp_path / "ours").items()}
    assert before.keys() == after.keys()
    assert all(after[name].dtype == dtype and torch.equal(after[name], before[name]) for name in before)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert steelyard.load(tmp_path / "ours").fingerprint == model.fingerprint
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager", dtype=torch.float32).eval()
    with torch.inference_mode():
        assert (again(IDS, use_cache=False).logits - model.logits(IDS)).abs().max() < 1e-4


@pytest.mark.parametrize("change", ["one weight", "a norm", "all of them"])
def test_what_was_changed_is_saved_as_float32_and_nothing_of_it_is_lost(change: str, tmp_path: Path) -> None:
    model = steelyard.load(narrow("llama, biases", tmp_path / "theirs", torch.bfloat16))
    with torch.no_grad():
        for name, parameter in model.trunk.named_parameters():
            if change == "all of them" or name == {"one weight": "blocks.0.channel.up.storage.weight", "a norm": "norm.weight"}[change]:
                parameter.view(-1)[0 if change != "all of them" else slice(None)] += 1e-5
    model.save(tmp_path / "ours")
    kinds = {name: tensor.dtype for name, tensor in tensors_of(tmp_path / "ours").items()}
    wide = {name for name, dtype in kinds.items() if dtype == torch.float32}
    expected = {"one weight": {"model.layers.0.mlp.up_proj.weight"}, "a norm": {"model.norm.weight"}}
    assert wide == (expected[change] if change in expected else set(kinds))
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "float32"
    assert torch.equal(steelyard.load(tmp_path / "ours").logits(IDS), model.logits(IDS))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert again.dtype == torch.float32
    with torch.inference_mode():
        assert (again(IDS, use_cache=False).logits - model.logits(IDS)).abs().max() < 1e-4


def test_a_merged_adapter_widens_only_the_maps_it_changed(tmp_path: Path) -> None:
    model = steelyard.load(narrow("llama, tied", tmp_path / "theirs", torch.bfloat16))
    linear = model.trunk.blocks[0].mixer.query  # type: ignore[union-attr]
    with torch.no_grad():
        linear.storage.weight += 1e-3 * torch.randn_like(linear.storage.weight)
    model.save(tmp_path / "ours")
    assert [name for name, tensor in tensors_of(tmp_path / "ours").items() if tensor.dtype == torch.float32] == [
        "model.layers.0.self_attn.q_proj.weight"
    ]


def test_packed_models_of_bfloat16_files_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = quantized(steelyard.load(narrow("llama, tied", tmp_path / "theirs", torch.bfloat16)))
    model.save(tmp_path / "int8")
    kept = tensors_of(tmp_path / "int8")
    assert kept["model.embed_tokens.weight"].dtype == torch.bfloat16 and kept["model.layers.0.mlp.up_proj.weight"].dtype == torch.int8
    again = steelyard.load(tmp_path / "int8")
    assert torch.equal(again.logits(IDS), model.logits(IDS)) and again.fingerprint == model.fingerprint
    assert json.loads((tmp_path / "int8" / "config.json").read_text())["dtype"] == "float32"


def test_matrices_of_float16_in_gguf_stay_float16(tmp_path: Path) -> None:
    name, values = KINDS["llama, biases"]
    shape = {"hidden_size": 96, "intermediate_size": 64, "max_position_embeddings": 64}
    theirs = reference(config_of(name, **{"pad_token_id": 0} | values | shape))
    path = write_gguf(theirs, tmp_path / "model.gguf", blocks="F16")
    model = steelyard.load(path)
    model.save(tmp_path / "ours")
    kinds = {name: tensor.dtype for name, tensor in tensors_of(tmp_path / "ours").items()}
    assert {dtype for dtype in kinds.values()} == {torch.float16, torch.float32}
    assert all(dtype == torch.float32 for name, dtype in kinds.items() if "norm" in name or name.endswith("bias"))
    assert torch.equal(steelyard.load(tmp_path / "ours").logits(IDS), model.logits(IDS))


def test_saving_over_a_model_replaces_it(tmp_path: Path) -> None:
    tiny_talker(seed=1).save(tmp_path / "model")
    (tmp_path / "model" / "extra.txt").write_text("of the old one")
    model = tiny_talker(seed=2)
    model.save(tmp_path / "model")
    assert steelyard.load(tmp_path / "model").fingerprint == model.fingerprint
    assert os.listdir(tmp_path) == ["model"] and not (tmp_path / "model" / "extra.txt").exists()


def test_a_saved_model_is_as_readable_as_any_new_folder(tmp_path: Path) -> None:
    tiny_talker().save(tmp_path / "model")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode
    for file in (tmp_path / "model").iterdir():
        assert file.stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode, file.name


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(b"picture")
    with pytest.raises(SteelyardError, match="holds no model"):
        tiny_talker().save(tmp_path / "photos")
    (tmp_path / "file").write_text("text")
    with pytest.raises(SteelyardError, match="file"):
        tiny_talker().save(tmp_path / "file")
    assert (tmp_path / "photos" / "one.png").read_bytes() == b"picture" and (tmp_path / "file").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["file", "photos"]


@pytest.mark.parametrize("folder", ["/proc/none/model", "name" * 80, "."])
def test_a_place_that_cannot_be_written_is_named(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SteelyardError, match="cannot be written|cannot be replaced") as caught:
        tiny_talker().save(folder)
    assert caught.value.do and not os.listdir(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_model_and_no_half_of_the_new(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tiny_talker(seed=1)
    old.save(tmp_path / "model")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(safetensors_file, "save_file", full)
    with pytest.raises(SteelyardError, match=r"(?i)space"):
        tiny_talker(seed=2).save(tmp_path / "model")
    monkeypatch.undo()
    assert steelyard.load(tmp_path / "model").fingerprint == old.fingerprint
    assert os.listdir(tmp_path) == ["model"]


def test_branches_that_are_not_merged_are_refused_by_name(tmp_path: Path) -> None:
    model = tiny_talker()
    linear = model.trunk.get_submodule("blocks.1.channel.up")
    linear.branches[BRANCH] = LowRank(32, 48, 2, 4.0)  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError, match=r"blocks\.1\.channel\.up"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists() and not os.listdir(tmp_path)


def test_code_that_a_config_points_to_is_not_pointed_to_again(tmp_path: Path) -> None:
    tiny_talker(auto_map={"AutoModelForCausalLM": "elsewhere--modeling.Model"}).save(tmp_path / "model")
    assert "auto_map" not in json.loads((tmp_path / "model" / "config.json").read_text())


@pytest.mark.parametrize(
    ("bits", "said"), [(8, {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}), (16, None)]
)
def test_bits_of_activations_are_saved_with_the_weights(bits: int, said: Any, tmp_path: Path) -> None:
    model = quantized(opened("llama, tied", tmp_path / "float"), activations=bits)
    model.save(tmp_path / "int8")
    config = json.loads((tmp_path / "int8" / "config.json").read_text())["quantization_config"]
    assert config["config_groups"]["group_0"]["input_activations"] == said
    ids = torch.arange(5, 25)[None]
    assert torch.equal(steelyard.load(tmp_path / "int8").logits(ids), model.logits(ids))
