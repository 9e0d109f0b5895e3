"""Values made of a part's parameters alone (a long filter, a system in steps), kept between calls that learn nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Kept:
    """Holds values until a parameter is another one, has been changed in place or is about to learn (`Keeping`)."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.parameters: tuple[Tensor, ...] = ()  # held, so that no other one can stand where one of them stood
        self.marks: list[tuple[int, int]] = []
        self.values: dict[Hashable, Any] = {}

    def of(self, parameters: Sequence[Tensor], name: Hashable, make: Callable[[], T]) -> T:
        """The value called `name`; made anew, and not kept, where gradients are recorded."""
        if torch.is_grad_enabled():
            return make()
        marks = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in parameters]
        same = len(parameters) == len(self.parameters) and all(a is b for a, b in zip(parameters, self.parameters, strict=True))
        if not same or marks != self.marks:
            self.parameters, self.marks, self.values = tuple(parameters), marks, {}
        if name not in self.values:
            self.values[name] = make()
        return self.values[name]


class Keeping(nn.Module):
    """A part that keeps values, and forgets them when it is put into training mode: a fused optimizer and weights gathered from several
    processes change parameters in place without a mark on them."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = Kept()

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._kept.forget()
        return super().train(mode)


def bucket(length: int, least: int = 64) -> int:
    """The power of two that filters for a length are made for, so that few are kept."""
    return 1 << (max(length, least) - 1).bit_length()
