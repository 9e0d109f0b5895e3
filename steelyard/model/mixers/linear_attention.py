"""Linear attention: the softmax's kernel is replaced by a product of features, so that sums over the past become a matrix of fixed size.

y_t = phi(q_t) S_t / (phi(q_t) . z_t),  S_t = sum_{s <= t} phi(k_s)^T v_s,  z_t = sum_{s <= t} phi(k_s)      (arXiv:2006.16236, eq. 9-12)

Whole texts are computed in chunks: within a chunk by masked scores, across chunks by the sums (the recurrence of chunks is as many
matrix products as there are chunks). Cost: O(t (chunk + head_width) width); memory head_width (head_width + 1) numbers a head.

Shapes: b rows, h heads, t time, n chunks, c tokens of a chunk, d head width, f features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from steelyard.core.errors import RecipeError
from steelyard.model.linears.joined import together
from steelyard.model.linears.linear import Linear
from steelyard.model.mixers.apart import apart
from steelyard.model.mixers.attention import fitting_heads
from steelyard.model.mixers.recurrence import Recurrence
from steelyard.model.mixers.rotary import Rotary
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.recurrent_state import Memory
from steelyard.model.step import Step

CHUNK = 64
"""Tokens whose scores are computed as a matrix; more cost time that grows with their number, fewer cost passes."""

NO_LEVEL = -1e4
"""The level of nothing: its exponential is 0 beside any other."""


@dataclass(frozen=True)
class LinearAttentionPlan:
    """`heads` of `head_width`; `rotary` turns queries and keys after their features (RoFormer, section 3.3), or None."""

    heads: int
    head_width: int
    rotary: Rotary | None = None

    def build(self, width: int) -> LinearAttention:
        return LinearAttention(width, self)


class LinearAttention(Recurrence):
    """x [b, t, width] -> [b, t, width]."""

    same_input = (("query", "key", "value"),)

    def __init__(self, width: int, plan: LinearAttentionPlan):
        super().__init__()
        self.plan = plan
        inner = plan.heads * plan.head_width
        self.query, self.key, self.value = (Linear(width, inner, False) for _ in range(3))
        self.output = Linear(inner, width, False)

    def memory(self) -> Mapping[str, tuple[int, ...]]:
        plan = self.plan
        return {"sums": (plan.heads, plan.head_width, plan.head_width), "weights": (plan.heads, plan.head_width)}

    def run(self, x_btd: Tensor, step: Step, memory: Memory) -> tuple[Tensor, Memory]:
        y_bti, memory = apart(step, together(x_btd, step, (self.query, self.key, self.value)), memory, self._mixed)
        return self.output(y_bti.to(x_btd.dtype), step), memory

    def _mixed(self, step: Step, maps: Sequence[Tensor], memory: Memory) -> tuple[Tensor, Memory]:
        q, k, v = (part.unflatten(-1, (self.plan.heads, self.plan.head_width)).transpose(1, 2).float() for part in maps)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if step.real is not None:
            k = k * step.real[:, None, :, None]
        y, sums, weights = causal_sums(q, k, v, memory["sums"], memory["weights"], step, self.plan.rotary)
        return y.transpose(1, 2).flatten(2), {"sums": sums, "weights": weights}

    def mixing_flops(self, time: int) -> int:
        """Forward operations besides its maps'."""
        d, seen = self.plan.head_width, min(CHUNK, time)
        return self.plan.heads * time * (4 * d * d + 2 * seen * d)


class Levels(NamedTuple):
    """Logarithms of what keys' features were divided by so that they stay within floats (Performer).

    Attributes:
        own_bht: each key's.
        running_bht: the greatest so far in each token's document; sums are relative to it.
        before_bh: what the sums before the call are relative to.
    """

    own_bht: Tensor
    running_bht: Tensor
    before_bh: Tensor


