"""A model whose engine has its own copy of the weights: what is let go is really gone, and the engine does not notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import GROUPED, config_of, reference, saved
from tiny_talker import tiny_talker

import steelyard
from steelyard.compress.quantize.quantize import Quantize
from steelyard.core.meters import memory
from steelyard.generate.engine import Engine
from steelyard.model.released import release


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["auto", "pytorch", "reference"])
@pytest.mark.parametrize("packed", [False, True])
def test_an_engine_answers_as_before_once_the_floats_are_gone(dtype: str, kernels: Any, packed: bool) -> None:
    model = tiny_talker()
    model = Quantize().compress(model, None) if packed else model
    with Engine(model, dtype=dtype, kernels=kernels, deterministic=True) as engine:
        said = engine.generate(["Hello"], max_tokens=8, ignore_eos=True)[0]
        scored = engine.score_text(["some text"])[0].logprob
        before = (engine.fingerprint, engine.spec.numerics, model.fingerprint)
        release(model, engine.trunk)
        again = engine.generate(["Hello"], max_tokens=8, ignore_eos=True)[0]
        assert (again.tokens, engine.score_text(["some text"])[0].logprob) == (said.tokens, scored)
        assert before == (engine.fingerprint, engine.spec.numerics, model.fingerprint)


def test_blocks_are_let_go_too(smollm) -> None:
    model = steelyard.load(smollm, "stored")
    with Engine(model, context=256, slots=1) as engine:
        said, numerics = engine.generate(["The capital of France is"], max_tokens=8)[0].text, engine.spec.numerics
        release(model, engine.trunk)
        kept = [tensor for tensor in (*model.trunk.parameters(), *model.trunk.buffers()) if tensor.dim() >= 2 and not tensor.is_meta]
        assert sum(tensor.numel() for tensor in kept) == 0
        assert engine.generate(["The capital of France is"], max_tokens=8)[0].text == said and engine.spec.numerics == numerics


@pytest.mark.parametrize("tied", [False, True])
def test_the_matrices_are_really_let_go(tied: bool, tmp_path: Path) -> None:
    model = steelyard.load(saved(reference(config_of("Llama", pad_token_id=0, tie_word_embeddings=tied, **GROUPED)), tmp_path))
    trunk = model.trunk.with_weights(torch.bfloat16)
    release(model, trunk)
    kept = [parameter for parameter in model.trunk.parameters() if parameter.dim() >= 2 and not parameter.is_meta]
    assert {parameter.data_ptr() for parameter in kept} == {trunk.inputs.weight.data_ptr()}
    assert model.trunk.device.type == "cpu"


def test_letting_go_loads_nothing_that_costs_more_than_it_gives() -> None:
    # On the way to an empty tensor PyTorch may load its compiler, tens of megabytes that stay.
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tiny_talker import tiny_talker
from steelyard.generate.engine import Engine
from steelyard.model.released import release
model = tiny_talker()
with Engine(model) as engine:
    release(model, engine.trunk)
    engine.generate(["Hello"], max_tokens=2)
print([name for name in ("sympy", "torch._dynamo", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "[]"


def test_freed_memory_goes_back_to_the_system() -> None:
    if not memory.hand_back() or memory.resident() is None:
        pytest.skip("this system's C library cannot be told")
    pieces = [torch.ones(2**18) for _ in range(400)]  # 400 MiB in pieces that the C library keeps
    held = memory.resident() or 0
    del pieces
    assert memory.hand_back() and (memory.resident() or 0) < held - 300 * 2**20
