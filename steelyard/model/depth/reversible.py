"""Reversible depth: two streams, from whose end every earlier value is computed again, so that training keeps the end alone.

y1 = x1 + F(x2);  y2 = x2 + G(y1)          F: mixer(norm(.)),  G: channel(norm(.))
x2 = y2 - G(y1);  x1 = y1 - F(x2)          which is how the backward pass gets the inputs back   (Reformer, arXiv:2001.04451, section 3)

Both streams begin as the inputs; their mean goes on to the final norm (Reformer concatenates them, which needs a wider head).
Cost: memory for activations does not grow with the depth; backward computes every block once more, a third more operations.
It is another model than the plain stack of the same blocks, and learns a little more slowly (docs/results/reversible.json).
Inputs come back up to the rounding of a sum and a difference (< 1e-5 in float32 for tens of blocks).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steelyard.core.errors import RecipeError, UnsupportedError
from steelyard.model.depth.stacked import BlockPlan, Stacked, StackedPlan
from steelyard.model.depth.turns import refuse_leaving_out
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.state import State
from steelyard.model.step import Step

Part = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ReversiblePlan:
    """The blocks, in order; each has a mixer and a channel, and norms before them."""

    blocks: tuple[BlockPlan, ...]

    def build(self, width: int) -> Reversible:
        return Reversible(width, self)


class Reversible(Stacked):
    """Runs its blocks in order over two streams."""

    def __init__(self, width: int, plan: ReversiblePlan):
        super().__init__(width, StackedPlan(plan.blocks))
        self.plan = plan  # type: ignore[assignment]

    def forward(self, x: Tensor, step: Step, state: State | None) -> Tensor:
        refuse_leaving_out(step)
        if torch.is_grad_enabled() and state is None:
            return self._rebuilding(x, step)
        return self.forward_plainly(x, step, state)

    def forward_plainly(self, x: Tensor, step: Step, state: State | None = None) -> Tensor:
        """The equation; with gradients, the twin that keeps all activations and that `forward` is tested against."""
        first = second = x
        for block in self:
            mixer, channel = parts(block, step, state)
            first = first + mixer(second)
            second = second + channel(first)
        return (first + second) / 2

    def _rebuilding(self, x: Tensor, step: Step) -> Tensor:
        weights = [parameter for parameter in self.parameters() if parameter.requires_grad]
        before, carried = list(step.losses), set(step.carry)
        told: list[str] = []
        y, *losses = _Rebuilding.apply(x, self, step, told, *weights)  # type: ignore[misc]
        if set(step.carry) != carried:
            raise UnsupportedError(
                "these blocks hand values on to later ones, whose gradients a reversible stack would lose", do="Use `stack: stacked`."
            )
        step.losses[:] = [*before, *zip(told, losses, strict=True)]
        return y


def parts(block: Any, step: Step, state: State | None = None) -> tuple[Part, Part]:
    """(F, G) of a block."""

    def mixer(x: Tensor) -> Tensor:
        return block._mix(block.mixer_norm(x), step, state)

    def channel(x: Tensor) -> Tensor:
        return block._channel(block.channel_norm(x), step, state)

    return mixer, channel


class _Rebuilding(torch.autograd.Function):
    """All blocks at once. Parts draw the same random numbers (dropout) and cast as they did going forward.

    Losses that parts tell (`step.losses`) come out as outputs beside the stream, so that their gradients find their way back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Reversible, step: Step, told: list[str], *weights: nn.Parameter) -> tuple[Tensor, ...]:
        ctx.blocks, ctx.step, ctx.weights, ctx.device = blocks, step, weights, x.device
        ctx.casts = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)
        ctx.random, ctx.losses, losses = [], [], []
        first = second = x
        for block in blocks:
            mixer, channel = parts(block, step)
            for number, part in enumerate((mixer, channel)):
                ctx.random.append(_random_state(x.device))
                step.losses.clear()
                if number == 0:
                    first = first + part(second)
                else:
                    second = second + part(first)
                ctx.losses.append(len(step.losses))
                told += [name for name, _ in step.losses]
                losses += [loss.detach().clone() for _, loss in step.losses]
        step.losses.clear()
        ctx.save_for_backward(first, second)
        return (first + second) / 2, *losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *loss_gradients: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        first, second = ctx.saved_tensors
        to_first = to_second = gradient / 2
        found: dict[int, Tensor] = {}
        number, rest = len(ctx.random), list(loss_gradients)
        for block in reversed(ctx.blocks):
            mixer, channel = parts(block, ctx.step)
            for part, modules in ((channel, (block.channel_norm, block.channel)), (mixer, (block.mixer_norm, block.mixer))):
                number -= 1
                asked = [rest.pop() for _ in range(ctx.losses[number])][::-1]
                read, to_written = (first, to_second) if part is channel else (second, to_first)
                weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
                with torch.enable_grad(), _as_before(ctx, ctx.random[number]):
                    ctx.step.losses.clear()
                    leaf = read.detach().requires_grad_()
                    written = part(leaf)
                    told = [loss for _, loss in ctx.step.losses]
                    gradients = torch.autograd.grad(
                        [written, *told], [leaf, *weights], [to_written.to(written.dtype), *asked], allow_unused=True
                    )
                for weight, one in zip(weights, gradients[1:], strict=True):
                    if one is not None:
                        found[id(weight)] = found[id(weight)] + one if id(weight) in found else one
                back = gradients[0] if gradients[0] is not None else torch.zeros_like(read)
                if part is channel:
                    second, to_first = second - written.detach(), to_first + back
                else:
                    first, to_second = first - written.detach(), to_second + back
        ctx.step.losses.clear()
        return to_first + to_second, None, None, None, *(found.get(id(weight)) for weight in ctx.weights)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextlib.contextmanager
