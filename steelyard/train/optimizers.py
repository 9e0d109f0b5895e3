"""Optimizers: AdamW for everything, or Muon for the matrices inside blocks and AdamW for the rest.

AdamW (arXiv:1711.05101), weight decay on matrices and tables only:
m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w -= r (m_hat / (sqrt(v_hat) + eps) + decay w)

Muon (momentum orthogonalised by Newton-Schulz; scaled as in arXiv:2502.16982):
m = b m + (1 - b) g;  u = (1 - b) g + b m;  w -= r (0.2 sqrt(max(rows, columns)) orthogonal(u) + decay w)
The scale gives an update the root mean square AdamW's usually has, so both take one learning rate. `orthogonal` keeps the directions
of a matrix and brings all its singular values near 1.
Cost: Muon keeps one moment per weight (AdamW two) and multiplies matrices: 5 * (2 n^2 m + n^3) multiply-adds for n x m, n <= m. Those of
one shape are multiplied together, and in bfloat16 where the training's other products are: 28 matrices of 4 blocks 128 wide take 9 ms of
one core instead of 40 (AVX-512 with BF16), and directions are off by about 1%.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["adamw", "muon"]

QUINTIC = (3.4445, -4.7750, 2.0315)
"""x -> a x + b x^3 + c x^5, which brings singular values between 0.002 and 1 to 0.7 .. 1.2 in five rounds (steepest at zero, so small
ones grow fastest; they need not become exactly 1)."""
ROUNDS = 5
MOMENTUM = 0.95
TOGETHER = 2**22
"""Most numbers of the matrices that are orthogonalised at once: larger ones fill the processor by themselves."""
FUSED = ("cpu", "cuda", "mps", "xpu")
"""Devices PyTorch has a fused AdamW for."""


class Muon(torch.optim.Optimizer):
    """Muon for matrices [..., rows, columns]; leading dimensions (a bank of experts) are matrices of their own.

    Args:
        parameters: what it moves.
        lr: learning rate.
        weight_decay: see the module's docstring.
        momentum: share of the moment that a step keeps.
        products: type that matrices are orthogonalised in on CPUs; GPUs take bfloat16.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = MOMENTUM,
        products: torch.dtype = torch.float32,
    ):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.products = products

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            for alike in _of_one_shape(moved):
                updates = [self._mean(parameter, group["momentum"]) for parameter in alike]
                if len(alike) == 1:
                    directions = [_whole_orthogonal(updates[0], self.products)]
                else:
                    directions = list(orthogonal(torch.stack(updates), products=self.products).unbind())
                scale = 0.2 * math.sqrt(max(alike[0].shape[-2:]))
                for parameter, direction in zip(alike, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"] * scale)

    def _mean(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """The moment with this step's gradient in it, looked ahead by one step (Nesterov)."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)


def _of_one_shape(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in groups that are multiplied together, none larger than `TOGETHER`; what is shared out or large stands alone."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        alone = hasattr(parameter, "full_tensor") or 2 * parameter.numel() > TOGETHER
        key = id(parameter) if alone else (parameter.shape, parameter.device, parameter.dtype)
        group = groups.setdefault(key, [])
        if group and (len(group) + 1) * parameter.numel() > TOGETHER:
            yield groups.pop(key)
            group = groups.setdefault(key, [])
        group.append(parameter)
    yield from groups.values()


def _whole_orthogonal(matrix: Tensor, products: torch.dtype) -> Tensor:
    """`orthogonal`, of a matrix of which every process may hold a share (the whole is gathered: its directions are not its rows')."""
    if not hasattr(matrix, "full_tensor"):
        return orthogonal(matrix, products=products)
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = matrix
    whole = orthogonal(sharded.full_tensor(), products=products)
    return distribute_tensor(whole, sharded.device_mesh, sharded.placements, src_data_rank=None)


def orthogonal(matrix: Tensor, rounds: int = ROUNDS, products: torch.dtype = torch.float32) -> Tensor:
    """A matrix [..., rows, columns] of the same directions whose singular values are all near 1 (Newton-Schulz, quintic).

    Args:
        matrix: one or several.
        rounds: of the iteration.
        products: type the products are taken in on CPUs; GPUs take bfloat16.
    """
    a, b, c = QUINTIC
    x = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    x = x.float() / x.float().norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    x = x.to(products if x.device.type == "cpu" else torch.bfloat16).reshape(-1, *x.shape[-2:])
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if matrix.shape[-2] > matrix.shape[-1] else x).reshape(matrix.shape)


def vector_names(module: nn.Module) -> set[str]:
    """Parameters of two or more dimensions that are no maps (rates per channel, short filters): their owners name them in
    `vector_parameters`."""
    return {
        f"{path}.{name}" if path else name for path, owner in module.named_modules() for name in getattr(owner, "vector_parameters", ())
    }


def slow_rates(module: nn.Module) -> dict[str, float]:
    """Shares of the learning rate for parameters that must move more slowly (modes of a state-space model): their owners name them in
    `parameter_rates`."""
    return {
        f"{path}.{name}" if path else name: rate
        for path, owner in module.named_modules()
        for name, rate in getattr(owner, "parameter_rates", {}).items()
    }


def optimizers(
    module: nn.Module,
    trained: Mapping[str, nn.Parameter],
    kind: Kind,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    epsilon: float,
    products: torch.dtype = torch.float32,
) -> list[torch.optim.Optimizer]:
    """What moves the trained parameters; each stands in exactly one optimizer.

    Args:
        module: asked which of its parameters are vectors in spite of their shape.
        trained: parameters by their names in `module`.
        kind: `muon` leaves tables, heads, vectors and whatever is outside the blocks to AdamW.
        learning_rate, weight_decay, betas, epsilon: see the module's docstring; vectors are never decayed.
        products: type that Muon multiplies in on CPUs.

    A group's `rate`, where it has one, is its share of the learning rate at every step.
    """
    vectors = vector_names(module) | set(slow_rates(module))
    matrices = {name: parameter for name, parameter in trained.items() if parameter.dim() >= 2 and name not in vectors}
    orthogonalised = {name for name, parameter in matrices.items() if kind == "muon" and _is_map(name, parameter)}
    rates = slow_rates(module)
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in matrices.items() if name not in orthogonalised], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained.items() if name not in matrices and name not in rates], "weight_decay": 0.0},
    ]
    for rate in sorted({rates[name] for name in trained if name in rates}):
        slow = [parameter for name, parameter in trained.items() if rates.get(name) == rate]
        groups.append({"params": slow, "weight_decay": 0.0, "rate": rate})
    out: list[torch.optim.Optimizer] = []
    if any(group["params"] for group in groups):
        kept = [group for group in groups if group["params"]]
        # The fused step touches every number once: 7 against 19 ms for 12M parameters on two cores, 12 against 64 on one (PyTorch 2.13).
        fused = all(parameter.device.type in FUSED and parameter.is_floating_point() for group in kept for parameter in group["params"])
        out.append(torch.optim.AdamW(kept, lr=learning_rate, betas=betas, eps=epsilon, fused=fused))
    if orthogonalised:
        out.append(Muon([matrices[name] for name in matrices if name in orthogonalised], learning_rate, weight_decay, products=products))
    return out


def _is_map(name: str, parameter: nn.Parameter) -> bool:
    """A matrix inside a block. One with a side of 1 (a filter) has nothing to orthogonalise."""
    return "blocks." in f".{name}" and min(parameter.shape[-2:]) > 1
