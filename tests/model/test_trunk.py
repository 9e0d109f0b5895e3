"""The trunk: documents that do not see each other, padding that does not show, sites that are data, weights that are shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import GROUPED, SMALL, config_of, reference, saved
from tiny_talker import tiny_talker

import steelyard
from steelyard.model.sites import Add, SiteProgram
from steelyard.model.state import Dense
from steelyard.model.step import Step

CPU = torch.device("cpu")
TALKER = tiny_talker(num_hidden_layers=3)
IDS = torch.randint(0, 260, (3, 12), generator=torch.Generator().manual_seed(0))
SITES = [f"blocks.{block}.{part}" for block in range(3) for part in ("input", "mixer", "channel")] + ["final_norm"]


def run(program: SiteProgram | None, ids: torch.Tensor = IDS, trunk: Any = None) -> torch.Tensor:
    step = Step.whole(*ids.shape, CPU, program=program)
    with torch.inference_mode():
        return (trunk or TALKER.trunk).logits(ids, step)


def close(a: torch.Tensor, b: torch.Tensor, bound: float = 1e-5) -> bool:
    return bool((a - b).abs().max() < bound)


# ---- documents and padding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("Llama", GROUPED),
        ("Mistral", GROUPED | {"sliding_window": 3}),
        ("Gemma2", GROUPED | {"head_dim": 8, "sliding_window": 3}),
        ("GPTNeoX", SMALL),
        ("GPT2", {"vocab_size": 101, "n_embd": 48, "n_head": 3, "n_layer": 2, "n_positions": 64}),
    ],
)
def test_documents_packed_into_one_row_do_not_see_each_other(kind: str, values: dict[str, Any], tmp_path: Any) -> None:
    model = steelyard.load(saved(reference(config_of(kind, **{"pad_token_id": 0} | values)), tmp_path))
    lengths = (7, 1, 12, 5)
    documents = [torch.randint(0, 101, (1, length), generator=torch.Generator().manual_seed(length)) for length in lengths]
    row = torch.cat([*documents, torch.zeros(1, 3, dtype=torch.long)], 1)
    segments = torch.tensor([[number for number, length in enumerate(lengths) for _ in range(length)] + [-1] * 3])
    with torch.inference_mode():
        packed = model.trunk.training_logits(row, segments)
    assert torch.isfinite(packed).all()
    start = 0
    for document in documents:
        assert close(packed[:, start : start + document.shape[1]], model.logits(document), 1e-4)
        start += document.shape[1]


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_padding_does_not_show_in_any_row(lengths: list[int]) -> None:
    time = max(lengths)
    ids = torch.zeros(len(lengths), time, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = IDS[0, :length] + row
    step = Step((), (0,) * len(lengths), tuple(lengths), time, CPU)
    with torch.inference_mode():
        padded = TALKER.trunk.logits(ids, step)
    for row, length in enumerate(lengths):
        assert close(padded[row, :length], TALKER.logits(ids[row : row + 1, :length])[0])


def test_later_tokens_do_not_show_in_earlier_ones() -> None:
    changed = IDS.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 260
    assert torch.equal(TALKER.logits(changed)[:, :8], TALKER.logits(IDS)[:, :8])
    assert not torch.equal(TALKER.logits(changed)[:, 8], TALKER.logits(IDS)[:, 8])


def test_the_readable_attention_equals_the_fused_one() -> None:
    step = Step((), (0,) * 3, (12,) * 3, 12, CPU, readable=True)
    with torch.inference_mode():
        assert close(TALKER.trunk.logits(IDS, step), TALKER.logits(IDS))


# ---- sites -------------------------------------------------------------------------------------------------------------------


def test_every_site_can_be_read_and_reading_changes_nothing() -> None:
    program = SiteProgram(read=frozenset(SITES))
    assert torch.equal(run(program), run(None))
    assert sorted(program.readings) == sorted(SITES)
    assert all(value.shape == (3, 12, 32) for value in program.readings.values())
    # The stream is its parts' sum: what the sites show is what the trunk adds up.
    r = program.readings
    assert close(r["blocks.1.input"], r["blocks.0.input"] + r["blocks.0.mixer"] + r["blocks.0.channel"])


def test_a_vector_is_added_on_the_rows_that_are_named() -> None:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    logits = run(SiteProgram(add={"blocks.1.mixer": Add(vectors, index=(1, -1, 0))}))
    alone = [
        run(SiteProgram(add={"blocks.1.mixer": Add(vectors[choice : choice + 1])}), IDS[row : row + 1]) for row, choice in ((0, 1), (2, 0))
    ]
    assert close(logits[0:1], alone[0]) and close(logits[2:3], alone[1])
    assert close(logits[1], run(None)[1])
    assert not close(logits[0], run(None)[0], 1e-3)


def test_a_skipped_block_is_as_if_it_were_not_there() -> None:
    without = TALKER.trunk.with_weights(torch.float32)
    del without.blocks[1]
    expected = run(None, trunk=without)
    assert close(run(SiteProgram(skip={1: None})), expected)
    some = run(SiteProgram(skip={1: (0, 2)}))
    assert close(some[[0, 2]], expected[[0, 2]]) and close(some[1], run(None)[1])


def test_a_trunk_that_stops_early_goes_straight_to_the_last_norm() -> None:
    without = TALKER.trunk.with_weights(torch.float32)
    del without.blocks[2]
    assert close(run(SiteProgram(stop=1)), run(None, trunk=without))
    state = TALKER.trunk.new_state(1, 16, Dense())
    with torch.inference_mode():
        TALKER.trunk(IDS[:1], Step((0,), (0,), (12,), 12, CPU, capacity=16, program=SiteProgram(stop=1)), state)
    assert [state[f"blocks.{block}.mixer"].lengths[0] for block in range(3)] == [12, 12, 0]


def test_a_block_skipped_on_some_rows_still_remembers_and_one_skipped_on_all_is_not_computed() -> None:
    for rows, length in (((0,), 12), (None, 0)):
        state = TALKER.trunk.new_state(1, 16, Dense())
        program = SiteProgram(skip={1: rows})
        with torch.inference_mode():
            TALKER.trunk(IDS[:1], Step((0,), (0,), (12,), 12, CPU, capacity=16, program=program), state)
        assert [state[f"blocks.{block}.mixer"].lengths[0] for block in range(3)] == [12, length, 12]


# ---- weights -----------------------------------------------------------------------------------------------------------------


def test_a_cast_trunk_has_narrow_matrices_and_leaves_the_original_alone() -> None:
    before = run(None)
    narrow = TALKER.trunk.with_weights(torch.bfloat16)
    assert {parameter.dtype for parameter in narrow.parameters() if parameter.dim() >= 2} == {torch.bfloat16}
    assert {parameter.dtype for parameter in narrow.parameters() if parameter.dim() == 1} == {torch.float32}
    assert 0 < (run(None, trunk=narrow) - before).abs().max() < 0.1
    assert torch.equal(run(None), before)
    assert narrow.weight_bytes() < 0.6 * TALKER.trunk.weight_bytes()


def test_tied_weights_are_one_tensor_and_count_once() -> None:
    trunk = TALKER.trunk
    assert trunk.heads["lm"].linear.storage.weight is trunk.inputs.weight
    assert trunk.weight_bytes() == sum(parameter.numel() * 4 for parameter in trunk.parameters())
    narrow = trunk.with_weights(torch.bfloat16)
    assert narrow.heads["lm"].linear.storage.weight is narrow.inputs.weight


def test_a_part_in_training_takes_gradients_everywhere() -> None:
    trunk = tiny_talker(seed=4, attention_bias=True).trunk
    logits = trunk.training_logits(IDS, torch.zeros_like(IDS))
    logits.logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in trunk.parameters())


def test_models_say_how_many_weights_they_have_whatever_their_name() -> None:
    """A plan is all that decides what is built: two trunks of one plan have the same tensors."""
    one, two = TALKER.trunk.plan.build(), TALKER.trunk.plan.build()
    assert [(n, p.shape) for n, p in one.named_parameters()] == [(n, p.shape) for n, p in two.named_parameters()]
    assert TALKER.family.plan is not None and TALKER.trunk.plan == one.plan