def _as_before(ctx: Any, random: tuple[Tensor, Tensor | None]) -> Iterator[None]:
    """Random numbers and automatic casting as they were going forward."""
    enabled, dtype = ctx.casts
    devices = [ctx.device] if random[1] is not None else []
    with torch.random.fork_rng(devices), torch.autocast(ctx.device.type, dtype, enabled=enabled):
        torch.set_rng_state(random[0])
        if random[1] is not None:
            torch.cuda.set_rng_state(random[1], ctx.device)
        yield


def block_inputs(blocks: Reversible, first: Tensor, second: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """The two streams before the first block, computed from those after the last: what the backward pass goes through."""
    with torch.no_grad():
        for block in reversed(blocks):  # type: ignore[call-overload]
            mixer, channel = parts(block, step)
            second = second - channel(first)
            first = first - mixer(second)
    return first, second


class ReversibleLever(PartLever):
    """A reversible stack in a new decoder."""

    name: ClassVar[str] = "reversible"
    idea: ClassVar[str] = (
        "Two streams take turns in reading each other, so that every earlier value follows from the last ones. "
        "Training computes it again instead of keeping it: memory for activations does not grow with the depth."
    )
    equation: ClassVar[str] = "y1 = x1 + mixer(norm(x2));  y2 = x2 + channel(norm(y1));  out = (y1 + y2) / 2"
    paper: ClassVar[str] = "arXiv:2001.04451; arXiv:1707.04585"
    cost: ClassVar[str] = "every block once more in the backward pass; activations of one block, whatever the depth"
    identity: ClassVar[Any] = "there is none: another way to stack blocks; gradients are those of the same stack with all activations kept"
    place: ClassVar[Any] = "stack"

    def plan(self, decoder: Decoder, layer: int) -> ReversiblePlan:
        blocks = tuple(decoder.block(index) for index in range(decoder.depth))
        if bare := [index for index, block in enumerate(blocks) if block.channel is None]:
            raise RecipeError(
                f"`reversible`: block {bare[0]} has no channel, but the second stream is what channels write",
                do="Give `channel` (gated, say).",
            )
        return ReversiblePlan(blocks)
