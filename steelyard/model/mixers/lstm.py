"""LSTM: a cell that is kept, written to and read from through gates. The old baseline.

i, f, g, o = W x_t + U h_{t-1} + b;   c_t = sigma(f) c_{t-1} + sigma(i) tanh(g);   h_t = sigma(o) tanh(c_t)   (Hochreiter and
Schmidhuber 1997, with the forget gate of Gers et al. 2000); y_t = V h_t joins the residual stream.

U starts orthogonal and the forget gate open (b_f = 1, Jozefowicz et al. 2015): without both it is no baseline. Cost: each token waits
for the one before it, so training takes as many small products as a text has tokens; they run in PyTorch's own kernel, documents as
rows of their own. Memory: 2 hidden numbers.

Shapes: b rows, t time, h hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.mixers.apart import apart
from steelyard.model.mixers.documents import each_document
from steelyard.model.mixers.recurrence import Recurrence
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step


@dataclass(frozen=True)
class LstmPlan:
    """`hidden` cells."""

    hidden: int

    def build(self, width: int) -> Lstm:
        return Lstm(width, self)


class Lstm(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    def __init__(self, width: int, plan: LstmPlan):
        super().__init__()
        self.plan = plan
        self.input = Linear(width, 4 * plan.hidden, True)  # gates in PyTorch's order: input, forget, cell, output
        self.recurrent = Linear(plan.hidden, 4 * plan.hidden, False)
        self.output = Linear(plan.hidden, width, False)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Draws the gates' maps; what is not a dense float is left to its storage."""
        own, hidden = [], self.plan.hidden
        bias = self.input.bias
        if bias is not None:
            bias.zero_()
            bias[hidden : 2 * hidden] = 1.0
        if isinstance(self.input.storage, DenseStorage):
            self.input.weight.uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator)
            own.append(self.input.storage.weight)
        if isinstance(self.recurrent.storage, DenseStorage):
            square = torch.randn(4, hidden, hidden, generator=generator)
            self.recurrent.weight.copy_(torch.linalg.qr(square).Q.flatten(0, 1))
            own.append(self.recurrent.storage.weight)
        return own

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (self.plan.hidden,), "cell": (self.plan.hidden,)}

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        weights = None if step.time == 1 or step.deterministic or step.readable else self._dense(x_btd)
        if weights is None:
            h_bth, memory = apart(step, (self.input(x_btd, step),), memory, self._one_by_one)
        else:
            with torch.autocast(x_btd.device.type, enabled=False):
                h_bth, memory = each_document(x_btd.float(), step, memory, lambda *rows: _by_kernel(weights, *rows))
        return self.output(h_bth.to(x_btd.dtype), step), memory

    def _dense(self, x_btd: Tensor) -> list[Tensor] | None:
        """The weights as PyTorch's kernel takes them, or None where they are kept or changed in a way it does not know."""
        maps = (self.input, self.recurrent)
        if any(not isinstance(linear.storage, DenseStorage) or len(linear.branches) for linear in maps):
            return None
        if any(linear.weight.dtype != x_btd.dtype for linear in maps) and x_btd.dtype == torch.float32:
            return None  # narrow weights round what they multiply
        bias = self.input.bias
        assert bias is not None
        return [self.input.weight.float(), self.recurrent.weight.float(), bias.float(), torch.zeros_like(bias, dtype=torch.float32)]

    def _one_by_one(self, step: Step, fed: Sequence[Tensor], memory: Memory) -> tuple[Tensor, Memory]:
        """The equation itself, for maps of any kind; `fed` is what the input's map made of it."""
        h, c, out = memory["hidden"], memory["cell"], []
        begins = step.begins if step.begins is None or step.real is None else step.begins & step.real  # padding begins no document
        (fed_btg,) = fed
        for time in range(fed_btg.shape[1]):
            if begins is not None:
                on = (~begins[:, time, None]).to(h.dtype)
                h, c = h * on, c * on
            gates = fed_btg[:, time].float() + self.recurrent(h.to(fed_btg.dtype)[:, None], step)[:, 0].float()
            let_in, kept, new, read = gates.chunk(4, -1)
            new_c = kept.sigmoid() * c + let_in.sigmoid() * new.tanh()
            new_h = read.sigmoid() * new_c.tanh()
            if step.real is not None:
                real = step.real[:, time, None]
                new_h, new_c = torch.where(real, new_h, h), torch.where(real, new_c, c)
            h, c = new_h, new_c
            out.append(h)
        return torch.stack(out, 1), {"hidden": h, "cell": c}

    def mixing_flops(self, time: int) -> int:
        """Forward operations besides its maps': none that are products of matrices."""
        return 0


def _by_kernel(weights: list[Tensor], x_nld: Tensor, lengths: tuple[int, ...], memory: Memory) -> tuple[Tensor, Memory]:
    """Rows of any lengths through PyTorch's kernel."""
    before = memory["hidden"][None].contiguous(), memory["cell"][None].contiguous()
    # bias, layers, dropout, training, bidirectional (, rows first)
    if min(lengths) == x_nld.shape[1]:
        h, last, cell = torch.lstm(x_nld, before, weights, True, 1, 0.0, False, False, True)
        return h, {"hidden": last[0], "cell": cell[0]}
    packed = pack_padded_sequence(x_nld, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    assert order is not None and back is not None
    sorted_before = (before[0][:, order], before[1][:, order])
    data, last, cell = torch.lstm(packed.data, packed.batch_sizes, sorted_before, weights, True, 1, 0.0, False, False)
    h, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=x_nld.shape[1])
    return h, {"hidden": last[0][back], "cell": cell[0][back]}


class LstmLever(PartLever):
    """LSTM as a new decoder's mixer."""

    name: ClassVar[str] = "lstm"
    idea: ClassVar[str] = (
        "A cell of fixed size goes along the text; gates decide at each token what is forgotten, written and read. "
        "It is the baseline all others were once measured against; training cannot go along a text in parallel."
    )
    equation: ClassVar[str] = "c_t = sigma(f) c_{t-1} + sigma(i) tanh(g);  h_t = sigma(o) tanh(c_t);  i, f, g, o = W x_t + U h_{t-1} + b"
    paper: ClassVar[str] = "doi:10.1162/neco.1997.9.8.1735; forget gate doi:10.1162/089976600300015015; sequences arXiv:1409.3215"
    cost: ClassVar[str] = "8 hidden (width + hidden) + 2 hidden width operations a token, one token after the other; memory of fixed size"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"

    hidden: int | None = Field(None, ge=1, le=2**17, description="cells; unset: the width")

    def plan(self, decoder: Decoder, layer: int) -> LstmPlan:
        return LstmPlan(self.hidden or decoder.width)
