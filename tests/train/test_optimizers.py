"""Muon and AdamW: equal to PyTorch's own, each weight in the optimizer it belongs to."""

import math

import pytest
import torch
from torch import nn

from steelyard.train.optimizers import Muon, optimizers, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16), (3, 20, 12)])
def test_an_orthogonalised_matrix_keeps_its_directions_and_has_singular_values_near_1(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    values = (u.mT @ orthogonal(matrix) @ vh.mT).diagonal(dim1=-2, dim2=-1)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.25
    off = u.mT @ orthogonal(matrix) @ vh.mT - torch.diag_embed(values)
    assert float(off.abs().max()) < 1e-4


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_muon_goes_where_pytorchs_muon_goes(shape):
    """Theirs multiplies in bfloat16, so updates differ by its rounding; steps are of length rate * 0.2 sqrt(max) * about sqrt(min)."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = Muon([ours], lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    moved = float((theirs - start).norm().detach())
    assert float((ours - theirs).norm().detach()) < 0.02 * moved


def test_a_bank_of_matrices_moves_as_its_matrices_would_alone():
    torch.manual_seed(0)
    bank = nn.Parameter(torch.randn(3, 8, 12))
    single = [nn.Parameter(matrix.clone()) for matrix in bank.detach()]
    together, apart = Muon([bank], lr=0.1), Muon(single, lr=0.1)
    bank.grad = torch.randn(3, 8, 12)
    for matrix, gradient in zip(single, bank.grad, strict=True):
        matrix.grad = gradient.clone()
    together.step()
    apart.step()
    assert torch.allclose(bank, torch.stack([matrix.detach() for matrix in single]), atol=1e-5)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_matrices_of_one_shape_move_as_each_would_alone(products, monkeypatch):
    """Four of one shape (in groups of three at most), one of another, one without a gradient."""
    monkeypatch.setattr("steelyard.train.optimizers.TOGETHER", 3 * 16 * 24)
    torch.manual_seed(0)
    shapes = [(16, 24), (24, 16), (16, 24), (16, 24), (16, 24), (16, 24)]
    start, gradients = [torch.randn(shape) for shape in shapes], [torch.randn(shape) for shape in shapes]
    moved = []
    for all_of_them in (True, False):
        weights = [nn.Parameter(matrix.clone()) for matrix in start]
        groups = [weights] if all_of_them else [[weight] for weight in weights]
        made = [Muon(group, lr=0.1, weight_decay=0.1, products=products) for group in groups]
        for _ in range(3):
            for weight, gradient in zip(weights[:-1], gradients, strict=False):
                weight.grad = gradient.clone()
            for optimizer in made:
                optimizer.step()
        moved.append(weights)
    assert torch.equal(moved[0][-1], start[-1])
    for together, apart, before in zip(*moved, start, strict=True):
        assert float((together - apart).norm().detach()) <= 0.01 * float((apart - before).norm().detach())


class Owner(nn.Module):
    vector_parameters = ("rates",)

    def __init__(self):
        super().__init__()
        self.map = nn.Parameter(torch.ones(4, 6))
        self.filter = nn.Parameter(torch.ones(4, 1, 3))
        self.rates = nn.Parameter(torch.ones(4, 4))
        self.norm = nn.Parameter(torch.ones(4))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(7, 4))
        self.blocks = nn.ModuleList([Owner()])


def built(kind):
    body = Body()
    names = {id(parameter): name for name, parameter in body.named_parameters()}
    made = optimizers(body, dict(body.named_parameters()), kind, learning_rate=0.1, weight_decay=0.3, betas=(0.9, 0.95), epsilon=1e-8)
    return {
        (type(optimizer).__name__, group["weight_decay"]): {names[id(parameter)] for parameter in group["params"]}
        for optimizer in made
        for group in optimizer.param_groups
    }


def test_muon_takes_maps_in_blocks_and_leaves_tables_filters_and_vectors():
    assert built("muon") == {
        ("Muon", 0.3): {"blocks.0.map"},
        ("AdamW", 0.3): {"table", "blocks.0.filter"},
        ("AdamW", 0.0): {"blocks.0.rates", "blocks.0.norm"},
    }


def test_adamw_takes_all_and_decays_no_vectors():
    assert built("adamw") == {
        ("AdamW", 0.3): {"table", "blocks.0.map", "blocks.0.filter"},
        ("AdamW", 0.0): {"blocks.0.rates", "blocks.0.norm"},
    }


def test_adamw_steps_by_its_equation():
    torch.manual_seed(0)
    body = Body()
    (optimizer,) = optimizers(body, {"table": body.table}, "adamw", learning_rate=0.1, weight_decay=0.3, betas=(0.9, 0.95), epsilon=1e-8)
    weight, mean, square = body.table.detach().clone(), torch.zeros(7, 4), torch.zeros(7, 4)
    for step in range(1, 4):
        gradient = torch.randn(7, 4)
        body.table.grad = gradient.clone()
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.95 * square + 0.05 * gradient**2
        weight = weight * (1 - 0.1 * 0.3) - 0.1 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-8)
        assert torch.allclose(body.table, weight, atol=1e-6)


def test_an_update_of_muon_is_as_large_as_one_of_adamw_usually_is():
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.zeros(64, 256))
    matrix.grad = torch.randn(64, 256)
    Muon([matrix], lr=1.0).step()
    assert float(matrix.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)
    assert math.isfinite(float(matrix.detach().sum()))
