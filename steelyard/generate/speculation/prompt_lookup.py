"""Prompt lookup: answers often repeat their prompt, or themselves, so what followed the same tokens earlier is a good guess.

The longest ending of prompt and answer that stood before, however long, is found by a suffix automaton; the tokens that followed its
latest place are the guess, verified in one pass. A guess that reaches the end of the text goes on with itself: it is a repetition. A
guessed token counts only if it is the very token the position-keyed noise draws from the model's own logits
(`generate/sampling.py`), so the text equals plain decoding, greedy or sampled.
Sources: A. Saxena, Prompt Lookup Decoding, 2023, https://github.com/apoorvumang/prompt-lookup-decoding; Y. Hu et al., SAM Decoding,
arXiv:2411.10666; verification as in arXiv:2211.17192 with the draw fixed in advance.
Cost: a few microseconds and about 50 to 130 bytes a token of prompt and answer (docs/lab-notes.md); a pass over k + 1 tokens instead of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.suffix_automaton import SuffixAutomaton


class PromptLookup(Lever):
    """Speculation from what stood in prompt and answer before."""

    name: ClassVar[str] = "prompt_lookup"
    idea: ClassVar[str] = (
        "Answers often repeat parts of their prompt, so the tokens that followed the same words earlier are guessed and verified in one "
        "pass. A guess counts only where plain decoding would have drawn the same token, so the text does not change."
    )
    equation: ClassVar[str] = "guess d_1..d_k; t_i = draw(logits_i, u(seed, position i)); accept d_i while d_i = t_i"
    paper: ClassVar[str] = (
        "https://github.com/apoorvumang/prompt-lookup-decoding; suffix automaton: arXiv:2411.10666; verification after arXiv:2211.17192"
    )
    cost: ClassVar[str] = (
        "A pass over up to tokens + 1 positions instead of one; 50 to 130 bytes and a few microseconds a token of prompt and answer. Pays where "
        "answers quote."
    )
    main: ClassVar[str] = "tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"speculation"})
    provides: ClassVar[frozenset[str]] = frozenset({"speculation"})
    identity: ClassVar[dict] = {"tokens": 0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    tokens: int = Field(8, ge=0, le=64, description="longest guess, in tokens; 0 turns it off")
    longest: int | None = Field(None, ge=1, description="most tokens of the ending that is looked up; none: however many stood before")
    shortest: int = Field(2, ge=1, le=64, validate_default=True, description="an ending must be found with at least this many tokens")

    @field_validator("shortest")
    @classmethod
    def _lengths_in_order(cls, shortest: int, info: ValidationInfo) -> int:
        if shortest > (info.data.get("longest") or shortest):
            raise ValueError(f"must be at most `longest`, which is {info.data['longest']}")
        return shortest

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Adds the guesser to the engine."""
        return replace(spec, speculation=Lookup(self.tokens, self.longest, self.shortest)) if self.tokens else spec


@dataclass(frozen=True)
class Lookup:
    """Starts an automaton for each sequence."""

    horizon: int
    longest: int | None
    shortest: int

    @property
    def fingerprint(self) -> str:
        return digest(["prompt_lookup", self.horizon, self.longest, self.shortest])

    def start(self, tokens: list[int]) -> LookupSession:
        return LookupSession(self, tokens)


class LookupSession:
    """One sequence and where its endings stood before."""

    def __init__(self, settings: Lookup, tokens: list[int]):
        self.settings = settings
        self.text = SuffixAutomaton(settings.longest)
        self.advance(tokens)

    def advance(self, tokens: list[int]) -> None:
        """The text goes on."""
        for token in tokens:
            self.text.append(token)

    def propose(self, most: int) -> list[int]:
        """What followed the longest known ending of the sequence."""
        if self.text.matched < self.settings.shortest:
            return []
        guess = self.text.tokens[self.text.before : self.text.before + most]
        return [guess[place % len(guess)] for place in range(most)]
