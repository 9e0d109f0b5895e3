"""Row invariance: does a row's product depend on how many other rows are multiplied with it?

Matrix libraries choose kernels by the number of rows and treat the last few rows of a product apart, and kernels differ in their
order of summation. `deterministic` therefore multiplies rows in multiples of a tile for which every row comes out bit-identical
whatever the multiple. The tile differs by machine, library and type, so it is measured here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steelyard.core.errors import UnsupportedError
from steelyard.model.linears.linear import Linear
from steelyard.model.trunk import Trunk

TILES = (1, 2, 4, 8, 16, 32)
WIDE = 16384
"""A linear with more outputs than this (the head) is tried on fewer rows: it never meets many at once."""
MORE = 4
"""How many times more rows a step may have, where long guesses of many sequences are verified at once."""


def row_tile(trunk: Trunk) -> int:
    """The least tile such that every linear's rows are bit-identical in any multiple of it (tried up to 1024 rows).

    Raises:
        UnsupportedError: on a machine where no tile up to 32 is enough.
    """
    seen, tile = set(), 1
    generator = torch.Generator().manual_seed(0)
    for module in trunk.modules():
        if not isinstance(module, Linear) or getattr(module.storage, "row_invariant", False):
            continue
        shape = (module.inputs, module.outputs, module.storage.kind, repr(module.branches))
        if shape not in seen:
            seen.add(shape)
            tile = _tile_of(module, tile, generator, trunk.device)
    return tile


def _tile_of(linear: Linear, least: int, generator: torch.Generator, device: torch.device) -> int:
    rows = 32 if linear.outputs > WIDE else 256
    with torch.inference_mode():
        x = telling(linear, rows, generator).to(device)
        whole = linear(x)
        many = torch.equal(linear(x.repeat(MORE, 1)), whole.repeat(MORE, 1))
        for tile in TILES if many else ():
            if tile >= least and all(torch.equal(_in_pieces(linear, x, count), whole) for count in _multiples(tile, rows)):
                return tile
    raise UnsupportedError(
        f"products of {linear.inputs} x {linear.outputs} differ with the number of rows on this machine, in tiles of up to {TILES[-1]}",
        do="Use deterministic=False.",
    )


def telling(linear: Linear, rows: int, generator: torch.Generator) -> Tensor:
    """Inputs [rows, in] that bring every difference in the order of summation to light, even behind 8 bits of mantissa.

    In every other row the terms of one output cancel in pairs (x_i = s w_j, x_j = -s w_i), so that nothing but the rounding of
    partial sums is left of it. With ordinary numbers, bfloat16 hides most differences until one flips a token.
    """
    x = torch.randn(rows, linear.inputs, generator=generator)
    shuffled = torch.rand(rows, linear.inputs, generator=generator).argsort(1)
    half = linear.inputs // 2
    first, second = shuffled[:, :half], shuffled[:, half : 2 * half]
    weights = linear.weight.detach()[torch.arange(rows) % linear.outputs].float().cpu()
    scale = 2.0 ** torch.randint(0, 8, (rows, half), generator=generator)
    cancelling = torch.zeros_like(x).scatter_(1, first, weights.gather(1, second) * scale)
    cancelling.scatter_(1, second, -weights.gather(1, first) * scale)
    x[::2] = cancelling[::2]
    return x


def _multiples(tile: int, rows: int) -> list[int]:
    return sorted({tile * factor for factor in (1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 24, 32) if tile * factor < rows})


def _in_pieces(linear: Linear, x: Tensor, count: int) -> Tensor:
    """The product computed `count` rows at a time; a rest is filled up with the rows before it."""
    pieces = [linear(x[start : start + count]) for start in range(0, len(x) - count + 1, count)]
    if rest := len(x) % count:
        pieces.append(linear(x[-count:])[-rest:])
    return torch.cat(pieces)
