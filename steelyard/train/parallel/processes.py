"""Several processes that train together under torchrun: each takes part of every batch's lines, and their gradients are added up.

data      every process holds all weights; after the backward pass gradients are summed in buckets (arXiv:2006.15704)
sharded   every process holds a share of every weight, gradient and moment; a block's weights are gathered when it is computed and
          let go again (ZeRO-3, arXiv:1910.02054; FSDP, arXiv:2304.11277)

All processes go through the same batches, so that the place in the data, the budget and every decision are those of one process, and
what two have saved one can go on from. Communication a step, with P bytes of weights in float32 and n processes, for each of them:
data 2 P (n - 1) / n; sharded 3 P (n - 1) / n.

What parts add to the loss (the balance of experts, pondering, further tokens) is a mean over all processes' lines, and what they draw for
a whole step (recurrent depth's loops) is the first process's: parts ask for both through their call (`model/step.py`). A mixture of experts
sends how often each was chosen, for every layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.data.batching import NOT_LEARNED, Batch
from steelyard.model.depth.reversible import Reversible
from steelyard.model.depth.stacked import Block
from steelyard.model.step import Others
from steelyard.train.parallel.company import Way

T = TypeVar("T", bound=nn.Module)

BUCKET = 25 * 2**20
"""Bytes of gradients summed in one message."""


def joined(device: torch.device) -> Together:
    """The processes that torchrun has started; this one joins them if it has not yet."""
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Together(init_device_mesh(device.type, (dist.get_world_size(),)))


def parallelize(module: T, mesh: DeviceMesh, way: Way) -> T:
    """The same module, prepared for training by all processes of a mesh. It is changed in place; its own code knows nothing of it.

    Args:
        module: with equal weights in every process.
        mesh: one dimension of processes.
        way: see the module's docstring.
    """
    if way == "data":
        for parameter in module.parameters():
            dist.broadcast(parameter.detach(), src=0, group=mesh.get_group())
        return module
    if any(isinstance(part, Reversible) for part in module.modules()):
        raise UnsupportedError(
            "a reversible stack asks for its blocks' parts one by one, so their weights cannot be shared out",
            do="Train it with `parallel: data`.",
        )
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    if not blocks:
        raise UnsupportedError("the module has no blocks to share out", do="Train it with `parallel: data`.")
    for part in [*blocks, module]:
        unit = fully_shard(part, mesh=mesh)
        # Sums, not means: the loop divides once, by the learned tokens of all processes.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums
    return module


class Together:
    """The processes of a mesh of one dimension."""

    def __init__(self, mesh: DeviceMesh):
        self.mesh, self.group = mesh, mesh.get_group()
        self.number, self.size = mesh.get_local_rank(), mesh.size()
        self.first = self.number == 0
        self.device = torch.device(mesh.device_type)
        self.others: Others | None = self
        apart: Any = torch.compiler.disable
        self.summed: Callable[[Tensor], Tensor] = apart(self._summed)  # compiled blocks call it as it is

    def prepare(self, module: T, way: Way) -> T:
        return parallelize(module, self.mesh, way)

    def part(self, batch: Batch) -> Batch:
        lines = np.array_split(np.arange(len(batch.ids)), self.size)[self.number]
        if len(lines):
            segments = None if batch.segments is None else batch.segments[lines]
            return Batch(batch.ids[lines], batch.targets[lines], segments, batch.where, batch.tokens * len(lines) // len(batch.ids))
        # There are fewer lines than processes: this one computes a line that it learns nothing from, for the others wait for it.
        segments = None if batch.segments is None else batch.segments[:1]
        return Batch(batch.ids[:1], np.full_like(batch.targets[:1], NOT_LEARNED), segments, batch.where, 0)

    def total(self, values: list[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _others():
            dist.all_reduce(sums, group=self.group)
        return sums.tolist()

    def _summed(self, own: Tensor) -> Tensor:
        sums = own.to(self.device, torch.float64, copy=True)
        with _others():
            dist.all_reduce(sums, group=self.group)
        return sums.to(own.device, own.dtype)

    def agreed(self, value: float) -> float:
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        with _others():
            dist.broadcast(shared, group=self.group, group_src=0)
        return float(shared)

    def share_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Where weights are sharded, the backward pass has done it."""
        bucket: list[Tensor] = []
        for parameter in parameters:
            if isinstance(parameter, DTensor):
                continue
            if parameter.grad is None:  # it got none here, but perhaps elsewhere
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(gradient.numel() * gradient.element_size() for gradient in bucket) >= BUCKET:
                self._sum(bucket)
                bucket = []
        self._sum(bucket)

    def _sum(self, gradients: list[Tensor]) -> None:
        if not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with _others():
            dist.all_reduce(flat, group=self.group)
        for gradient, piece in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def like(self, whole: Tensor, model: Tensor) -> Tensor:
        if not isinstance(model, DTensor):
            return whole.to(model.device)
        # Every process has the whole, so each takes its share without a message.
        return distribute_tensor(whole.to(model.device), model.device_mesh, model.placements, src_data_rank=None)

    def refresh(self, module: nn.Module) -> None:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    def wait(self) -> None:
        with _others():
            dist.barrier(group=self.group)


@contextlib.contextmanager
def _others() -> Iterator[None]:
    """Says so where another process is gone; what went wrong there, that one tells."""
    try:
        yield
    except RuntimeError as error:
        raise SteelyardError(
            "another of the processes that train together has ended, or cannot be reached", do="Look at what it said; run it again."
        ) from error
