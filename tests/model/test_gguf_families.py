"""GGUF files of ten architectures: the logits of the model they were made from, and nothing believed that they merely claim."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf_models import GEMMAS, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import GROUPED, SMALL, VOCABULARY, config_of, random_ids, reference, their_logits
from transformers import AutoModelForCausalLM

import steelyard
from steelyard.core.errors import ModelFileError, SteelyardError
from steelyard.model.families.family import GGUF_FILES

SHORT = {"max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8.0, "beta_slow": 2.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONG = {"rope_type": "longrope", "rope_theta": 1000.0, "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED | SHORT),
    "llama tied, biases on maps": ("Llama", GROUPED | SHORT | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama wide heads, linear": (
        "Llama",
        GROUPED | SHORT | {"head_dim": 10, "rope_parameters": {"rope_type": "linear", "rope_theta": 99.0, "factor": 2.5}},
    ),
    "llama yarn": ("Llama", GROUPED | SHORT | {"rope_parameters": YARN}),
    "llama3 as divisors": ("Llama", GROUPED | SHORT | {"rope_parameters": LLAMA3}),
    "mistral is a llama": ("Mistral", GROUPED | SHORT | {"sliding_window": None}),
    "qwen2": ("Qwen2", GROUPED | SHORT),
    "qwen2 tied, yarn": ("Qwen2", GROUPED | SHORT | {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen3": ("Qwen3", GROUPED | SHORT | {"head_dim": 12}),
    "gemma": ("Gemma", GROUPED | SHORT | {"head_dim": 12}),
    "gemma2": (
        "Gemma2",
        GROUPED
        | SHORT
        | {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "Gemma3Text",
        GROUPED
        | SHORT
        | {
            "num_hidden_layers": 7,
            "head_dim": 12,
            "query_pre_attn_scalar": 12,
            "sliding_window": 5,
            "final_logit_softcapping": 7.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "gpt2": ("GPT2", {"vocab_size": VOCABULARY, "n_embd": 48, "n_head": 3, "n_layer": 3, "n_positions": 64}),
    "gpt2 untied": (
        "GPT2",
        {"vocab_size": VOCABULARY, "n_embd": 48, "n_head": 3, "n_layer": 2, "n_positions": 64, "n_inner": 50, "tie_word_embeddings": False},
    ),
    "gpt_neox": ("GPTNeoX", SMALL | SHORT | {"num_attention_heads": 3}),
    "gpt_neox sequential": ("GPTNeoX", SMALL | SHORT | {"num_attention_heads": 3, "use_parallel_residual": False}),
    "olmo2": ("Olmo2", GROUPED | SHORT),
    "phi3": ("Phi3", GROUPED | SHORT | {"sliding_window": 6}),
    "phi3 longrope": ("Phi3", GROUPED | SHORT | {"original_max_position_embeddings": 16, "rope_parameters": LONG}),
    "phi3 partial rotary, tied": (
        "Phi3",
        GROUPED | SHORT | {"rope_parameters": {"rope_theta": 300.0, "partial_rotary_factor": 0.5}, "tie_word_embeddings": True},
    ),
}


def model_of(case: str) -> Any:
    kind, values = CASES[case]
    return reference(config_of(kind, **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | values))


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_the_model_a_file_was_made_from(case: str, tmp_path: Path) -> None:
    theirs = model_of(case)
    ids = random_ids()
    expected = their_logits(theirs, ids)
    model = steelyard.load(write_gguf(theirs, tmp_path / "model.gguf"))
    assert model.tokenizer.encode("ab") == [2] and model.context_length == 64
    assert difference(model.logits(ids), expected) < 1e-4
    # And on into a directory, where Gemma's norms and llama's pairs stand in the other order again.
    model.save(tmp_path / "ours")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert difference(their_logits(again.eval(), ids), expected) < 1e-4
    assert difference(steelyard.load(tmp_path / "ours").logits(ids), model.logits(ids)) < 1e-5


@pytest.mark.parametrize("case", ["llama", "qwen2", "phi3", "gemma2", "gemma3"])
def test_transformers_takes_the_files_of_these_tests_for_the_same_models(case: str, tmp_path: Path) -> None:
    theirs = model_of(case)
    path = write_gguf(theirs, tmp_path / "model.gguf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, attn_implementation="eager", dtype=torch.float32)
    held = theirs.state_dict()
    assert all(torch.allclose(tensor, held[name], atol=1e-6) for name, tensor in again.state_dict().items())


def test_the_embedded_model_equals_transformers_own_reading_of_it(smollm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))  # it is made anew for every module
    theirs = AutoModelForCausalLM.from_pretrained(smollm.parent, gguf_file=smollm.name, dtype=torch.float32).eval()
    model = steelyard.load(smollm)
    ids = torch.tensor([model.tokenizer.encode("Weigh it twice: 12,345.6 kg of naïve α-particles\n\tdef f(x): return x")])
    expected = their_logits(theirs, ids)
    assert difference(model.logits(ids), expected) < 1e-4
    model.save(tmp_path / "saved")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert difference(their_logits(again.eval(), ids), expected) < 1e-4


def test_a_file_that_says_little_means_what_llama_cpp_takes_it_to_mean(tmp_path: Path) -> None:
    """Gemma 2 and 3 without windows, caps and bases: their first files."""
    wide = {"rope_type": "default", "rope_theta": 1_000_000.0}
    near = {"rope_type": "default", "rope_theta": 10000.0}
    shape = GROUPED | SHORT | {"num_hidden_layers": 7, "head_dim": 12, "query_pre_attn_scalar": 12}
    changes: dict[str, dict[str, Any]] = {
        "Gemma2": {},
        "Gemma3Text": {"rope_parameters": {"full_attention": wide, "sliding_attention": near}},
    }
    for kind, change in changes.items():
        theirs = reference(config_of(kind, **{"pad_token_id": 0} | shape | change))
        unsaid = (
            "attention.sliding_window",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "rope.freq_base",
            "attention.head_count_kv",
        )
        path = write_gguf(theirs, tmp_path / f"{kind}.gguf", drop=unsaid[:-1])
        assert difference(steelyard.load(path).logits(random_ids()), their_logits(theirs, random_ids())) < 1e-4
    theirs = reference(config_of("Llama", **SMALL | SHORT))
    path = write_gguf(
        theirs, tmp_path / "plain.gguf", drop=("attention.head_count_kv", "attention.key_length", "rope.freq_base", "vocab_size")
    )
    assert difference(steelyard.load(path).logits(random_ids()), their_logits(theirs, random_ids())) < 1e-4


@pytest.mark.parametrize("kind", ["Gemma2", "Gemma3Text"])
def test_the_largest_gemmas_divide_scores_by_their_own_number(kind: str, tmp_path: Path) -> None:
    depth = {"Gemma2": 46, "Gemma3Text": 62}[kind]
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    config = config_of(kind, vocab_size=VOCABULARY, num_hidden_layers=depth, query_pre_attn_scalar=2, pad_token_id=0, **tiny, **SHORT)
    model = steelyard.load(write_gguf(reference(config), tmp_path / "model.gguf"))
    assert {block.mixer.scale for block in model.trunk.plan.depth.blocks} == {2**-0.5}


@pytest.mark.parametrize("pattern", [3, [True, False, True, True, False, False, True]])
def test_a_file_may_say_which_layers_have_windows(pattern: Any, tmp_path: Path) -> None:
    kind, values = CASES["gemma3"]
    types = [(index + 1) % 3 != 0 for index in range(7)] if pattern == 3 else pattern
    named = ["sliding_attention" if windowed else "full_attention" for windowed in types]
    theirs = reference(config_of(kind, pad_token_id=0, **values, layer_types=named))
    path = write_gguf(theirs, tmp_path / "model.gguf", attention__sliding_window_pattern=pattern)
    assert difference(steelyard.load(path).logits(random_ids()), their_logits(theirs, random_ids())) < 1e-4


# ---- what a file merely claims -----------------------------------------------------------------------------------------------

TINY = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "Llama": TINY | SHORT,
    "Qwen3": TINY | SHORT | {"head_dim": 4},
    "Gemma2": TINY | SHORT | {"head_dim": 4, "sliding_window": 5},
    "Gemma3Text": TINY | SHORT | {"head_dim": 4, "sliding_window": 5},
    "GPT2": {"vocab_size": 11, "n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 64},
    "GPTNeoX": TINY | SHORT | {"rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.5}},
    "Olmo2": TINY | SHORT,
    "Phi3": TINY | SHORT | {"rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 1.0}},
}
KEYS = sorted(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "expert_count",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_beta_fast",
        "use_parallel_residual",
    }
)
VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, -1, 2**31, 2**32 - 1, math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-45, 1e38, True, False]),
    st.sampled_from(["", "linear", "yarn", "longrope", "none", "8", "\x00"]),
    st.lists(st.integers(-1, 9), min_size=1, max_size=3),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2),
)


@pytest.fixture(scope="module")
def tiny_models() -> dict[str, Any]:
    return {kind: reference(config_of(kind, pad_token_id=0, **values)) for kind, values in KINDS.items()}


@given(data=st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_metadata_loads_or_is_refused_with_its_address(
    tiny_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    changes = data.draw(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
    path = write_gguf(
        tiny_models[kind], tmp_path_factory.mktemp("any") / "model.gguf", **{key.replace(".", "__"): changes[key] for key in changes}
    )
    try:
        model = steelyard.load(path)
    except SteelyardError as error:
        assert str(path) in str(error) and error.do
    else:
        ids = [1, 2, 3][: model.context_length]
        assert model.logits([ids]).shape == (1, len(ids), 11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention__head_count": 0}, "`attention.head_count` is 0"),
        ({"attention__head_count": 3}, "`embedding_length` is 8, not a multiple of `attention.head_count`, which is 3"),
        ({"attention__head_count": [2, 2]}, r"`attention.head_count` is \[2, 2\], not a whole number"),
        ({"attention__head_count": "2"}, "`attention.head_count` is '2', not a whole number"),
        ({"block_count": 2**31}, "not a whole number from 1 to"),
        ({"block_count": 1}, "not part of this architecture"),
        ({"block_count": 3}, "is missing"),
        ({"attention__layer_norm_rms_epsilon": math.nan}, "nan, not a finite number"),
        ({"attention__layer_norm_rms_epsilon": -0.5}, "0 or more"),
        ({"rope__freq_base": -1.0}, "a number above 0"),
        ({"rope__scaling__type": "ntk"}, "one of none, linear, yarn, longrope"),
        ({"rope__scaling__type": "longrope"}, "longrope without"),
        ({"rope__dimension_count": 2}, "`rope.dimension_count` is 2, which is not built here"),
        ({"expert_count": 8}, "`expert_count` is 8, which is not built here"),
        ({"rope__scaling__type": "yarn", "rope__scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier"),
    ],
)
def test_a_claim_that_cannot_be_is_named(tiny_models: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_gguf(tiny_models["Llama"], tmp_path / "model.gguf", drop=("attention.key_length", "attention.value_length"), **changes)
    with pytest.raises(ModelFileError, match=message):
        steelyard.load(path)


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "attention.head_count", "attention.layer_norm_rms_epsilon"])
def test_a_missing_key_is_named(tiny_models: dict[str, Any], key: str, tmp_path: Path) -> None:
    path = write_gguf(tiny_models["Llama"], tmp_path / "model.gguf", drop=(key,))
    with pytest.raises(ModelFileError, match=f"`{key}` is missing"):
        steelyard.load(path)


@pytest.mark.parametrize("architecture", ["mamba", "", "LLAMA", "BERT"])
def test_an_unknown_architecture_names_the_known_ones(architecture: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match=r"unknown GGUF architecture .*\n.*Known: bert, gemma, gemma2"):
        steelyard.load(tmp_path / "model.gguf")


def test_divisors_that_are_no_divisors_are_refused(tiny_models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf_models

    plain = gguf_models.tensors
    for index, (bad, message) in enumerate(
        [
            (torch.tensor([1.0, 0.0]), "a list of 2 numbers above 0"),
            (torch.tensor([1.0, math.nan]), "a list of 2 numbers above 0"),
            (torch.ones(3), "a list of 2 numbers above 0"),
            (torch.ones(2, 2), "not one row of divisors"),
        ]
    ):
        monkeypatch.setattr(gguf_models, "tensors", lambda *arguments, bad=bad: plain(*arguments) | {"rope_freqs.weight": bad})
        with pytest.raises(ModelFileError, match=message):
            steelyard.load(write_gguf(tiny_models["Llama"], tmp_path / f"{index}.gguf"))


def test_every_architecture_is_held_here() -> None:
    kinds = {"gpt_neox": "gptneox", "gemma3": "gemma3"}
    assert {kinds.get(case.split()[0].rstrip(","), case.split()[0]) for case in CASES} - {"llama3", "mistral"} == set(GGUF_FILES) - {
        "bert"  # an encoder: test_gguf_bert.py
    }
    assert set(GEMMAS) < {"gemma", "gemma2", "gemma3_text", "llama"}


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_file_loads_or_is_refused(
    tiny_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = write_gguf(tiny_models["Llama"], folder / "model.gguf")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        model = steelyard.load(path)
    except SteelyardError as error:
        assert error.do
    else:
        assert model.logits([[1, 2]]).shape[:2] == (1, 2)
