"""Opening models: every form they come in, and everything that can be wrong with one, refused with an address and a remedy."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import GROUPED, SMALL, change_config, config_of, random_ids, reference, saved, their_logits
from safetensors.torch import load_file, save_file
from tiny_talker import tiny_talker, tiny_tokenizer
from transformers import AutoModelForCausalLM, GPT2Model

import steelyard
from steelyard.core.errors import ContextLengthError, ModelFileError, SteelyardError
from steelyard.model.families.family import FILES

IDS = random_ids()
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with tokenizer and template, as we save it."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    tiny_talker().save(folder)
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return shutil.copytree(whole, tmp_path / "model")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def put_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = tensors_of(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def refused(folder: Path, message: str, **options: Any) -> SteelyardError:
    with pytest.raises(SteelyardError, match=message) as caught:
        steelyard.load(folder, **options)
    assert str(folder) in str(caught.value) and caught.value.do
    return caught.value


# ---- the forms models come in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_every_float_type_and_sharding_is_read_to_the_last_bit(dtype: str, shard: str, tmp_path: Path) -> None:
    theirs = reference(config_of("Llama", **TOKENS, **GROUPED)).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()  # `.float()` would keep rounded rotary angles
    expected = their_logits(theirs, IDS)
    assert (steelyard.load(tmp_path).logits(IDS) - expected).abs().max() < 1e-4


def test_matrices_are_kept_in_the_type_that_is_asked_for(model: Path) -> None:
    loaded = steelyard.load(model, dtype="bfloat16")
    types = {(parameter.dim() >= 2, parameter.dtype) for parameter in loaded.trunk.parameters()}
    assert types == {(True, torch.bfloat16), (False, torch.float32)}
    with pytest.raises(SteelyardError, match="dtype 'int3'"):
        steelyard.load(model, dtype="int3")


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(model: Path, device: str) -> None:
    with pytest.raises(SteelyardError, match=f"device '{device}'"):
        steelyard.load(model, device=device)


def test_a_model_lies_where_it_was_asked_to_unless_it_is_streamed(model: Path) -> None:
    assert {tensor.device.type for tensor in steelyard.load(model, device="meta").trunk.parameters()} == {"meta"}
    with pytest.raises(SteelyardError, match="streamed"):
        steelyard.load(model, keep=0.5, device="meta")


def test_names_with_and_without_their_prefix_are_the_same_model(tmp_path: Path) -> None:
    theirs = reference(config_of("GPT2", vocab_size=101, n_embd=48, n_head=3, n_layer=2, n_positions=64))
    expected = their_logits(theirs, IDS)
    body = theirs.transformer
    assert isinstance(body, GPT2Model)
    body.save_pretrained(tmp_path)  # names without `transformer.`, no head: how GPT-2 was first published
    assert "wte.weight" in tensors_of(tmp_path)
    put_tensors(tmp_path, lambda held: held.update({f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool) for i in range(2)}))
    assert (steelyard.load(tmp_path).logits(IDS) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "buffer"),
    [("Llama", "model.layers.0.self_attn.rotary_emb.inv_freq"), ("GPTNeoX", "gpt_neox.layers.0.attention.rotary_emb.inv_freq")],
)
def test_constants_of_old_checkpoints_are_no_weights(kind: str, buffer: str, tmp_path: Path) -> None:
    saved(reference(config_of(kind, **TOKENS, **SMALL)), tmp_path)
    put_tensors(tmp_path, lambda held: held.update({buffer: torch.ones(4)}))
    steelyard.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Llama", "lm_head.weight"), ("GPT2", "lm_head.weight"), ("GPTNeoX", "embed_out.weight"), ("Gemma", "lm_head.weight")],
)
def test_a_tied_head_may_be_stored_twice_but_only_the_same(kind: str, name: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 101, "n_embd": 48, "n_head": 3, "n_layer": 2} if kind == "GPT2" else GROUPED if kind != "GPTNeoX" else SMALL
    theirs = reference(config_of(kind, **TOKENS | sizes, tie_word_embeddings=True))
    saved(theirs, tmp_path)
    table = theirs.get_input_embeddings().weight.detach().clone()
    put_tensors(tmp_path, lambda held: held.update({name: table}))
    assert (steelyard.load(tmp_path).logits(IDS) - their_logits(theirs, IDS)).abs().max() < 1e-4
    put_tensors(tmp_path, lambda held: held.update({name: table + 1e-3}))
    refused(tmp_path, "differs from the token table, but the config ties the two")
    put_tensors(tmp_path, lambda held: held.update({name: table[:-1].clone()}))
    refused(tmp_path, "has the shape")


def test_a_model_without_a_tokenizer_takes_ids_and_says_so(tmp_path: Path) -> None:
    loaded = steelyard.load(saved(reference(config_of("Llama", **TOKENS, **GROUPED)), tmp_path))
    assert loaded.tokenizer is None and loaded.template is None
    loaded.logits(IDS)
    with pytest.raises(SteelyardError, match="tokenizer"):
        steelyard.Engine(loaded)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    refused(tmp_path, "there is no tokenizer")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors", "steelyard.json"])
def test_what_is_no_file_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()
    (model / name).mkdir()
    refused(model, "not a regular file")


def test_ids_and_lengths_are_checked_before_anything_is_computed(model: Path) -> None:
    loaded = steelyard.load(model)
    for ids, message in (
        ([[0, 260]], "do not exist: the model has 260"),
        ([[-1]], "do not exist"),
        ([], "of shape"),
        ([1, 2], "of shape"),
        ([[]], "of shape"),
        ([[1.5]], "float32 of shape"),
        ([[True]], "bool of shape"),
        ([["a"]], "no token ids"),
        ([[1], [1, 2]], "no token ids"),
        ([[2**63]], "no token ids|do not exist"),
    ):
        with pytest.raises(SteelyardError, match=message):
            loaded.logits(ids)
    assert loaded.logits([[1] * 256]).shape == (1, 256, 260)
    with pytest.raises(ContextLengthError, match="257"):
        loaded.logits([[1] * 257])


def test_opening_the_same_files_twice_gives_the_same_fingerprint(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert steelyard.load(model).fingerprint == steelyard.load(copy).fingerprint
    put_tensors(copy, lambda held: held["model.norm.weight"].mul_(1.0001))
    assert steelyard.load(model).fingerprint != steelyard.load(copy).fingerprint


# ---- configs that cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ('{"model_type": "llama", "model_type": "llama"}', "appears twice"),
        ('{"rms_norm_eps": NaN}', "NaN is not JSON"),
        ('{"rms_norm_eps": Infinity}', "Infinity is not JSON"),
        ("[" * 100_000, "nested beyond reason|not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
        ("{}", "unknown model_type None"),
    ],
)
def test_a_config_that_is_no_config_is_refused(model: Path, text: str, message: str) -> None:
    (model / "config.json").write_text(text)
    refused(model, message)


def test_bytes_that_are_no_text_are_refused(model: Path) -> None:
    (model / "config.json").write_bytes(b'{"model_type": "\xff"}')
    refused(model, "not valid JSON")
    (model / "config.json").unlink()
    refused(model, "there is no config.json")
    (model / "config.json").mkdir()
    refused(model, "not a regular file")


@pytest.mark.parametrize("model_type", ["retnet", "lama", "", None, 7, ["llama"], {"a": 1}, True, "../llama", "llama\x00"])
def test_an_unknown_model_type_names_the_known_ones(model: Path, model_type: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": model_type}))
    error = refused(model, "unknown model_type")
    assert all(name in str(error.do) for name in FILES)


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")


@pytest.mark.parametrize("key", [*SIZES, "max_position_embeddings", "head_dim"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, 10**400, 1.5, "8", True, [8], {"a": 8}])
def test_a_size_that_no_model_has_is_refused_with_its_key(model: Path, key: str, value: Any) -> None:
    change_config(model, **{key: value})
    assert key in refused(model, "not a whole number").what


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 33}, "`hidden_size` is 33, not a multiple of `num_attention_heads`, which is 4"),
        ({"num_key_value_heads": 3}, "not a multiple of `num_key_value_heads`, which is 3"),
        ({"num_attention_heads": 32, "num_key_value_heads": 32}, "rotary positions over 1 of 1"),
        ({"head_dim": 7}, "rotary positions over 7 of 7"),
        ({"rms_norm_eps": -1e-5}, "`rms_norm_eps` is -1e-05, not 0 or more"),
        ({"rms_norm_eps": "1e-5"}, "not a finite number"),
        ({"rms_norm_eps": 1e300}, "not a finite number"),
        ({"hidden_act": "softmax"}, "`hidden_act` is 'softmax', not one of"),
        ({"hidden_act": ["silu"]}, "not one of"),
        ({"tie_word_embeddings": "yes"}, "not true or false"),
        ({"attention_bias": 1}, "not true or false"),
        ({"rope_theta": 0}, "not a number above 0"),
        ({"rope_theta": -10000.0}, "not a number above 0"),
        ({"rope_scaling": {"rope_type": "magic", "factor": 2}}, "`magic` is not known"),
        ({"rope_scaling": {"rope_type": "linear"}}, "`factor` is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "not a number above 0"),
        ({"rope_scaling": "linear"}, "not a mapping"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}},
            "different from `low_freq_factor`",
        ),
        ({"rope_scaling": {"rope_type": "longrope", "long_factor": [1, 2], "short_factor": []}}, "a list of 4 numbers above 0"),
        ({"rope_scaling": {"rope_type": "longrope", "long_factor": [1, 2, 3, 0], "short_factor": [1] * 4}}, "above 0"),
        ({"rope_parameters": []}, "not a mapping"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"rope_type": "linear", "factor": 2}}, "disagree on how positions turn"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes.*is not read here"),
        ({"quantization_config": "gptq"}, "is not read here"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_value(model: Path, changes: dict[str, Any], message: str) -> None:
    change_config(model, **changes)
    refused(model, message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_config_loads_or_is_refused(whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    model = shutil.copytree(whole, tmp_path_factory.mktemp("any") / "model")
    path = model / "config.json"
    config = json.loads(path.read_text())
    kind = data.draw(st.sampled_from(sorted(FILES)))
    keys = st.sampled_from(
        [*sorted(set(config) - {"architectures"}), "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "head_dim"]
    )
    changes = data.draw(st.dictionaries(keys, JSON, max_size=3))
    path.write_text(json.dumps(config | {"model_type": kind} | changes))
    try:
        loaded = steelyard.load(model)
    except SteelyardError as error:
        assert str(model) in str(error) and error.do
    else:
        assert torch.isfinite(loaded.logits([[1, 2, 3]])).all()


# ---- code that must not run --------------------------------------------------------------------------------------------------


def test_code_beside_a_model_is_never_run(model: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    code = f"import pathlib\npathlib.Path({str(trap)!r}).touch()\nclass Model: pass\nclass Config: pass\n"
    for name in ("modeling_trap.py", "configuration_trap.py", "tokenization_trap.py"):
        (model / name).write_text(code)
    expected = steelyard.load(model).logits([[1, 2, 3]])
    auto = {"AutoModelForCausalLM": "modeling_trap.Model", "AutoConfig": "configuration_trap.Config"}
    change_config(model, auto_map=auto)
    tokenizer = model / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"auto_map": {"AutoTokenizer": ["tokenization_trap.Model", None]}}))
    loaded = steelyard.load(model)
    assert torch.equal(loaded.logits([[1, 2, 3]]), expected)  # a known model_type is our own code, whatever else is named
    loaded.save(tmp_path / "saved")
    assert "auto_map" not in (tmp_path / "saved" / "config.json").read_text() + (tmp_path / "saved" / "tokenizer_config.json").read_text()
    change_config(model, model_type="trap")
    refused(model, "unknown model_type 'trap'")
    assert not trap.exists() and not [name for name in sys.modules if name.endswith("_trap")]


class Explosive:
    """What a pickle can do when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "model.ckpt", "model.pkl"])
