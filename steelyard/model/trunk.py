"""The trunk every model is: inputs -> blocks -> norm -> heads. No technique has a flag here; plans say what is built.

Shapes: b rows, t time, d width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from steelyard.model.linears.linear import Linear
from steelyard.model.linears.native import NativeStorage
from steelyard.model.linears.packed import PackedStorage
from steelyard.model.linears.streamed import StreamedStorage, readers
from steelyard.model.norms import NormPlan
from steelyard.model.state import State, Storage
from steelyard.model.step import Step


class InputsPlan(Protocol):
    """Settings of inputs: token ids of a vocabulary to the residual stream."""

    @property
    def vocabulary(self) -> int: ...

    def build(self, width: int) -> Any: ...


class DepthPlan(Protocol):
    """Settings of a depth: the residual stream through blocks."""

    @property
    def blocks(self) -> Any: ...

    def build(self, width: int) -> Any: ...


class HeadPlan(Protocol):
    """Settings of a head, which may share the inputs' table."""

    def build(self, width: int, table: nn.Parameter) -> Any: ...


class LinearsPlan(Protocol):
    """Settings of a storage for linears."""

    def storage(self, inputs: int, outputs: int, bias: bool) -> nn.Module: ...


@dataclass(frozen=True)
class TrunkPlan:
    """What a trunk is built from.

    Attributes:
        width: of the residual stream.
        inputs: token ids to vectors (`inputs/`).
        depth: the blocks (`depth/`).
        heads: by name, `lm` or `pool` (`heads/`).
        norm: the final norm, or None.
        context: most tokens of a text the model was made for.
        linears: how the blocks' maps keep their weights, or None for floats.
    """

    width: int
    inputs: InputsPlan | Any
    depth: DepthPlan | Any
    heads: Mapping[str, HeadPlan | Any]
    norm: NormPlan | None = field(default_factory=NormPlan)
    context: int = 2048
    linears: LinearsPlan | None = None

    def build(self) -> Trunk:
        return Trunk(self)


class Trunk(nn.Module):
    """A model's body and heads.

    `forward` gives hidden states after the final norm; heads turn them into what one wants. Training, prefill, decode and
    encoding are all this one call.
    """

    def __init__(self, plan: TrunkPlan):
        super().__init__()
        self.plan = plan
        self.inputs = plan.inputs.build(plan.width)
        self.blocks = plan.depth.build(plan.width)
        self.norm = plan.norm.build(plan.width) if plan.norm else None
        self.heads = nn.ModuleDict({name: head.build(plan.width, self.inputs.weight) for name, head in plan.heads.items()})
        if plan.linears is not None:
            for module in self.blocks.modules():
                if isinstance(module, Linear):
                    module.storage = plan.linears.storage(module.inputs, module.outputs, module.bias is not None)

    @property
    def device(self) -> torch.device:
        return self.inputs.weight.device

    def forward(self, ids_bt: Tensor, step: Step, state: State | None = None) -> Tensor:
        """Hidden states [b, t, d] after the final norm."""
        x = self.blocks(self.inputs(ids_bt, step), step, state)
        if self.norm is not None:
            x = self.norm(x)
        return step.program.at("final_norm", x) if step.program else x

    def logits(self, ids_bt: Tensor, step: Step | None = None, state: State | None = None) -> Tensor:
        """float32 logits [b, t, vocabulary] of every token."""
        step = step or Step.whole(ids_bt.shape[0], ids_bt.shape[1], ids_bt.device)
        return self.heads["lm"](self(ids_bt, step, state), step)

    def training_logits(self, ids_bt: Tensor, segments_bt: Tensor | None = None) -> Tensor:
        """Logits without state; attention stays within a segment, and segment -1 is padding."""
        return self.logits(ids_bt, Step.whole(ids_bt.shape[0], ids_bt.shape[1], ids_bt.device, segments=segments_bt))

    def new_state(self, slots: int, tokens: int, storage: Storage) -> State:
        """Empty memory for `slots` sequences of at most `tokens` tokens."""
        parts = self.blocks.parts_with_memory()
        return State({name: part.new_pool(slots, tokens, storage) for name, part in parts.items()}, slots, tokens)

    def with_weights(self, dtype: torch.dtype) -> Trunk:
        """A trunk whose matrices are of another float type; vectors (norms, biases) stay as they are and packed storages too."""
        memo: dict[int, object] = {}
        for parameter in self.parameters():
            if parameter.dim() >= 2 and parameter.is_floating_point():
                memo[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
            else:
                memo[id(parameter)] = parameter
        for buffer in self.buffers():
            memo[id(buffer)] = buffer
        trunk = copy.deepcopy(self, memo)
        for module in trunk.modules():
            if isinstance(module, StreamedStorage):
                module.dtype = dtype
        return trunk

    def weight_bytes(self) -> int:
        """Bytes of all weights in memory (a tied table counts once, a packed copy of it once more, those on disk as what they are read into)."""
        seen = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in [*self.parameters(), *self.buffers()]}
        packed = {id(module): module.size for module in self.modules() if isinstance(module, PackedStorage | NativeStorage)}
        return sum(seen.values()) + sum(packed.values()) + sum(reader.bytes() for reader in readers(self))

    def parameter_count(self) -> int:
        """Numbers that were learned, those in few bits and those on disk among them."""
        few_bits = sum(getattr(module, "learned", 0) for module in self.modules())
        return few_bits + sum(parameter.numel() for parameter in self.parameters()) + sum(reader.count for reader in readers(self))
