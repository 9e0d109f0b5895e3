"""Self-speculation: the model guesses with some of its own blocks left out, and verifies with all of them.

    draft(x) = head(norm(x_L)),   x_{i+1} = x_i for i in skip, else block_i(x_i)

Neighbouring blocks of a deep network do similar things, so the stream survives when a few are missing. Guesses are verified as those
of any draft (`speculative.py`): the distribution is kept (`rejection`), or the very text (`coupled`). While guessing, the blocks left
out do not see the guesses; verification fills their keys and values.
Source: J. Zhang et al., Draft & Verify, arXiv:2309.08168, where a search chooses attention and feed-forward layers one by one; here
whole blocks are left out. `skip` names them; by default every fourth from the end of the first quarter on, never the last.
Cost: no memory. A guess costs the share of blocks that are left; it pays only where that is well below the share of right guesses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field, field_validator

from steelyard.core.errors import SteelyardError
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.drafting import Drafter, Verify
from steelyard.model.sites import SiteProgram


class SelfSpeculative(Lever):
    """Speculation by the answering model without some of its blocks."""

    name: ClassVar[str] = "self_speculative"
    idea: ClassVar[str] = (
        "The model guesses with some of its blocks left out and verifies the guess with all of them in one pass. What is said does not "
        "change in distribution (`rejection`) or at all (`coupled`); no second model is needed."
    )
    equation: ClassVar[str] = (
        "q = softmax(head(norm(x_L))) with x_{i+1} = x_i for i in skip; accept d ~ q with probability min(1, p(d)/q(d))"
    )
    paper: ClassVar[str] = "arXiv:2309.08168"
    cost: ClassVar[str] = "For each guess the share of blocks that is left; a pass over up to tokens + 1 positions instead of one."
    main: ClassVar[str] = "tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"speculation"})
    provides: ClassVar[frozenset[str]] = frozenset({"speculation"})
    identity: ClassVar[dict] = {"tokens": 0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    tokens: int = Field(3, ge=0, le=32, description="longest guess, in tokens; 0 turns it off")
    skip: tuple[int, ...] | None = Field(
        None, description="blocks left out while guessing, from 0; none given: every fourth from the end of the first quarter on"
    )
    verify: Verify = Field("rejection", description="`rejection` keeps the distribution, `coupled` the very text of plain decoding")

    @field_validator("skip")
    @classmethod
    def _blocks(cls, skip: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if skip is not None and (not skip or min(skip) < 0 or len(set(skip)) < len(skip)):
            raise ValueError("must name at least one block, each once, from 0")
        return skip

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Lets the engine guess with some blocks left out.

        Raises:
            SteelyardError: a block that the model has not, or too few of them.
        """
        if not self.tokens:
            return spec
        blocks = len(spec.model.trunk.plan.depth.blocks)
        skip = self.skip if self.skip is not None else every_fourth(blocks)
        if not skip or max(skip) >= blocks or len(skip) == blocks:
            raise SteelyardError(
                f"blocks {', '.join(map(str, skip)) or 'none'} to leave out of {spec.model.name}, which has {blocks}",
                where="self_speculative",
                do=f"Name some of 0 to {blocks - 1} in `skip`, not all.",
            )
        program = SiteProgram(skip=dict.fromkeys(skip, None))
        return replace(spec, speculation=Drafter(self.tokens, None, self.verify, program))


def every_fourth(blocks: int) -> tuple[int, ...]:
    """The default: the first and the last blocks matter most."""
    return tuple(range(max(1, blocks // 4), blocks - 1, 4))
