"""Dequantized blocks against the `gguf` library, bit for bit."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import UnsupportedError
from steelyard.model.files import gguf_blocks
from steelyard.model.files.gguf_blocks import BY_NAME, ROUTINES, TYPES, dequantize
from steelyard.model.linears.blocks import BlockStorage

SCALE_BYTES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def random_blocks(kind: str, count: int, seed: int, any_scale: bool = False) -> np.ndarray:
    """Blocks of random bytes; the half-precision scales are finite numbers unless any bits will do."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (count, BY_NAME[kind].bytes), dtype=np.uint8)
    for start in [] if any_scale else SCALE_BYTES[kind]:
        scales = (generator.standard_normal((count, 1)) * 10.0 ** generator.integers(-6, 4, (count, 1))).astype(np.float16)
        blocks[:, start : start + 2] = scales.view(np.uint8)
    return blocks


@pytest.mark.parametrize("kind", ROUTINES)
@given(count=st.integers(1, 9), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_every_block_type_equals_the_gguf_library_bit_for_bit(kind, count, seed):
    blocks = random_blocks(kind, count, seed)
    ours = dequantize(torch.from_numpy(blocks.reshape(-1)), BY_NAME[kind]).numpy()
    theirs = reference(blocks, gguf.GGMLQuantizationType[kind]).reshape(-1)
    assert np.array_equal(ours.view(np.uint32), theirs.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("kind", ROUTINES)
def test_scales_that_are_infinite_or_nan_stay_so(kind):
    blocks = random_blocks(kind, 4000, seed=1, any_scale=True)
    ours = dequantize(torch.from_numpy(blocks.reshape(-1)), BY_NAME[kind]).numpy()
    with np.errstate(all="ignore"):
        theirs = reference(blocks, gguf.GGMLQuantizationType[kind]).reshape(-1)
    assert not np.isfinite(ours).all()
    assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("kind", ROUTINES)
def test_tensors_longer_than_one_chunk_are_whole(kind, monkeypatch):
    blocks = random_blocks(kind, 23, seed=2)
    data = torch.from_numpy(blocks.reshape(-1))
    whole = dequantize(data, BY_NAME[kind])
    monkeypatch.setattr(gguf_blocks, "CHUNK", 4 * BY_NAME[kind].elements)
    assert torch.equal(dequantize(data, BY_NAME[kind]), whole)


@pytest.mark.parametrize("kind", ROUTINES)
def test_blocks_are_unpacked_where_they_lie(kind):
    storage = BlockStorage(torch.from_numpy(random_blocks(kind, 4, seed=1)), BY_NAME[kind], order=torch.tensor([3, 1, 0, 2])).to("meta")
    x = torch.zeros(2, storage.inputs, device="meta")  # a device of shapes alone, which no number of the host's may be mixed with
    assert storage(x).device.type == storage.rows(torch.zeros(3, dtype=torch.int64, device="meta")).device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reading_into_half_precision_rounds_the_float32_value_once(dtype):
    data = torch.from_numpy(random_blocks("Q4_K", 50, seed=3).reshape(-1))
    assert torch.equal(dequantize(data, BY_NAME["Q4_K"], dtype), dequantize(data, BY_NAME["Q4_K"]).to(dtype))


def test_a_tensor_without_elements_has_none():
    assert dequantize(torch.empty(0, dtype=torch.uint8), BY_NAME["Q4_0"]).shape == (0,)


def test_a_type_without_a_routine_is_named():
    with pytest.raises(UnsupportedError, match="IQ4_XS"):
        dequantize(torch.zeros(136, dtype=torch.uint8), BY_NAME["IQ4_XS"])


def test_block_sizes_are_those_of_the_gguf_library():
    theirs = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert {id: (kind.name, kind.elements, kind.bytes) for id, kind in TYPES.items()}.items() <= theirs.items()
