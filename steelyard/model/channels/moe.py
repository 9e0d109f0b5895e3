"""Mixture of experts: each token passes through the few of many channels that a router chooses for it.

p = softmax(R x);  y = sum over the k greatest of  (p_e / their sum) * expert_e(x),  expert_e a gated channel   (Mixtral, arXiv:2401.04088)

Weights grow with the number of experts, operations with the number of those chosen. Two losses go with it in training:
balance    a * E * sum_e (choices of e per token) * (mean p_e)      which alone keeps a few experts from taking all tokens
           (Switch, arXiv:2101.03961, eq. 4; its least value is a * k, where all are chosen alike; one for each layer)
router_z   b * mean (log sum exp R x)^2                             which keeps the router's logits small (ST-MoE, arXiv:2202.08906, eq. 5)

Dropless: no expert has a capacity, so no token is left out and a token's result depends on that token alone. Tokens are sorted by their
experts, each expert multiplies its own once, and the results go back to where the tokens stood.

Shapes: b rows, t time, n tokens, d width, e experts, k chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from steelyard.model.channels.gated import GatedPlan
from steelyard.model.cost import flops
from steelyard.model.linears.linear import Linear
from steelyard.model.parts import Decoder, PartLever
from steelyard.model.step import Step

EXPERT_TILE = 32
"""Rows of an expert's products are filled up to multiples of this in deterministic calls: of every tile that row invariance may want
(`generate/invariance.py`), because how many tokens an expert gets depends on the whole batch."""


@dataclass(frozen=True)
class MoePlan:
    """`experts` gated channels of inner width `hidden`, of which each token passes through `active`; weights of the two losses."""

    experts: int
    active: int
    hidden: int
    activation: str = "silu"
    balance: float = 0.01
    router_z: float = 0.001

    def build(self, width: int) -> Moe:
        return Moe(width, self)


class Moe(nn.Module):
    """x [b, t, width] -> [b, t, width]; no memory."""

    def __init__(self, width: int, plan: MoePlan):
        super().__init__()
        self.plan = plan
        self.router = Linear(width, plan.experts)
        self.experts = nn.ModuleList(GatedPlan(plan.hidden, plan.activation).build(width) for _ in range(plan.experts))

    def forward(self, x_btd: Tensor, step: Step) -> Tensor:
        logits_bte = self.router(x_btd, step).float()
        weights, chosen = self.choose(logits_bte)
        if self.training:
            self._gather_losses(logits_bte, chosen, step)
        through: Any = self._through
        return through(x_btd.flatten(0, 1), weights.flatten(0, 1), chosen.flatten(0, 1), step).view(x_btd.shape)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Router logits [..., e] -> weights of the chosen experts, float32 [..., k], summing to 1, and which they are, int64 [..., k]."""
        best, chosen = logits.topk(self.plan.active, -1)
        return best.softmax(-1), chosen  # the softmax over all, divided by the sum over the chosen

    @torch.compiler.disable  # sizes that depend on the data: every batch would be compiled anew
    def _through(self, x_nd: Tensor, weights_nk: Tensor, chosen_nk: Tensor, step: Step) -> Tensor:
        """Each token's experts, weighed and added up: [n, d]."""
        order = chosen_nk.flatten().argsort(stable=True)
        counts = torch.bincount(chosen_nk.flatten(), minlength=self.plan.experts).tolist()
        stretches = x_nd[order // self.plan.active].split(counts)
        done = [self._expert(number, stretch, step) for number, stretch in enumerate(stretches) if len(stretch) or self.training]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        y_nkd = torch.cat(done)[back].view(*chosen_nk.shape, -1)
        # Term after term, because a sum over experts must not depend on how many tokens there are.
        y_nd = y_nkd[:, 0] * weights_nk[:, 0, None].to(y_nkd.dtype)
        for place in range(1, self.plan.active):
            y_nd = y_nd + y_nkd[:, place] * weights_nk[:, place, None].to(y_nkd.dtype)
        return y_nd

    def _expert(self, number: int, x_nd: Tensor, step: Step) -> Tensor:
        """One expert on its tokens."""
        padding = -len(x_nd) % EXPERT_TILE if step.deterministic else 0
        return self.experts[number](F.pad(x_nd, (0, 0, 0, padding)), step)[: len(x_nd)]

    def through_readably(self, x_btd: Tensor, step: Step) -> Tensor:
        """The equation: every expert on every token, those not chosen weighing nothing. The twin `forward` is tested against."""
        weights, chosen = self.choose(self.router(x_btd, step).float())
        share_bte = torch.zeros(*x_btd.shape[:2], self.plan.experts, device=x_btd.device).scatter(-1, chosen, weights)
        return sum(share_bte[..., number, None] * expert(x_btd, step) for number, expert in enumerate(self.experts))  # type: ignore[return-value]

    def _gather_losses(self, logits_bte: Tensor, chosen_btk: Tensor, step: Step) -> None:
        plan, real = self.plan, step.real
        logits_ne, chosen_nk = logits_bte.flatten(0, 1), chosen_btk.flatten(0, 1)
        if real is not None:
            logits_ne, chosen_nk = logits_ne[real.flatten()], chosen_nk[real.flatten()]
        if plan.balance:
            chosen_e = step.total(F.one_hot(chosen_nk, plan.experts).float().sum((0, 1)))
            choices_e = chosen_e / (chosen_e.sum() / plan.active).clamp(min=1)  # for each token
            step.losses.append(("balance", plan.balance * plan.experts * (choices_e * step.mean_share(logits_ne.softmax(-1))).sum()))
        if plan.router_z:
            step.losses.append(("router_z", plan.router_z * step.mean_share(logits_ne.logsumexp(-1).square())))

    def flops(self, time: int) -> int:
        """Forward operations over a text of `time` tokens: the router and the chosen experts."""
        return flops(self.router, time) + self.plan.active * flops(self.experts[0], time)


def load_entropy(choices_e: Tensor) -> float:
    """How evenly experts are chosen, from how often each was: entropy over its greatest value, 1 = all alike, 0 = one takes all."""
    share = choices_e.double() / choices_e.sum()
    return float(-(share * share.clamp(min=1e-300).log()).sum() / torch.tensor(float(len(share))).double().log())


class MoeLever(PartLever):
    """A mixture of experts as a new decoder's channel."""

    name: ClassVar[str] = "moe"
    idea: ClassVar[str] = (
        "A router sends each token through two of many channels, so a model has many more weights than it multiplies a token with. "
        "A loss of its own keeps all of them in use."
    )
    equation: ClassVar[str] = "y = sum_{e in top-k} softmax over the chosen (R x)_e expert_e(x)"
    paper: ClassVar[str] = "arXiv:2401.04088; balance arXiv:2101.03961, router z-loss arXiv:2202.08906"
    cost: ClassVar[str] = "6 active width hidden operations a token and a router; memory for all experts; on a CPU small products"
    identity: ClassVar[Any] = {"experts": 1, "active": 1}
    place: ClassVar[Any] = "channel"

    experts: int = Field(8, ge=1, le=4096, description="channels there are")
    active: int = Field(2, ge=1, le=4096, description="channels a token passes through")
    hidden: int | None = Field(
        None, ge=1, le=2**20, description="inner width of one; unset: the gated channel's shared among the active, rounded up to 8s"
    )
    activation: Literal["silu", "gelu", "relu"] = Field("silu", description="nonlinearity of the gates")
    balance: float = Field(0.01, ge=0, le=100, description="weight of the loss for uneven loads, for each layer; 0 = none")
    router_z: float = Field(0.001, ge=0, le=100, description="weight of the loss for large router logits, for each layer; 0 = none")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.experts < self.active:
            raise ValueError(f"a token is to pass through {self.active} of {self.experts} experts: raise `experts` or lower `active`")
        if self.active == 1 < self.experts:
            raise ValueError("with one active expert the softmax over the chosen is always 1 and the router learns nothing: at least 2")
        return self

    def plan(self, decoder: Decoder, layer: int) -> MoePlan:
        whole = -(-decoder.width * 8 // 3 // 32) * 32
        hidden = self.hidden or -(-whole // self.active // 8) * 8
        return MoePlan(self.experts, self.active, hidden, self.activation, self.balance, self.router_z)
