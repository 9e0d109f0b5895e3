"""What runs on GPUs alone: the Triton routines, where this machine has what runs them (Triton comes with PyTorch's builds for CUDA; extra
`gpu`), and CUDA graphs."""

from __future__ import annotations

import functools
import importlib.util
import weakref
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor


@functools.cache
def scans() -> ModuleType | None:
    """`triton_scans`, or None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    from steelyard.kernels import triton_scans  # needs Triton at its import

    return triton_scans


def runs_on(device: torch.device) -> bool:
    """Whether the routines compute tensors of a device."""
    return device.type == "cuda" and scans() is not None


def multiplies_float8(device: torch.device) -> bool:
    """Whether a device has products of 8-bit floats: NVIDIA's from Ada and Hopper on."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)


def multiplies_int8(device: torch.device) -> bool:
    """Whether a device has products of 8-bit integers in PyTorch: CPUs, and NVIDIA's GPUs from Turing on."""
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 5))


def recorder(device: torch.device) -> Callable[[Callable[[], Tensor]], Callable[[], Tensor]]:
    """What records computations on a device, to be repeated: as CUDA graphs, which share their memory and so run one at a time. On other
    devices a computation is its own recording."""
    return _Graphs(device) if device.type == "cuda" else lambda compute: compute


class _Graphs:
    """Records what is computed from tensors of fixed address. Twice the same must be the same: it is also run to warm libraries up."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.living: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):  # what libraries set up at their first call must not be in the graph
                compute()
            torch.cuda.current_stream().wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            memory = next((other.pool() for other in self.living), None)  # where the last graph is gone, its memory cannot be joined
            # Another engine's thread may ask for memory meanwhile, which a capture that looks at all threads would forbid.
            with torch.cuda.graph(graph, pool=memory, stream=self.stream, capture_error_mode="thread_local"):
                result = compute()
            self.living.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
