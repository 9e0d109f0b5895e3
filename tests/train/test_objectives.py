"""The next-token loss: what is learned, what is added to it, and the same gradients however it is taken."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_llama import tiny_llama

from steelyard.core.run import Run
from steelyard.data.batching import Batch, Place
from steelyard.model.mixers.tiles import attend_in_tiles
from steelyard.model.step import Step
from steelyard.train import compilation, objectives
from steelyard.train.compilation import compiled, compiled_blocks
from steelyard.train.objectives import next_token_loss
from steelyard.train.recompute import recomputed
from steelyard.train.trainer import TrainerSettings, train


def tiny(blocks=2):
    trunk = tiny_llama(num_hidden_layers=blocks, vocab_size=50)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.mul_(3.0 if parameter.dim() >= 2 else 1.0)
    return trunk


def batch(rows=3, time=12, share=1.0, seed=0):
    random = np.random.default_rng(seed)
    ids, targets = random.integers(0, 50, (rows, time)), random.integers(0, 50, (rows, time))
    targets[random.random((rows, time)) >= share] = -100
    return Batch(ids, targets, None, tuple(f"row {row}" for row in range(rows)), rows * time)


def gradients(trunk, total):
    trunk.zero_grad()
    total.backward()
    return [parameter.grad.clone() for parameter in trunk.parameters()]


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_loss_is_the_summed_cross_entropy_of_learned_tokens(share):
    trunk, rows = tiny(), batch(share=share)
    total, learned, parts = next_token_loss(trunk)(rows)
    logprobs = trunk.training_logits(torch.from_numpy(rows.ids)).log_softmax(-1)
    targets = torch.from_numpy(rows.targets)
    by_hand = -sum(float(logprobs[b, t, targets[b, t]].detach()) for b, t in (targets != -100).nonzero().tolist())
    assert float(total.detach()) == pytest.approx(by_hand, rel=1e-5) and learned == int((targets != -100).sum()) and parts == {}


def test_the_z_loss_is_its_equation_and_no_part_of_a_validation_loss():
    trunk, rows = tiny(), batch()
    trunk.train()
    plain = next_token_loss(trunk)(rows)[0]
    total, learned, parts = next_token_loss(trunk, z_loss=0.01)(rows)
    squares = trunk.training_logits(torch.from_numpy(rows.ids)).logsumexp(-1).square().sum()
    assert float(parts["z"]) == pytest.approx(0.01 * float(squares.detach()), rel=1e-5)
    assert float(total.detach()) == pytest.approx(float((plain + 0.01 * squares).detach()), rel=1e-5)
    trunk.eval()
    assert float(next_token_loss(trunk, z_loss=0.01)(rows)[0].detach()) == pytest.approx(float(plain.detach()), rel=1e-6)


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pieces_give_the_loss_and_gradients_of_the_whole(monkeypatch, z_loss, dtype):
    trunk, rows = tiny().train(), batch(4, 16, 0.8)
    results = []
    for piece in (1024, 7):
        monkeypatch.setattr(objectives, "PIECE", piece)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            total, _, parts = next_token_loss(trunk, z_loss=z_loss)(rows)
        results.append((float(total.detach()), {name: float(part) for name, part in parts.items()}, gradients(trunk, 2 * total)))
    (total, parts, whole), (pieced_total, pieced_parts, pieced) = results
    near = 1e-5 if dtype == "float32" else 2e-2
    assert pieced_total == pytest.approx(total, rel=near / 10) and pieced_parts == pytest.approx(parts, rel=1e-3)
    for one, other in zip(whole, pieced, strict=True):
        assert float((one - other).norm()) <= near * float(one.norm())


class Balancing(torch.nn.Module):
    """A channel with a loss of its own, as a mixture of experts has."""

    def __init__(self, channel):
        super().__init__()
        self.channel, self.weight = channel, torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x, step):
        if self.training:
            step.losses.append(("balance", 0.1 * self.weight.square()))
        return self.channel(x, step)


def with_balance():
    trunk = tiny()
    for block in trunk.blocks:
        block.channel = Balancing(block.channel)
    return trunk


@pytest.mark.parametrize("again", [False, True])
def test_losses_of_parts_are_added_named_and_learned_once(tmp_path, again):
    trunk, rows = with_balance(), batch()
    plain = next_token_loss(trunk.eval())(rows)[0]
    trunk.train()
    with recomputed(trunk, again):
        total, learned, parts = next_token_loss(trunk)(rows)
        gradients(trunk, total)
    assert float(parts["balance"]) == pytest.approx(2 * 0.4 * learned)
    assert float((total - plain).detach()) == pytest.approx(2 * 0.4 * learned, rel=1e-4)
    assert float(trunk.blocks[0].channel.weight.grad) == pytest.approx(0.2 * 2.0 * learned)


def test_metrics_tell_the_loss_without_what_was_added_and_name_that(tmp_path):
    trunk = with_balance()

    class Stream:
        def iterate(self, place=None):
            yield from ((batch(seed=index), Place(0, index + 1)) for index in range(3))

    first = float(next_token_loss(trunk.eval())(batch())[0].detach()) / 36
    settings = TrainerSettings(steps=3, learning_rate=1e-4)
    train(trunk, next_token_loss(trunk, z_loss=1e-3), Stream(), settings, Run(tmp_path))
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(first, rel=1e-5)
    assert line["loss_balance"] == pytest.approx(0.8, rel=1e-5) and 0 < line["loss_z"] < 0.1


UNCODED = "aot_eager_decomp_partition"
"""All of the compiler but the making of machine code, which takes a minute."""


class Counted(torch.autograd.graph.saved_tensors_hooks):
    """Bytes that the graph keeps for going back, each storage once."""

    def __init__(self, trunk):
        self.bytes = 0
        seen = {parameter.untyped_storage().data_ptr() for parameter in trunk.parameters()}

        def pack(tensor):
            place = tensor.untyped_storage().data_ptr()
            if place not in seen:
                seen.add(place)
                self.bytes += tensor.untyped_storage().nbytes()
            return tensor

        super().__init__(pack, lambda tensor: tensor)


def test_recomputed_blocks_keep_a_fraction_of_the_activations_and_give_the_same_gradients():
    trunk, rows = tiny().train(), batch(4, 48)
    ids = torch.from_numpy(rows.ids)
    found = []
    for again in (False, True):
        counted = Counted(trunk)
        with recomputed(trunk, again), counted:
            hidden = trunk(ids, Step.whole(*ids.shape, ids.device))
        with recomputed(trunk, again):
            found.append((counted.bytes, gradients(trunk, next_token_loss(trunk)(rows)[0])))
        del hidden
    (kept, plain), (kept_again, recomputing) = found
    assert kept_again < 0.25 * kept
    assert all(torch.equal(one, other) for one, other in zip(plain, recomputing, strict=True))
    assert all("forward" not in vars(block) for block in trunk.blocks)


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-4), ("bfloat16", 5e-3)])
def test_compiled_blocks_and_loss_train_the_same_and_their_seconds_are_told_apart(tmp_path, monkeypatch, dtype, near):
    monkeypatch.setattr(compilation, "BACKEND", UNCODED)

    class Stream:
        def iterate(self, place=None):
            yield from ((batch(seed=index), Place(0, index + 1)) for index in range(4))

    runs = []
    for wanted in (False, True):
        trunk = tiny(blocks=1)
        objective = next_token_loss(trunk, **({"compiled": compiled} if wanted else {}))
        with compiled_blocks(trunk, wanted):
            settings = TrainerSettings(steps=4, learning_rate=1e-3, compiles=wanted, dtype=dtype)
            runs.append((train(trunk, objective, Stream(), settings, Run(tmp_path / str(wanted))), trunk))
    (plain, a), (fast, b) = runs
    assert math.isclose(plain.loss, fast.loss, rel_tol=near)
    assert plain.compile_seconds == 0 < fast.compile_seconds
    assert fast.seconds < fast.compile_seconds
    assert all(torch.allclose(one, other, atol=2 * near) for one, other in zip(a.parameters(), b.parameters(), strict=True))


def test_compiled_blocks_keep_less_than_the_compiler_would_and_give_the_same_gradients(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", UNCODED)
    rows, found = batch(4, 48), []
    ids = torch.from_numpy(rows.ids)
    for share in (1.0, compilation.KEPT):
        monkeypatch.setattr(compilation, "KEPT", share)
        torch.compiler.reset()  # blocks of one plan share what was compiled
        trunk = tiny(blocks=1).train()
        counted = Counted(trunk)
        with compiled_blocks(trunk), torch.autocast("cpu", torch.bfloat16):
            with counted:
                trunk(ids, Step.whole(*ids.shape, ids.device))
            found.append((counted.bytes, gradients(trunk, next_token_loss(trunk)(rows)[0])))
    (kept, all_kept), (kept_less, some_again) = found
    assert kept_less < 0.85 * kept, (kept_less, kept)
    assert all(torch.allclose(one, other, atol=1e-2, rtol=1e-2) for one, other in zip(all_kept, some_again, strict=True))


@pytest.mark.parametrize("time", [1, 5, 64, 97])
def test_attention_in_tiles_is_attention(time):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, time, 8, requires_grad=True) for _ in range(3))
    whole = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    tiled = attend_in_tiles(q, k, v, 0.3)
    assert torch.allclose(whole, tiled, atol=1e-5)
    gradient = torch.randn_like(whole)
    for one, other in zip(torch.autograd.grad(whole, (q, k, v), gradient), torch.autograd.grad(tiled, (q, k, v), gradient), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
