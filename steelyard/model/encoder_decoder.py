"""Encoder and decoder: one trunk reads a source, another writes a text about it, looking back by cross-attention (sequence to sequence).

m = encoder(x);   p(y_t | y_<t, x) = softmax(decoder(y_<t; m))         (arXiv:1409.3215, arXiv:1706.03762)

Each block of the decoder's plan becomes two: its mixer, then cross-attention with its channel. The encoder's attention sees the whole
source; recurrences in it read it in order. Answers begin after the border token and end with it.

Shapes: b rows, s source time, t time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.core.errors import ContextLengthError, UnsupportedError
from steelyard.model.depth.stacked import BlockPlan, StackedPlan
from steelyard.model.mixers.attention import AttentionPlan
from steelyard.model.mixers.cross_attention import SIDE, CrossAttentionLever, Encoded
from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.state import Dense
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk, TrunkPlan


@dataclass(frozen=True)
class EncoderDecoderPlan:
    """The plans of both trunks; `border` is the target's token before its first and after its last."""

    encoder: TrunkPlan
    decoder: TrunkPlan
    border: int = 0

    def build(self) -> EncoderDecoder:
        return EncoderDecoder(self)

    @property
    def context(self) -> int:
        """Most tokens of a source or of a target."""
        return min(self.encoder.context, self.decoder.context)

    @property
    def width(self) -> int:
        return self.decoder.width

    @property
    def depth(self) -> Any:
        return self.decoder.depth

    @property
    def inputs(self) -> Any:
        """The tokens it reads; it writes the same where both share a tokenizer."""
        return self.encoder.inputs

    @property
    def heads(self) -> dict[str, Any]:
        """None that a trunk by itself could be asked through."""
        return {}

    @property
    def linears(self) -> Any:
        return self.decoder.linears


def two_trunks(
    source: DecoderPlan, target: DecoderPlan, cross: CrossAttentionLever, vocabularies: tuple[int, int], border: int = 0
) -> EncoderDecoderPlan:
    """An encoder after one plan and a decoder after another.

    Args:
        source: of the encoder; its head is left out, and its attention looks both ways.
        target: of the decoder; its blocks stand one after the other.
        cross: how the decoder looks at the source.
        vocabularies: tokens of the source and of the target.
        border: the target's token around its texts.

    Raises:
        RecipeError: parts that do not fit the sizes.
    """
    reading, writing = source.trunk(vocabularies[0], both_ways=True), target.trunk(vocabularies[1])
    if type(reading.depth) is not StackedPlan or type(writing.depth) is not StackedPlan:
        raise UnsupportedError("encoder and decoder are plain stacks of blocks", do="Leave `stack` and `inputs` as they are.")
    both_ways = [
        replace(block, mixer=replace(block.mixer, causal=False)) if isinstance(block.mixer, AttentionPlan) else block
        for block in reading.depth.blocks
    ]
    blocks: list[BlockPlan] = []
    for block in writing.depth.blocks:
        blocks += [replace(block, channel=None), replace(block, mixer=cross.beside(target, source.width))]
    return EncoderDecoderPlan(
        replace(reading, depth=StackedPlan(tuple(both_ways)), heads={}), replace(writing, depth=StackedPlan(tuple(blocks))), border
    )


