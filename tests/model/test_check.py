"""What `inspect --check` and every load notice about weights."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ModelFileError
from steelyard.model.files.check import (
    FiniteSource,
    check_tensors,
    digests,
    finite_problem,
    has_digests,
    is_buffer,
    refuse,
    verify_digests,
    write_digests,
)
from steelyard.model.files.safetensors_file import SafetensorsFile, write_safetensors

SHAPES = {"embed": (4, 3), "norm": (3,)}


@pytest.fixture
def opened(tmp_path):
    """Writes tensors and opens them: a source over a real file."""
    sources = []

    def build(**changes):
        tensors = {"embed": torch.ones(4, 3), "norm": torch.ones(3)} | changes
        (path,) = write_safetensors(tmp_path, {name: tensor for name, tensor in tensors.items() if tensor is not None})
        sources.append(SafetensorsFile(path))
        return sources[-1]

    yield build
    for source in sources:
        source.close()


def test_weights_that_fit_their_config_have_no_problem(opened):
    assert check_tensors(opened(), SHAPES, "model") == []


def test_a_shape_that_disagrees_is_named_with_both_shapes(opened):
    assert check_tensors(opened(embed=torch.ones(3, 4)), SHAPES, "model") == [
        "tensor `embed` has the shape [3, 4], but the config calls for [4, 3]"
    ]


def test_missing_and_unexpected_tensors_are_all_named(opened):
    problems = check_tensors(opened(norm=None, extra=torch.ones(2)), SHAPES | {"head": (4, 3)}, "model")
    assert problems == [
        "tensor `norm` is missing",
        "tensor `head` is missing",
        "tensor `extra` [2] is not part of this architecture",
    ]
    assert check_tensors(opened(norm=None), SHAPES, "model", optional={"norm"}) == []


def test_nan_and_infinite_weights_are_named_and_counted(opened):
    embed = torch.ones(4, 3)
    embed[0, 0], embed[1, 1], embed[2, 2] = torch.nan, torch.nan, -torch.inf
    assert check_tensors(opened(embed=embed), SHAPES, "model") == ["tensor `embed` has 2 NaN and 1 infinite of 12 weights"]
    assert check_tensors(opened(embed=embed), SHAPES, "model", finite=False) == []


def test_a_tensor_that_cannot_be_read_is_a_problem_and_does_not_stop_the_check(opened):
    source = opened(embed=torch.full((4, 3), torch.inf))
    last = source.names()[-1]
    source.path.open("r+b").truncate(source.tensors[last].offset + 2)
    problems = check_tensors(source, SHAPES | {"head": (1,)}, str(source.path))
    assert problems[0] == "tensor `head` is missing"
    assert problems[-1] == "became shorter while it was read"


def test_problems_become_one_error_of_readable_length():
    refuse([], "model/")
    with pytest.raises(ModelFileError, match=r"model/: problem 0; problem 1; and 298 more"):
        refuse([f"problem {i}" for i in range(300)], "model/", most=2)


@given(
    size=st.integers(1, 70),
    position=st.integers(0, 69),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_one_bad_weight_is_found_wherever_it_stands(size, position, value, dtype):
    tensor = torch.linspace(-6e4, 6e4, size).to(dtype)
    assert finite_problem("w", tensor) is None
    tensor[position % size] = value
    assert "has 1 " in (finite_problem("w", tensor) or "")


def test_integers_and_empty_tensors_have_no_infinities():
    assert finite_problem("w", torch.ones(3, dtype=torch.int8)) is None
    assert finite_problem("w", torch.ones(0)) is None


@pytest.mark.parametrize(
    "name, known",
    [
        ("model.layers.3.self_attn.rotary_emb.inv_freq", True),
        ("transformer.h.0.attn.bias", True),
        ("h.11.attn.masked_bias", True),
        ("gpt_neox.layers.0.attention.bias", True),
        ("embeddings.position_ids", True),
        ("h.0.attn.c_attn.bias", False),
        ("model.layers.3.self_attn.q_proj.bias", False),
        ("rope_freqs.weight", False),
    ],
)
def test_constants_of_old_checkpoints_are_told_from_weights(name, known):
    assert is_buffer(name) is known


def test_a_finite_source_refuses_bad_weights_as_they_are_read(opened):
    source = FiniteSource(opened(norm=torch.tensor([1.0, torch.nan, 1e30])), "model/")
    assert source.shape("norm") == (3,) and torch.equal(source.read("embed"), torch.ones(4, 3))
    with pytest.raises(ModelFileError, match="model/: tensor `norm` has 1 NaN of 3 weights"):
        source.read("norm")


def test_a_weight_that_overflows_the_type_it_is_read_into_is_refused(opened):
    source = FiniteSource(opened(norm=torch.tensor([1.0, 2.0, 1e30])), "model/")
    assert source.read("norm")[2] == 1e30
    with pytest.raises(ModelFileError, match="1 infinite of 3 weights as float16"):
        source.read("norm", torch.float16)


@pytest.fixture
def saved(tmp_path):
    """A model directory with digests."""
    write_safetensors(tmp_path, {"embed": torch.ones(4, 3)})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "steelyard.json").write_text(json.dumps({"parents": ["a"], "seeds": [7]}))
    write_digests(tmp_path)
    return tmp_path


def test_digests_are_kept_beside_what_the_record_held(saved):
    record = json.loads((saved / "steelyard.json").read_text())
    assert record["parents"] == ["a"] and record["files"] == digests(saved)
    assert sorted(record["files"]) == ["config.json", "model.safetensors"]
    assert verify_digests(saved) == []


def test_one_flipped_bit_in_a_finite_weight_is_noticed(saved):
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with SafetensorsFile(path) as source:
        assert check_tensors(source, {"embed": (4, 3)}, str(saved)) == []
    assert verify_digests(saved) == ["file `model.safetensors` is not the one that was saved: its SHA-256 differs"]


def test_missing_and_added_files_are_noticed_and_a_readme_is_free(saved):
    (saved / "config.json").unlink()
    (saved / "chat_template.jinja").write_text("{{ messages }}")
    (saved / "README.md").write_text("another card")
    assert verify_digests(saved) == ["file `config.json` is missing", "file `chat_template.jinja` was added after the model was saved"]


def test_a_model_from_elsewhere_has_no_digests(tmp_path):
    assert not has_digests(tmp_path) and verify_digests(tmp_path) == []
    (tmp_path / "steelyard.json").write_text("{}")
    assert not has_digests(tmp_path) and verify_digests(tmp_path) == []


@pytest.mark.parametrize(
    "files, message",
    [
        ([], "not a map"),
        ({"a": 3}, "not a map"),
        ({"a": "ff"}, "not a map"),
        ({"../a": "0" * 64}, "not a file"),
        ({"/etc/passwd": "0" * 64}, "not a file"),
    ],
)
def test_a_record_that_cannot_be_trusted_is_refused(tmp_path, files, message):
    (tmp_path / "steelyard.json").write_text(json.dumps({"files": files}))
    with pytest.raises(ModelFileError, match=message):
        verify_digests(tmp_path)
