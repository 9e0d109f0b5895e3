"""Several next tokens at once: beside the head for the next token, further heads for those after it.

h_1 = h;  h_j = h + gated(norm(h)) with weights of its own;  p(x_{t+j} | x_{<=t}) = softmax(E h_j),  j = 1 ... k      (arXiv:2404.19737)
loss = sum over j of the mean cross-entropy of x_{t+j}, taken where the next token is learned and x_{t+j} is of the same document

All heads share the trunk and the table; in the paper a further head is a block with attention, here one without, so that it needs no memory.
Nothing changes where the next token alone is asked for; the further heads make guesses for speculation (`generate/speculation/further_heads.py`).
With k = 1 there are no further heads and the loss is the causal one.

Cost: in training k - 1 more products with the table and k - 1 channels; nothing while answering. The paper finds no gain in the loss of the next
token in small models: they learn other things from it, induction among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from steelyard.core.errors import RecipeError
from steelyard.model.channels.gated import GatedPlan
from steelyard.model.cost import flops
from steelyard.model.heads.lm import LMHead, LMHeadPlan
from steelyard.model.norms import NormPlan
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.step import Step

NOT_LEARNED = -100
"""What stands for a target that is not learned, as in batches."""


@dataclass(frozen=True)
class MultiTokenPlan(LMHeadPlan):
    """`tokens` are predicted at each place; `hidden` is the inner width of a further head."""

    tokens: int = 4
    hidden: int = 128
    norm: NormPlan = NormPlan()

    def build(self, width: int, table: nn.Parameter) -> MultiTokenHead:
        return MultiTokenHead(width, self, table)


class Further(nn.Module):
    """h [..., width] -> what a further head compares with the table, [..., width]."""

    def __init__(self, width: int, plan: MultiTokenPlan):
        super().__init__()
        self.norm = plan.norm.build(width)
        self.channel = GatedPlan(plan.hidden).build(width)

    def forward(self, h: Tensor) -> Tensor:
        # A channel asks nothing of a call but this; answers' guesses must not depend on their company.
        step = replace(Step.whole(1, 1, h.device), deterministic=not self.training)
        return h + self.channel(self.norm(h), step)


class MultiTokenHead(LMHead):
    """h [..., width] -> float32 logits [..., vocabulary] of the next token; `ahead` gives those of later ones."""

    def __init__(self, width: int, plan: MultiTokenPlan, table: nn.Parameter):
        super().__init__(width, plan, table)
        self.further = nn.ModuleList(Further(width, plan) for _ in range(plan.tokens - 1))

    def ahead(self, h: Tensor, tokens: int) -> Tensor:
        """Float32 logits [..., vocabulary] of the token so many places ahead; 1 is the next."""
        return self(h if tokens == 1 else self.further[tokens - 2](h))

    def lessons(self, hidden_btd: Tensor, targets_bt: Tensor, segments_bt: Tensor | None) -> list[tuple[str, Tensor, Tensor]]:
        """What training adds: (name, inputs of the table [n, d], targets [n]) for each further token that fits into the lines. There may
        be none to learn (n = 0); the head is asked all the same, for processes that train together wait for each other's gradients.

        Args:
            hidden_btd: after the final norm.
            targets_bt: the next token where it is learned, else -100.
            segments_bt: documents, or None where each line is one.
        """
        out = []
        for number, head in enumerate(self.further, 1):
            if number >= targets_bt.shape[1]:
                break
            wanted = targets_bt[:, number:]
            learned = (wanted != NOT_LEARNED) & (targets_bt[:, :-number] != NOT_LEARNED)
            if segments_bt is not None:
                learned = learned & (segments_bt[:, number:] == segments_bt[:, :-number])
            hidden = hidden_btd[:, :-number]
            if bool(learned.all()):
                out.append((f"token_{number + 1}", head(hidden.flatten(0, 1)), wanted.flatten()))
            else:
                out.append((f"token_{number + 1}", head(hidden[learned]), wanted[learned]))
        return out

    def flops(self, time: int) -> int:
        """Forward operations over a text of `time` tokens in training, where all heads are asked."""
        return self.plan.tokens * flops(self.linear, time) + sum(flops(head, time) for head in self.further)  # type: ignore[attr-defined]


class MultiTokenLever(PartLever):
    """Heads for several next tokens in a new decoder."""

    name: ClassVar[str] = "multi_token"
    idea: ClassVar[str] = (
        "At every place the model predicts not the next token alone but the ones after it too, each by a head of its own. "
        "It learns to look ahead, and the further heads guess what speculation then verifies."
    )
    equation: ClassVar[str] = "loss = - sum_{j=1..k} log p_j(x_{t+j} | x_{<=t});  p_j = softmax(E (h + gated_j(norm_j(h))))"
    paper: ClassVar[str] = "arXiv:2404.19737"
    cost: ClassVar[str] = "in training k - 1 more heads; nothing while answering"
    identity: ClassVar[Any] = {"tokens": 1}
    place: ClassVar[Any] = "head"

    tokens: int = Field(4, ge=1, le=64, description="tokens predicted at each place")
    hidden: int | None = Field(None, ge=1, le=2**20, description="inner width of a further head; unset: twice the width")

    def plan(self, decoder: Decoder, layer: int) -> LMHeadPlan:
        assert decoder.vocabulary is not None
        if self.tokens > decoder.context:
            raise RecipeError(
                f"`multi_token`: {self.tokens} tokens ahead are more than the context of {decoder.context}, so the last are never learned",
                do=f"Ask for at most {decoder.context} `tokens`.",
            )
        if self.tokens == 1:
            return LMHeadPlan(decoder.vocabulary, decoder.tied)
        hidden = self.hidden or 2 * decoder.width
        return MultiTokenPlan(decoder.vocabulary, decoder.tied, tokens=self.tokens, hidden=hidden, norm=decoder.norm_plan)
