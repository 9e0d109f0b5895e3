"""A model whose engine has its own copy of the weights: what is let go is really gone, and the engine does not notice."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
import weakref
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
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import PromptLookup
from steelyard.model.linears.native import NativeStorage
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
        before = [weakref.ref(tensor) for tensor in (*model.trunk.parameters(), *model.trunk.buffers()) if tensor.dim() >= 2]
        release(model, engine.trunk)
        gc.collect()
        assert before and not any(tensor() is not None for tensor in before)
        assert engine.generate(["The capital of France is"], max_tokens=8)[0].text == said and engine.spec.numerics == numerics


@pytest.mark.parametrize("tied", [False, True])
def test_the_matrices_are_really_let_go(tied: bool, tmp_path: Path) -> None:
    model = steelyard.load(saved(reference(config_of("Llama", pad_token_id=0, tie_word_embeddings=tied, **GROUPED)), tmp_path))
    trunk = model.trunk.with_weights(torch.bfloat16)
    before = [weakref.ref(parameter) for parameter in model.trunk.parameters() if parameter.dim() >= 2]
    release(model, trunk)
    gc.collect()
    assert before and not any(parameter() is not None for parameter in before)
    assert model.trunk.device.type == "cpu"


@pytest.mark.parametrize("stored", [False, True])
def test_a_further_engine_is_made_of_what_the_first_one_holds(stored: bool, smollm) -> None:
    """Nothing is loaded or packed again, and what it is and says is as if it had been made of the file."""
    model = steelyard.load(smollm, "stored") if stored else tiny_talker()
    lever = PromptLookup()
    with Engine.from_spec(lever.decode(EngineSpec(model, context=256, slots=1))) as alone:
        said, known = alone.generate(["one two three one two"], max_tokens=8)[0].tokens, (alone.fingerprint, alone.spec.numerics)
    with Engine(model, context=256, slots=1) as engine:
        release(model, engine.trunk)
        matrices = {id(module.matrix) for module in engine.trunk.modules() if isinstance(module, NativeStorage)}
        with Engine.from_spec(lever.decode(engine.spec)) as further:
            assert {id(module.matrix) for module in further.trunk.modules() if isinstance(module, NativeStorage)} == matrices
            assert further.generate(["one two three one two"], max_tokens=8)[0].tokens == said
            assert (further.fingerprint, further.spec.numerics) == known
        assert engine.generate(["one two three one two"], max_tokens=8)[0].tokens == said


def test_weights_in_the_routines_order_are_told_by_what_they_are() -> None:
    model, other = tiny_talker(), tiny_talker(seed=5)
    with Engine(model) as engine, Engine(other) as another:
        one, two = (dataclasses.replace(made, trunk=running.trunk) for made, running in ((model, engine), (other, another)))
        assert one.fingerprint != two.fingerprint
        assert one.fingerprint == dataclasses.replace(model, trunk=engine.trunk).fingerprint


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