def test_a_pickle_is_refused_unopened_with_a_way_out(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps({"weight": Explosive()}))
    error = refused(model, "it is a pickle, and opening a pickle can run any code")
    assert "safetensors" in str(error.do) and not (model / "exploded").exists()


@pytest.mark.parametrize(
    "content", [pickle.dumps({"a": Explosive()}), b"PK\x03\x04" + bytes(200), b"GGUF" + bytes(200), b"<html>" + bytes(99)]
)
def test_a_pickle_under_another_name_is_refused_too(model: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    (model / "model.safetensors").write_bytes(content)
    refused(model, "not a safetensors file but")
    assert not (model / "exploded").exists()


# ---- weights that lie --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "tensor `model.norm.weight` is missing"),
        (lambda t: t.update({"extra.weight": torch.ones(2)}), r"tensor `extra.weight` \[2\] is not part of this architecture"),
        (lambda t: t.update({"model.norm.weight": torch.ones(31)}), r"has the shape \[31\], but the config calls for \[32\]"),
        (lambda t: t.update({"model.norm.weight": torch.ones(1, 32)}), r"has the shape \[1, 32\]"),
        (lambda t: t.update({"model.norm.weight": torch.tensor(1.0)}), r"has the shape \[\]"),
        (
            lambda t: t["model.layers.1.mlp.up_proj.weight"].view(-1)[7:9].fill_(math.nan),
            "`model.layers.1.mlp.up_proj.weight` has 2 NaN of",
        ),
        (lambda t: t["model.embed_tokens.weight"].view(-1)[-1:].fill_(-math.inf), "`model.embed_tokens.weight` has 1 infinite of"),
        (lambda t: t["model.norm.weight"].fill_(math.nan), "has 32 NaN of 32"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int64)}), "holds torch.int64, not floats"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.bool)}), "holds torch.bool, not floats"),
    ],
)
def test_weights_that_do_not_fit_are_named(model: Path, change: Any, message: str) -> None:
    put_tensors(model, change)
    refused(model, message)


