"""Row invariance: does a row's product depend on how many other rows are multiplied with it?

Matrix libraries choose kernels by the number of rows, and kernels differ in their order of summation. `deterministic` needs the
fewest rows from which on a row's result stays bit-identical; it differs by machine, library and type, so it is measured here.
"""

from __future__ import annotations

import torch

from steelyard.core.errors import UnsupportedError
from steelyard.model.linears.linear import Linear
from steelyard.model.trunk import Trunk

MOST = 64
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, MOST)


def fewest_rows(trunk: Trunk) -> int:
    """The least number of rows from which on every linear's rows are bit-identical whatever their number, up to 64.

    Raises:
        UnsupportedError: on a machine where not even 64 rows are enough.
    """
    seen, fewest = set(), 1
    generator = torch.Generator().manual_seed(0)
    for module in trunk.modules():
        if not isinstance(module, Linear):
            continue
        shape = (module.inputs, module.outputs, module.storage.kind, next(module.storage.buffers(), module.weight).dtype)
        if shape in seen:
            continue
        seen.add(shape)
        fewest = max(fewest, _fewest_of(module, generator))
    return fewest


def _fewest_of(linear: Linear, generator: torch.Generator) -> int:
    x = torch.randn(MOST, linear.inputs, generator=generator).to(linear.storage.weight.device)  # type: ignore[union-attr]
    with torch.inference_mode():
        whole = linear.storage(x)
        fewest = 1
        for count in COUNTS:
            if not torch.equal(linear.storage(x[:count]), whole[:count]):
                fewest = next((larger for larger in COUNTS if larger > count), MOST + 1)
    if fewest > MOST:
        raise UnsupportedError(
            f"products of {linear.inputs} x {linear.outputs} differ with the number of rows up to {MOST} on this machine",
            do="Use deterministic=False, or kernels='reference' with dtype='float32'.",
        )
    return fewest
