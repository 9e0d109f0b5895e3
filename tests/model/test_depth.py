"""Other ways to stack blocks: reversible streams, turns that end by themselves, and a core looped at will."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from new_parts import SMALL, VOCABULARY, decoder, ids

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.core.run import Run
from steelyard.generate.engine import Engine
from steelyard.model.cost import flops
from steelyard.model.depth.recurrent_depth import LONGEST, RecurrentDepth, draw, with_loops
from steelyard.model.depth.reversible import Reversible, block_inputs
from steelyard.model.depth.shortened import shortened
from steelyard.model.depth.stacked import StackedPlan
from steelyard.model.depth.universal import TAKEN, Halting, Universal
from steelyard.model.linears.lora import LowRank
from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.sites import SiteProgram
from steelyard.model.state import Dense
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk
from steelyard.train.pretrain.new import new_model

CPU = torch.device("cpu")


def made(seed: int = 0, **plan: object) -> Trunk:
    told = DecoderPlan.model_validate(SMALL | {"initial": 0.2} | plan)
    return initialize(told.trunk(VOCABULARY).build(), told, seed)


def gradients(trunk: Trunk, blocks, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """Of a weighed sum of the stream and of all losses told, for the inputs and every weight inside blocks."""
    step, leaf = Step.whole(*x.shape[:2], CPU), x.clone().requires_grad_()
    y = blocks(leaf, step, None)
    loss = (y * weight).sum() + sum(value for _, value in step.losses)
    return [y.detach(), *torch.autograd.grad(loss, [leaf, *trunk.blocks.parameters()], allow_unused=True)]


@pytest.mark.parametrize("plan", [{}, {"mixer": ["attention", "lstm"]}, {"channel": {"moe": {"experts": 4}}}, {"linears": "ternary"}])
def test_gradients_of_rebuilt_values_are_those_of_kept_ones(plan):
    trunk = made(stack="reversible", depth=3, **plan).double().train()
    assert isinstance(trunk.blocks, Reversible)
    x, weight = torch.randn(2, 2, 11, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = gradients(trunk, trunk.blocks, x, weight)
    wanted = gradients(trunk, trunk.blocks.forward_plainly, x, weight)
    for one, other in zip(ours, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-5)  # recurrences remember in float32


def test_dropout_is_drawn_again_as_it_was():
    trunk = made(stack="reversible").double().train()
    for block in trunk.blocks:  # type: ignore[union-attr]
        block.channel.up.branches["lora"] = branch = LowRank(32, block.channel.up.outputs, 4, 8.0, dropout=0.5).double()
        torch.nn.init.normal_(branch.a), torch.nn.init.normal_(branch.b)
    x, weight = torch.randn(2, 2, 11, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    ours = gradients(trunk, trunk.blocks, x, weight)
    torch.manual_seed(3)
    wanted = gradients(trunk, trunk.blocks.forward_plainly, x, weight)  # type: ignore[arg-type]
    assert all(torch.allclose(one, other) for one, other in zip(ours, wanted, strict=True))


def test_inputs_come_back_from_outputs_after_many_blocks():
    trunk, x = made(stack="reversible", depth=24).eval(), torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    step, first, second = Step.whole(2, 9, CPU), x, x
    with torch.no_grad():
        for block in trunk.blocks:  # type: ignore[union-attr]
            first = first + block._mix(block.mixer_norm(second), step, None)
            second = second + block._channel(block.channel_norm(first), step, None)
    for back in block_inputs(trunk.blocks, first, second, step):  # type: ignore[arg-type]
        assert (back - x).abs().max() < 1e-5


def kept_bytes(trunk: Trunk) -> int:
    """Bytes that autograd keeps from a forward pass of the blocks."""
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        y = trunk.blocks(torch.randn(2, 16, 32, requires_grad=True), Step.whole(2, 16, CPU), None)
    del y
    return sum(kept.values())


def test_bytes_kept_for_the_backward_pass_do_not_grow_with_the_depth():
    flat = [kept_bytes(made(stack="reversible", depth=depth).train()) for depth in (1, 4, 12)]
    grows = [kept_bytes(made(depth=depth).train()) for depth in (1, 4, 12)]
    assert flat[0] == flat[1] == flat[2] and 3 * grows[0] < grows[1] < grows[2] / 2


def test_a_reversible_stack_needs_channels_and_hands_nothing_on():
    with pytest.raises(RecipeError, match="block 0 has no channel"):
        made(stack="reversible", mixer="mamba")
    with pytest.raises(UnsupportedError, match="no plain stack"):
        trunk = made(stack="reversible").eval()
        trunk.logits(ids(1, 5), Step.whole(1, 5, CPU, program=SiteProgram(stop=0)))
    with pytest.raises(UnsupportedError, match="plain stack alone"):
        shortened(made(stack="reversible"), [0])


@pytest.mark.parametrize(
    ("probabilities", "weights", "turns", "rest"),
    [
        ([0.3, 0.3, 0.3, 0.3], [0.3, 0.3, 0.3, 0.1], 4, 0.1),
        ([0.995, 0.9, 0.9, 0.9], [1.0, 0, 0, 0], 1, 1.0),
        ([0.5, 0.6, 0.9, 0.9], [0.5, 0.5, 0, 0], 2, 0.5),
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], 4, 1.0),
        ([0.5, 0.495, 0.9, 0.9], [0.5, 0.5, 0, 0], 2, 0.5),
    ],
)
def test_halting_by_hand(probabilities, weights, turns, rest):
    halting = Halting((1, 1), 0.01, CPU)
    found = [float(halting.weigh(torch.tensor([[p]]), last=turn == 3)) for turn, p in enumerate(probabilities)]
    assert found == pytest.approx(weights) and int(halting.turns) == turns and float(halting.rest) == pytest.approx(rest)
    assert not bool(halting.still.any())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 999))
def test_weights_of_a_token_sum_to_one_whatever_its_probabilities(turns, seed):
    draws = torch.rand(turns, 3, 4, generator=torch.Generator().manual_seed(seed))
    halting = Halting((3, 4), 0.01, CPU)
    total = sum(halting.weigh(draw, last=turn + 1 == turns) for turn, draw in enumerate(draws))
    assert torch.allclose(total, torch.ones(3, 4)) and bool((halting.turns >= 1).all())  # type: ignore[arg-type]


def universal(bias: float, **changes: object) -> Trunk:
    trunk = made(stack={"universal": {"turns": 4} | changes}, depth=1)
    assert isinstance(trunk.blocks, Universal)
    with torch.no_grad():
        trunk.blocks.halt.zero_()  # type: ignore[union-attr]
        trunk.blocks.halt_bias.fill_(bias)  # type: ignore[union-attr]
    return trunk


@pytest.mark.parametrize(("bias", "taken"), [(9.0, 1), (0.0, 2), (-0.7, 3), (-9.0, 4)])
def test_tokens_take_as_many_turns_as_their_probabilities_say_and_pay_for_them(bias, taken):
    trunk = universal(bias, ponder=0.5).train()
    step = Step.whole(2, 7, CPU, torch.tensor([[0] * 7, [0] * 4 + [-1] * 3]))
    trunk.logits(ids(2, 7), step)
    assert bool((step.carry[TAKEN] == taken).all())
    p = 1 / (1 + 2.718281828**-bias)
    assert float(dict(step.losses)["ponder"].detach()) == pytest.approx(0.5 * (taken + 1 - (taken - 1) * p), rel=1e-4)


def test_one_turn_that_always_halts_is_one_turn_without_halting():
    trunk = universal(9.0)
    without = made(stack={"universal": {"turns": 1, "halting": False}}, depth=1)
    weights = {name: value for name, value in trunk.state_dict().items() if "halt" not in name}
    without.load_state_dict(weights | {"blocks.turn": weights["blocks.turn"][:1]})
    assert (trunk.eval().logits(ids(2, 9)) - without.eval().logits(ids(2, 9))).abs().max() < 1e-5


def test_one_loop_is_the_plain_stack_and_more_are_not():
    trunk, plain = made(stack={"recurrent_depth": {"loops": 3}}, depth=3).eval(), made(depth=3).eval()
    plain.load_state_dict({name: value for name, value in trunk.state_dict().items() if name != "blocks.norm.weight"})
    text = ids(2, 9)
    assert isinstance(plain.plan.depth, StackedPlan)
    assert torch.equal(with_loops(trunk, 1).logits(text), plain.logits(text))
    assert (trunk.logits(text) - plain.logits(text)).abs().max() > 1e-3
    assert torch.equal(with_loops(trunk, 3).logits(text), trunk.logits(text))
    assert trunk.plan.depth.loops == 3 and flops(with_loops(trunk, 5), 9) > flops(trunk, 9) > flops(plain, 9)


def test_loops_chosen_later_have_memory_of_their_own():
    trunk = with_loops(decoder("recurrent_depth"), 7)
    text, state = ids(1, 12), trunk.new_state(1, 96, Dense())
    halves = []
    for start, end in ((0, 5), (5, 12)):
        step = Step((0,), (start,), (end - start,), end - start, CPU, capacity=96)
        halves.append(trunk.logits(text[:, start:end], step, state))
    assert (torch.cat(halves, 1) - trunk.logits(text)).abs().max() < 1e-4


def test_training_draws_how_often_and_answers_do_not():
    trunk, text = made(stack={"recurrent_depth": {"loops": 4}}, depth=3).train(), ids(1, 6)
    torch.manual_seed(0)
    seen = {round(float(trunk.logits(text).detach().sum()), 4) for _ in range(12)}
    assert len(seen) > 3
    trunk.eval()
    assert len({float(trunk.logits(text).detach().sum()) for _ in range(4)}) == 1
    counts = [draw(6) for _ in range(3000)]
    assert 5.5 < sum(counts) / len(counts) < 6.5 and min(counts) == 1 and max(counts) <= LONGEST * 6
    assert {draw(1) for _ in range(20)} == {1}


def test_gradients_go_back_through_the_last_loops_alone():
    trunk = made(stack={"recurrent_depth": {"loops": 6, "random": False, "backward": 2}}, depth=3).train()
    assert isinstance(trunk.blocks, RecurrentDepth)
    calls = []
    trunk.blocks[1].register_forward_hook(lambda module, given, y: calls.append(y.requires_grad))
    trunk.logits(ids(1, 6)).sum().backward()
    assert calls == [False] * 4 + [True] * 2
    assert all(parameter.grad is not None for parameter in trunk.parameters())


@pytest.mark.parametrize(
    ("stack", "told"),
    [
        ({"recurrent_depth": {"prelude": 2, "coda": 1}}, "leave none of 3 to loop"),
        ({"recurrent_depth": {"loops": 0}}, "loops"),
        ({"universal": {"turns": 0}}, "turns"),
        ({"universal": {"ponder": -1}}, "ponder"),
    ],
)
def test_stacks_that_cannot_be_are_refused(stack, told):
    with pytest.raises((ValueError, RecipeError), match=told):
        made(stack=stack, depth=3)
    with pytest.raises(UnsupportedError, match="no core to loop"):
        with_loops(made(), 2)


@pytest.mark.parametrize("stack", ["reversible", "universal", {"recurrent_depth": {"loops": 3}}])
def test_an_answer_is_the_same_to_the_bit_in_company(stack, tmp_path: Path):
    model = new_model(DecoderPlan.model_validate(SMALL | {"initial": 0.2, "stack": stack, "depth": 3}), Run(tmp_path))
    prompts, said = [[7 * k % 250 + 1 for k in range(length)] for length in (3, 40, 17, 1)], []
    for slots in (1, 4):
        with Engine(model, deterministic=True, slots=slots, dtype="float32") as engine:
            answers = engine.generate(prompts, max_tokens=10, temperature=1.0, seed=3, logprobs=True, ignore_eos=True)
        said.append([(answer.tokens, answer.logprobs) for answer in answers])
    assert said[0] == said[1]
    assert dataclasses.is_dataclass(model.trunk.plan.depth)