def test_weights_beyond_the_type_that_is_asked_for_are_refused(model: Path) -> None:
    put_tensors(model, lambda held: held["model.layers.0.mlp.up_proj.weight"].view(-1)[0].fill_(1e6))
    steelyard.load(model)
    refused(model, "1 infinite of .* as float16", dtype="float16")


def test_many_disagreements_are_told_in_one_error_of_readable_length(model: Path) -> None:
    change_config(model, intermediate_size=50, num_hidden_layers=9)
    error = refused(model, "and [0-9]+ more")
    assert len(str(error)) < 2000 and "`model.layers.2.input_layernorm.weight` is missing" in error.what


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, -1, -100])
def test_a_truncated_file_is_refused(model: Path, keep: int) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(model, "truncated|only|not valid JSON|header")


@pytest.mark.parametrize("length", [0, 2**31, 2**62, 2**64 - 1])
def test_an_absurd_declared_length_is_refused_before_anything_is_allocated(model: Path, length: int) -> None:
    path = model / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refused(model, "header|not valid JSON")


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_flipped_bits_load_or_are_refused(whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    model = shutil.copytree(whole, tmp_path_factory.mktemp("flipped") / "model")
    file = data.draw(st.sampled_from(["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "steelyard.json"]))
    content = bytearray((model / file).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 9000) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (model / file).write_bytes(content)
    try:
        loaded = steelyard.load(model)
    except SteelyardError as error:
        assert error.do
    else:
        loaded.logits([[1, 2, 3]])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no weights"),
        ({"adapter_model.safetensors": b""}, "holds an adapter, not a model"),
        ({"model-Q4_0.gguf": b"GGUF"}, r"holds GGUF, not safetensors"),
        ({"weights.safetensors": b""}, "holds no `model.safetensors`, only"),
        ({"model-00001-of-00002.safetensors": b""}, "holds shards but no"),
    ],
)
def test_a_directory_without_a_model_says_what_it_holds(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    refused(tmp_path, message)


# ---- tokenizers that belong elsewhere ----------------------------------------------------------------------------------------


def test_a_tokenizer_that_begins_texts_with_a_token_without_a_row_is_refused(model: Path) -> None:
    tokenizer = tiny_tokenizer(begins=True)
    tokenizer.backend.add_special_tokens(["<|late|>"])
    late = tokenizer.backend.token_to_id("<|late|>")
    shutil.rmtree(model)
    talker = tiny_talker()
    tokenizer = type(tokenizer)(tokenizer.backend, bos_id=late, eos_ids=tokenizer.eos_ids, pad_id=0, prefix_ids=(late,))
    replace(talker, tokenizer=tokenizer, config=dict(talker.config) | {"bos_token_id": late}).save(model)
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<|late|>", "add_bos_token": True}))
    refused(model, r"reads '<\|late\|>' \(260\) around every text, but the model has 260 rows")


def test_a_wrong_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteelyardError):
        steelyard.load(tmp_path / "absent")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        steelyard.load(tmp_path / "empty.gguf")
    (tmp_path / "model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(SteelyardError):
        steelyard.load(tmp_path / "model.bin")