def causal_sums(
    q_bhtf: Tensor,
    k_bhtf: Tensor,
    v_bhtd: Tensor,
    sums_bhfd: Tensor,
    weights_bhf: Tensor,
    step: Step,
    rotary: Rotary | None = None,
    levels: Levels | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of the values so far, with weights q . k that are never negative.

    Args:
        q_bhtf, k_bhtf: features of queries and keys; those of padding keys are 0.
        v_bhtd: values.
        sums_bhfd, weights_bhf: of the text before the call.
        step: the call; documents on one line do not see each other.
        rotary: turns features in the numerator only, which then tells distances.
        levels: of keys whose features were scaled each by its own factor; None where they were not.

    Returns:
        [b, h, t, d], and the sums after the call.
    """
    b, h, t, f = q_bhtf.shape
    padding = -t % CHUNK if t > CHUNK else 0
    chunk = CHUNK if t > CHUNK else t
    weigh_q, weigh_k = q_bhtf, k_bhtf
    if rotary is not None:
        q_bhtf, k_bhtf = rotary.apply(q_bhtf, step), rotary.apply(k_bhtf, step)
    chunks = (t + padding) // chunk

    def cut(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, padding)).unflatten(2, (chunks, chunk))  # [b, h, n, c, *]

    q, k, v, weigh_q, weigh_k = cut(q_bhtf), cut(k_bhtf), cut(v_bhtd), cut(weigh_q), cut(weigh_k)
    mask = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    ends = reaches = carries = None
    if step.begins is not None:
        document = F.pad(step.begins.cumsum(1), (0, padding), mode="replicate").unflatten(1, (chunks, chunk))[:, None]  # [b, 1, n, c]
        mask = mask & (document[..., :, None] == document[..., None, :])
        ends = (document == document[..., -1:])[..., None]  # keys that the next chunk may still see
        reaches = (document == F.pad(document[..., -1], (1, 0))[..., :-1, None])[..., None]  # queries that may see the chunk before
        carries = (document[..., -1:] == F.pad(document[..., -1], (1, 0))[..., :-1, None])[..., None]
    seen: Tensor = mask
    if levels is not None:
        own = F.pad(levels.own_bht, (0, padding), value=NO_LEVEL).unflatten(2, (chunks, chunk))
        running = F.pad(levels.running_bht, (0, padding), mode="replicate").unflatten(2, (chunks, chunk))
        final = running[..., -1]  # [b, h, n]
        previous = torch.cat((levels.before_bh[..., None], final[..., :-1]), -1)
        seen = (own[..., None, :] - running[..., :, None]).masked_fill(~mask, float("-inf")).exp()
        # Differences are above 0 only between documents, whose products are nothing anyway.
        kept = (own - final[..., None]).clamp(max=0).exp()[..., None]
        ends = kept if ends is None else ends * kept
        reached = (previous[..., None] - running).clamp(max=0).exp()[..., None]
        reaches = reached if reaches is None else reaches * reached
        carried = (previous - final).clamp(max=0).exp()[..., None, None]
        carries = carried if carries is None else carries * carried
    kept_k = k if ends is None else k * ends
    kept_weights = weigh_k if ends is None else weigh_k * ends
    additions = torch.cat((kept_k.transpose(-1, -2) @ v, kept_weights.sum(-2)[..., None]), -1)  # [b, h, n, f, d + 1]
    state, before = torch.cat((sums_bhfd, weights_bhf[..., None]), -1), []
    for number in range(chunks):
        before.append(state)
        state = state + additions[:, :, number] if carries is None else state * carries[:, :, number] + additions[:, :, number]
    earlier = torch.stack(before, 2)
    scores = (q @ k.transpose(-1, -2)) * seen
    weigh_scores = scores if rotary is None else (weigh_q @ weigh_k.transpose(-1, -2)) * seen
    across, across_weight = q @ earlier[..., :-1], weigh_q @ earlier[..., -1:]
    if reaches is not None:
        across, across_weight = across * reaches, across_weight * reaches
    numerator = scores @ v + across
    denominator = weigh_scores.sum(-1, keepdim=True) + across_weight
    # Turned numerators may be large beside small denominators; scaled features are small only together.
    y = (numerator / denominator.clamp(min=1e-6 if levels is None else 1e-30)).flatten(2, 3)[:, :, :t]
    return y, state[..., :-1], state[..., -1]


class LinearAttentionLever(PartLever):
    """Linear attention as a new decoder's mixer."""

    name: ClassVar[str] = "linear_attention"
    idea: ClassVar[str] = (
        "Features of queries and keys take the place of the softmax, so the past is a matrix of fixed size: time grows with the text "
        "and not with its square. What was stored early is hard to tell apart later, because everything is added up."
    )
    equation: ClassVar[str] = "y_t = phi(q_t) S_t / (phi(q_t) . z_t);  S_t = S_{t-1} + phi(k_t)^T v_t;  phi = elu + 1"
    paper: ClassVar[str] = "arXiv:2006.16236"
    cost: ClassVar[str] = "4 head_width width operations a token besides its maps; memory of fixed size"
    identity: ClassVar[Any] = "there is none: another mixer"
    place: ClassVar[Any] = "mixer"

    heads: int | None = Field(None, ge=1, le=4096, description="heads; unset: one for 64 of the width, at least 2")
    rotary: bool = Field(True, description="turn features by their positions; without, order is only told by what is summed")

    def plan(self, decoder: Decoder, layer: int) -> LinearAttentionPlan:
        heads = self.heads or fitting_heads(decoder.width)
        if decoder.width % heads or self.rotary and (decoder.width // heads) % 2:
            raise RecipeError(
                f"`linear_attention`: {heads} heads do not cut the width {decoder.width} into even parts", do="Change one of them."
            )
        return LinearAttentionPlan(heads, decoder.width // heads, Rotary(decoder.width // heads) if self.rotary else None)