class EncoderDecoder(nn.Module):
    """Two trunks; sources int64 [b, s] with their lengths, targets int64 [b, t]."""

    def __init__(self, plan: EncoderDecoderPlan):
        super().__init__()
        self.plan = plan
        self.encoder, self.decoder = Trunk(plan.encoder), Trunk(plan.decoder)
        self.heads = nn.ModuleDict()

    def parameter_count(self) -> int:
        """Numbers that were learned."""
        return self.encoder.parameter_count() + self.decoder.parameter_count()

    def weight_bytes(self) -> int:
        """Bytes of all weights in memory."""
        return self.encoder.weight_bytes() + self.decoder.weight_bytes()

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def encode(self, source_bs: Tensor, lengths: Sequence[int]) -> Encoded:
        """What the decoder will look at."""
        rows, time = source_bs.shape
        step = Step((), (0,) * rows, tuple(lengths), time, source_bs.device)
        return Encoded(self.encoder(source_bs, step), tuple(lengths))

    def logits(self, encoded: Encoded, ids_bt: Tensor) -> Tensor:
        """float32 [b, t, vocabulary]: what follows each token of the targets, which begin with the border."""
        rows, time = ids_bt.shape
        step = replace(Step.whole(rows, time, ids_bt.device), side={SIDE: encoded})
        return self.decoder.logits(ids_bt, step)

    def forward(self, source_bs: Tensor, lengths: Sequence[int], ids_bt: Tensor) -> Tensor:
        return self.logits(self.encode(source_bs, lengths), ids_bt)

    @torch.inference_mode()
    def answer(self, encoded: Encoded, most: int) -> list[list[int]]:
        """The likeliest next token, again and again, until the border or `most` tokens; the border is left out.

        Raises:
            ContextLengthError: `most` is more than the decoder was made for.
        """
        writing, border = Writing(self, encoded, most), self.plan.border
        rows = len(encoded.lengths)
        last, written, going = [border] * rows, [[] for _ in range(rows)], [True] * rows
        for _ in range(most):
            last = writing(last).argmax(-1).tolist()
            for row, token in enumerate(last):
                going[row] = going[row] and token != border
                if going[row]:
                    written[row].append(token)
            if not any(going):
                break
        return written


class Writing:
    """Targets on their way, token by token, each in a slot of its own; a target begins with the border.

    Args:
        encoded: what they look back at, one source a slot; or one source that all look back at.
        most: tokens that will be read of each.
        slots: how many targets there are; None is one for each source.

    Raises:
        ContextLengthError: `most` is more than the decoder was made for.
    """

    def __init__(self, model: EncoderDecoder, encoded: Encoded, most: int, slots: int | None = None):
        if most > model.plan.decoder.context:
            raise ContextLengthError(f"{most} tokens, but the decoder writes at most {model.plan.decoder.context}", do="Ask for fewer.")
        sources = len(encoded.lengths)
        assert slots is None or sources in (1, slots)
        self._model, self._most = model, most
        self._read = [0] * (slots or sources)
        self._encoded = {sources: encoded}
        self._state = model.decoder.new_state(len(self._read), most, Dense(device=model.device))

    def __call__(self, last: Sequence[int], slots: Sequence[int] | None = None) -> Tensor:
        """float32 [b, vocabulary]: what follows once these have been read, one token for each of some slots (all, from the first on)."""
        places, device = tuple(range(len(last)) if slots is None else slots), self._model.device
        starts = tuple(self._read[slot] for slot in places)
        step = Step(places, starts, (1,) * len(places), 1, device, side={SIDE: self._source(len(places))}, capacity=self._most)
        for slot in places:
            self._read[slot] += 1
        return self._model.decoder.logits(torch.tensor(last, device=device)[:, None], step, self._state)[:, 0]

    def fork(self, source: int, target: int) -> None:
        """One slot holds what another holds."""
        self._state.fork(source, target)
        self._read[target] = self._read[source]

    def _source(self, rows: int) -> Encoded:
        """What so many slots look back at: their own sources, or the one there is."""
        if rows not in self._encoded:
            (one,) = self._encoded[1].lengths
            self._encoded[rows] = Encoded(self._encoded[1].hidden.expand(rows, -1, -1), (one,) * rows)
        return self._encoded[rows]


def initialize_both(model: EncoderDecoder, source: DecoderPlan, target: DecoderPlan, seed: int) -> EncoderDecoder:
    """Fresh weights, as new decoders have them."""
    initialize(model.encoder, source, seed)
    initialize(model.decoder, target, seed + 1)
    return model
