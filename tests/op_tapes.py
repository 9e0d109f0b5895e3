"""What a CUDA graph does, on a CPU: operations are written down with the very tensors they read and wrote, and are repeated on these.

Like a graph, a tape knows neither Python nor shapes: what the host computed while it was written (a number, an index, a branch) stays as
it was. So a computation that secretly depends on the host says something else when it is repeated with other inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = ("aten._local_scalar_dense", "aten.item", "aten.nonzero", "aten.lift_fresh", "aten.is_nonzero")
"""Operations that read a number on the host, or bring one from there: a capture forbids the former, and freezes the latter."""


class Tape(TorchDispatchMode):
    """The operations of a computation, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, tuple, dict, Any]] = []
        self.asked: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and what keeps the compiler away takes seconds to import

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.entries.append((func, args, kwargs or {}, out))
        if str(func).removesuffix(".default") in HOST:
            self.asked.append(str(func))
        return out

    def repeat(self) -> None:
        """Computes all of it anew, from what lies at the inputs' addresses, to where the results lay."""
        for func, args, kwargs, out in self.entries:
            given = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() not in given:  # else a view, or written in place
                    old.copy_(new)


def on_tape(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A recorder for `GraphedTrunk`.

    Raises:
        AssertionError: what is computed asks the host.
    """
    with Tape() as tape:
        result = compute()
    assert not tape.asked, f"asked of the host: {sorted(set(tape.asked))}"

    def replay() -> Tensor:
        tape.repeat()
        return result

    return replay
