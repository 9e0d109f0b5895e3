"""Early exit: the model guesses with its first blocks only, and verifies with all of them.

    draft(x) = head(norm(x_E))   after `exit` = E blocks of L

Guesses are verified as those of any draft (`speculative.py`): the distribution is kept (`rejection`), or the very text (`coupled`).
The blocks above the exit see the guesses only when they are verified, which fills their keys and values.
Source: M. Elhoushi et al., LayerSkip, arXiv:2404.16710, whose models are trained so that early blocks already say what the last would
(layer dropout, a loss at every exit). A model that was not trained so rarely agrees with itself early: then this lever costs time and
gains none, and its acceptance experiment says so.
Cost: no memory. A guess costs E / L of a pass. The first E blocks are computed again in verification (LayerSkip keeps them).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from steelyard.core.errors import SteelyardError
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.drafting import Drafter, Verify
from steelyard.model.sites import SiteProgram


class EarlyExit(Lever):
    """Speculation by the answering model's first blocks."""

    name: ClassVar[str] = "early_exit"
    idea: ClassVar[str] = (
        "The model guesses with its first blocks and verifies the guess with all of them in one pass. It pays for models trained to agree "
        "early; others seldom do. What is said does not change in distribution (`rejection`) or at all (`coupled`)."
    )
    equation: ClassVar[str] = "q = softmax(head(norm(x_E))), E < L; accept d ~ q with probability min(1, p(d)/q(d))"
    paper: ClassVar[str] = "arXiv:2404.16710"
    cost: ClassVar[str] = "E / L of a pass for each guess; a pass over up to tokens + 1 positions instead of one."
    main: ClassVar[str] = "exit"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"speculation"})
    provides: ClassVar[frozenset[str]] = frozenset({"speculation"})
    identity: ClassVar[dict] = {"tokens": 0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    exit: int | None = Field(None, ge=1, description="blocks computed while guessing; none given: half of them")
    tokens: int = Field(3, ge=0, le=32, description="longest guess, in tokens; 0 turns it off")
    verify: Verify = Field("rejection", description="`rejection` keeps the distribution, `coupled` the very text of plain decoding")

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Lets the engine guess with the first blocks.

        Raises:
            SteelyardError: an exit that is no earlier than the model's end.
        """
        if not self.tokens:
            return spec
        blocks = len(spec.model.trunk.plan.depth.blocks)
        leave = self.exit if self.exit is not None else blocks // 2
        if not 1 <= leave < blocks:
            raise SteelyardError(
                f"an exit after {leave} of the {blocks} blocks of {spec.model.name}",
                where="early_exit",
                do=f"Use 1 to {blocks - 1}." if blocks > 1 else "A model of one block has no earlier exit.",
            )
        return replace(spec, speculation=Drafter(self.tokens, None, self.verify, SiteProgram(stop=leave - 1)))
