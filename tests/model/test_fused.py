"""Whole steps in C++ say what the trunk says: over families, with any rows side by side, and bit by bit alike in any company."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from random_models import GROUPED, SMALL, VOCABULARY, config_of, reference, saved

from steelyard.kernels import native
from steelyard.model.activations import ACTIVATIONS
from steelyard.model.channels.feed_forward import FeedForwardPlan
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.fused import FusedTrunk, fused, lack
from steelyard.model.inputs.tokens import TokensPlan
from steelyard.model.linears.native import NativeStorage, go_native
from steelyard.model.load import load
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.narrow_state import Narrow
from steelyard.model.sites import Add, SiteProgram
from steelyard.model.state import Dense, Storage
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk, TrunkPlan

HERE = [name for name in native.SETS if native.routines_for(name) is not None]
pytestmark = pytest.mark.skipif(not HERE, reason=native.absence() or "no C++ routines")

CPU = torch.device("cpu")
CAPACITY = 640
"""More than two stretches of keys."""
WIDE = {"head_dim": 16}
LLAMA = ("Llama", GROUPED | WIDE)
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 3}
FAMILIES = {
    "llama": LLAMA,
    "one key/value head, odd sizes": ("Llama", SMALL | WIDE | {"num_key_value_heads": 1, "hidden_size": 54, "intermediate_size": 37}),
    "untied, scaled": ("Llama", GROUPED | WIDE | {"tie_word_embeddings": False, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "mistral, a window": ("Mistral", GROUPED | WIDE | {"sliding_window": 70}),
    "qwen2, biases": ("Qwen2", GROUPED | {"hidden_size": 96}),
    "qwen3, normed heads": ("Qwen3", GROUPED | {"head_dim": 32}),
    "gemma": ("Gemma", GROUPED | WIDE),
    "gemma2, caps and norms after": ("Gemma2", GROUPED | WIDE | {"sliding_window": 65, "query_pre_attn_scalar": 12}),
    "gemma3, two kinds of angles": ("Gemma3Text", GROUPED | WIDE | {"sliding_window": 65, "rope_local_base_freq": 5000.0}),
    "phi3": ("Phi3", GROUPED | {"hidden_size": 96, "pad_token_id": 0}),
    "olmo2, norms after and over all heads": ("Olmo2", GROUPED | WIDE),
    "olmo2, each head a key of its own": ("Olmo2", SMALL | {"hidden_size": 60}),
    "gpt2": ("GPT2", GPT2),
    "gpt2, exact gelu, odd sizes": ("GPT2", GPT2 | {"n_embd": 54, "n_head": 3, "n_inner": 37, "activation_function": "gelu"}),
    "gpt2, relu": ("GPT2", GPT2 | {"activation_function": "relu", "scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox, parts side by side": ("GPTNeoX", SMALL | {"hidden_size": 96, "rotary_pct": 0.25}),
    "gpt_neox, one after the other": ("GPTNeoX", SMALL | {"hidden_size": 96, "use_parallel_residual": False, "rotary_pct": 1.0}),
    "gpt_neox, without biases": ("GPTNeoX", SMALL | {"hidden_size": 84, "attention_bias": False, "rotary_pct": 0.45}),
    "heads of 8 numbers": ("Llama", GROUPED),
    "heads of 20 numbers": ("Llama", GROUPED | {"head_dim": 20}),
    "heads of 72 numbers": ("Qwen3", GROUPED | {"head_dim": 72}),
}

OF_EACH_KIND = ("llama", "olmo2, norms after and over all heads", "gpt2, exact gelu, odd sizes", "gpt_neox, without biases")
"""Together they have every kind of norm, channel, residual stream and head width."""
CACHED = (*OF_EACH_KIND, "one key/value head, odd sizes", "mistral, a window", "gemma2, caps and norms after", "heads of 72 numbers")
"""Every kind of attention."""


def trunk_of(kind: str, values: dict, folder) -> Trunk:
    values = values | {"max_position_embeddings": CAPACITY}
    return load(saved(reference(config_of(kind, **values)), folder / "model")).trunk.requires_grad_(False).eval()


def twin(
    trunk: Trunk, dtype=torch.float32, name: str = HERE[0] if HERE else "", threads: int = 2, storage: Storage | None = None
) -> tuple[Trunk, FusedTrunk]:
    routines = native.routines_for(name)
    assert routines is not None
    trunk = trunk.with_weights(dtype)
    go_native(trunk, native.Pool(routines, threads))
    state = trunk.new_state(4, CAPACITY, storage or Dense())
    result = fused(trunk, state)
    assert result is not None, lack(trunk)
    return trunk, result


def through_a_channel(routines: native.Routines, activation: str, x: torch.Tensor) -> torch.Tensor:
    """A nonlinearity of each number, out of a whole step: a block whose attention adds nothing and whose channel is one number wide."""
    block = BlockPlan(AttentionPlan(1, 1, 2), FeedForwardPlan(1, activation, bias=False), before=None)
    trunk = TrunkPlan(1, TokensPlan(len(x)), StackedPlan((block,)), {}, None).build().requires_grad_(False)
    trunk.inputs.weight.copy_(x[:, None])
    for name, weight in trunk.blocks.named_parameters():
        weight.fill_(1.0 if "channel" in name else 0.0)
    go_native(trunk, native.Pool(routines, 2))
    run = fused(trunk, trunk.new_state(1, len(x), Dense()))
    assert run is not None
    step = Step((0,), (0,), (len(x),), len(x), torch.device("cpu"), capacity=len(x))
    with torch.inference_mode():
        return run(torch.arange(len(x))[None], step, run.state)[0, :, 0].double() - x


def steps(trunk, run, state, seed: int) -> list[torch.Tensor]:
    """Random calls that fill four slots: long and short pieces, single tokens, slots left out; hidden states of real tokens."""
    dice, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    held, out = [0] * 4, []
    for turn in range(14):
        slots = sorted(dice.sample(range(4), dice.randint(1, 4)))
        longest = dice.choice([1, 1, 3, 20, 90, 280] if turn else [280])
        lengths = [min(dice.randint(1, longest), CAPACITY - held[slot]) for slot in slots]
        slots, lengths = zip(*[(s, n) for s, n in zip(slots, lengths, strict=True) if n] or [(0, 0)], strict=True)
        if not any(lengths):
            continue
        step = Step(slots, tuple(held[s] for s in slots), lengths, max(lengths), torch.device("cpu"), capacity=CAPACITY)
        ids = torch.randint(1, VOCABULARY, (len(slots), max(lengths)), generator=draw)
        with torch.inference_mode():
            hidden = run(ids, step, state)
        out += [hidden[row, :length] for row, length in enumerate(lengths)]
        for slot, length in zip(slots, lengths, strict=True):
            held[slot] += length
    return out


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_the_trunks(tmp_path, family, name):
    trunk = trunk_of(*FAMILIES[family], tmp_path)
    _, fast = twin(trunk, name=name)
    state = trunk.new_state(4, CAPACITY, Dense())
    for ours, theirs in zip(steps(trunk, fast, fast.state, 5), steps(trunk, trunk, state, 5), strict=True):
        assert float((ours - theirs).abs().max()) < 2e-4 * max(1.0, float(theirs.abs().max()))
    assert [pool.lengths for pool in fast.state.pools.values()] == [pool.lengths for pool in state.pools.values()]


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("family", CACHED)
def test_a_narrow_cache_rounds_what_attention_multiplies_and_nothing_else(tmp_path, family, name):
    trunk = trunk_of(*FAMILIES[family], tmp_path)
    _, fast = twin(trunk, name=name, storage=Narrow())
    own, wide = trunk.new_state(4, CAPACITY, Narrow()), trunk.new_state(4, CAPACITY, Dense())
    ours, twins, floats = (steps(trunk, run, state, 5) for run, state in ((fast, fast.state), (trunk, own), (trunk, wide)))
    mine, theirs, plain = torch.cat(ours), torch.cat(twins), torch.cat(floats)
    size, rounding = (float(x.square().mean().sqrt()) for x in (plain, theirs - plain))
    assert rounding < 0.05 * size  # keys and values are rounded; here queries and weights are too, which must not cost more
    assert float((mine - theirs).square().mean().sqrt()) < 1.5 * rounding
    assert float((mine - plain).square().mean().sqrt()) < 2 * rounding
    for name, pool in fast.state.pools.items():
        assert pool.lengths == own[name].lengths
    first = fast.state["blocks.0.mixer"], own["blocks.0.mixer"], wide["blocks.0.mixer"]
    for slot in range(4):  # both paths keep the same numbers: those of the first block are the wide ones, rounded
        mine, theirs, plain = (pool.export(slot) for pool in first)
        for part in ("keys", "values"):
            assert torch.allclose(mine[part].float(), theirs[part].float(), atol=1e-6, rtol=2**-7)
            assert torch.equal(theirs[part].float(), plain[part].to(torch.bfloat16).float())


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("storage", [Dense(), Narrow()], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["mistral, a window", "heads of 20 numbers"])
def test_what_a_slot_held_before_touches_no_later_token(tmp_path, family, name, storage):
    trunk = trunk_of(*FAMILIES[family], tmp_path)
    _, fresh = twin(trunk, name=name, storage=storage)
    _, used = twin(trunk, name=name, storage=storage)
    for pool in used.pools:
        for store in (pool.keys, pool.values):
            store.data.fill_(float("nan"))  # type: ignore[attr-defined]
    for ours, theirs in zip(steps(trunk, used, used.state, 8), steps(trunk, fresh, fresh.state, 8), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("storage", [Dense(), Narrow()], ids=["wide", "narrow"])
@pytest.mark.parametrize("family", OF_EACH_KIND)
def test_a_token_has_the_same_bits_whatever_stands_beside_it_and_however_a_text_is_cut(tmp_path, dtype, name, storage, family):
    trunk = trunk_of(*FAMILIES[family], tmp_path)
    whole, fast = twin(trunk, dtype, name, storage=storage)
    single = twin(trunk, dtype, name, threads=1, storage=storage)[1]
    ids = torch.randint(1, VOCABULARY, (3, 530))

    def run(through, slots, starts, lengths, part):
        step = Step(slots, starts, lengths, part.shape[1], torch.device("cpu"), capacity=CAPACITY)
        with torch.inference_mode():
            return through(part, step, through.state)

    together = run(fast, (0, 1, 2), (0, 0, 0), (530, 200, 7), ids)
    for row, length in enumerate((530, 200, 7)):
        pieces, start = [], 0
        for size in (1, 3, 250, 2, 1, 273):
            if part := ids[row, start : min(start + size, length)].tolist():
                pieces.append(run(single, (3,), (start,), (len(part),), torch.tensor([part]))[0])
                start += len(part)
        assert torch.equal(torch.cat(pieces), together[row, :length])
    assert not together[1, 200:].any()
    assert isinstance(whole.heads["lm"].linear.storage, NativeStorage)


@pytest.mark.parametrize("name", HERE)
def test_nonlinearities_are_pytorchs_at_any_size(name):
    routines = native.routines_for(name)
    assert routines is not None
    x = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 60.0, -60.0, 1e30, -1e30])))
    for activation in native.ACTIVATIONS:
        y, exact = through_a_channel(routines, activation, x), ACTIVATIONS[activation](x.double())
        assert float(((y - exact).abs() / (1 + exact.abs())).max()) < 5e-7, activation


def test_steps_it_cannot_do_go_the_trunks_own_way(tmp_path):
    trunk, fast = twin(trunk_of(*LLAMA, tmp_path))
    ids = torch.randint(1, VOCABULARY, (1, 9))
    plain = Step.whole(1, 9, torch.device("cpu"))
    readable = Step((0,), (0,), (9,), 9, torch.device("cpu"), readable=True, capacity=CAPACITY)
    assert fast.supports(plain) == fast.supports(readable) == (False,)
    with torch.inference_mode():
        assert torch.allclose(fast(ids, readable, fast.state), trunk(ids, plain), atol=1e-4)


def test_what_the_routines_lack_is_named(tmp_path):
    odd = trunk_of("GPT2", GPT2 | {"n_embd": 33}, tmp_path)  # heads of 11 numbers
    assert "attention" in str(lack(odd))
    mixed: Any = twin(trunk_of(*LLAMA, tmp_path / "mixed"))[0]
    mixed.blocks[1].channel.plan = dataclasses.replace(mixed.blocks[1].channel.plan, activation="relu")
    assert "unlike" in str(lack(mixed))
    after: Any = twin(trunk_of(*LLAMA, tmp_path / "after"))[0]
    after.blocks[2].plan = dataclasses.replace(after.blocks[2].plan, residual="after_residual")
    assert "after_residual" in str(lack(after))
    plain = trunk_of(*LLAMA, tmp_path / "plain")
    assert "kept in another way" in str(lack(plain))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("program", [SiteProgram(stop=1), SiteProgram(skip={1: None}), SiteProgram(skip={0: None}, stop=1)], ids=repr)
def test_blocks_left_out_are_left_out_in_one_call_too(tmp_path, program, name):
    trunk = trunk_of(*LLAMA, tmp_path)
    _, fast = twin(trunk, name=name)
    state = trunk.new_state(4, CAPACITY, Dense())
    ids, hidden = torch.randint(1, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1)), []
    for whole, run, memory in ((True, trunk, state), (True, fast, fast.state), (False, trunk, state), (False, fast, fast.state)):
        # Four tokens through all blocks, then five more through some.
        start, time = (0, 4) if whole else (4, 5)
        plan = None if whole else program
        step = Step((0, 2), (start, start), (time, time), time, torch.device("cpu"), program=plan, capacity=CAPACITY)
        assert run is trunk or all(fast.supports(step))
        with torch.inference_mode():
            hidden.append(run(ids[:, start : start + time], step, memory))
    for ours, theirs in ((hidden[1], hidden[0]), (hidden[3], hidden[2])):
        assert float((ours - theirs).abs().max()) < 2e-4 * max(1.0, float(theirs.abs().max()))
    lengths = [9 if program.computes(block) else 4 for block in range(len(trunk.blocks))]
    assert [pool.lengths[0] for pool in fast.state.pools.values()] == lengths
    assert [pool.lengths[2] for pool in state.pools.values()] == lengths


class Nudge(torch.nn.Module):
    """A branch that adds something to the rows that have an adapter."""

    by_row = True

    def forward(self, x, step):
        chosen = torch.tensor(step.adapters if step is not None and step.adapters else (-1,) * len(x))
        return 0.5 * (chosen + 1).clamp(min=0)[:, None, None] * x[..., :1]


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("storage", [Dense(), Narrow()], ids=["wide", "narrow"])
def test_rows_it_cannot_do_go_the_trunks_own_way_and_the_others_have_the_bits_they_have_without_them(tmp_path, name, storage):
    trunk = trunk_of(*LLAMA, tmp_path)
    for block in trunk.blocks:  # type: ignore[union-attr]
        block.mixer.output.branches["nudge"] = Nudge()  # type: ignore[union-attr]
    _, fast = twin(trunk, name=name, storage=storage)
    _, apart = twin(trunk, name=name, storage=storage)
    draw = torch.Generator().manual_seed(2)
    width = trunk.plan.width
    program = SiteProgram(add={"blocks.1.mixer": Add(torch.randn(2, width, generator=draw), (-1, 1, -1, -1))}, skip={0: (2,)})
    adapters, held = (-1, -1, -1, 1), [0] * 4
    for lengths in ((9, 130, 40, 7), (1, 1, 1, 1), (3, 1, 0, 2), (0, 5, 1, 1), (1, 0, 0, 0)):
        ids = torch.randint(1, VOCABULARY, (4, max(lengths)), generator=draw)
        step = Step((0, 1, 2, 3), tuple(held), lengths, max(lengths), CPU, adapters=adapters, program=program, capacity=CAPACITY)
        assert fast.supports(step) == (True, False, False, False)
        with torch.inference_mode():
            mixed = fast(ids, step, fast.state)
            for row, length in enumerate(lengths):
                if not length:
                    continue
                alone = step.of_rows([row])
                beside = apart(ids[row : row + 1, :length], alone, apart.state)
                assert (
                    torch.equal(mixed[row, :length], beside[0]) if row == 0 else torch.allclose(mixed[row, :length], beside[0], atol=1e-3)
                )
        held = [start + length for start, length in zip(held, lengths, strict=True)]
    for pool, other in zip(fast.pools, apart.pools, strict=True):
        assert pool.lengths == other.lengths == held
        for slot in range(4):
            for mine, theirs in zip(pool.export(slot).values(), other.export(slot).values(), strict=True):
                assert torch.allclose(mine.float(), theirs.float(), atol=1e-2)


def test_a_branch_on_every_row_keeps_a_trunk_from_whole_steps(tmp_path):
    trunk: Any = twin(trunk_of(*LLAMA, tmp_path))[0]
    trunk.blocks[0].mixer.output.branches["always"] = torch.nn.Identity()
    assert "branches on every row" in str(lack(trunk))
