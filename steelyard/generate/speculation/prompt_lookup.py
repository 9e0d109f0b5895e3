"""Prompt lookup: answers often repeat their prompt, so what followed the same few tokens earlier is a good guess.

The last n tokens are looked up among all earlier n-grams of prompt and answer; the tokens that followed the latest
occurrence are the guess, verified in one pass. A guessed token counts only if it is the very token the position-keyed noise draws
from the model's own logits (`generate/sampling.py`), so the text equals plain decoding, greedy or sampled.
Source: A. Saxena, Prompt Lookup Decoding, 2023, https://github.com/apoorvumang/prompt-lookup-decoding; verification as in
arXiv:2211.17192 with the draw fixed in advance.
Cost: one dictionary entry per token and n; a pass over k + 1 tokens instead of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.generate.spec import EngineSpec


class PromptLookup(Lever):
    """Speculation from the prompt's own n-grams."""

    name: ClassVar[str] = "prompt_lookup"
    idea: ClassVar[str] = (
        "Answers often repeat parts of their prompt, so the tokens that followed the same n-gram earlier are guessed and verified in one "
        "pass. A guess counts only where plain decoding would have drawn the same token, so the text does not change."
    )
    equation: ClassVar[str] = "guess d_1..d_k; t_i = draw(logits_i, u(seed, position i)); accept d_i while d_i = t_i"
    paper: ClassVar[str] = "https://github.com/apoorvumang/prompt-lookup-decoding; verification after arXiv:2211.17192"
    cost: ClassVar[str] = "A pass over up to tokens + 1 positions instead of one; a dictionary entry per token. Pays where answers quote."
    main: ClassVar[str] = "tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"speculation"})
    provides: ClassVar[frozenset[str]] = frozenset({"speculation"})
    identity: ClassVar[dict] = {"tokens": 0}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = False

    tokens: int = Field(8, ge=0, le=64, description="longest guess, in tokens; 0 turns it off")
    longest: int = Field(3, ge=1, le=16, description="longest n-gram that is looked up, in tokens")
    shortest: int = Field(2, ge=1, le=16, validate_default=True, description="shortest n-gram that is looked up, in tokens")

    @field_validator("shortest")
    @classmethod
    def _lengths_in_order(cls, shortest: int, info: ValidationInfo) -> int:
        if shortest > info.data.get("longest", shortest):
            raise ValueError(f"must be at most `longest`, which is {info.data['longest']}")
        return shortest

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Adds the guesser to the engine."""
        return replace(spec, speculation=Lookup(self.tokens, self.longest, self.shortest)) if self.tokens else spec


@dataclass(frozen=True)
class Lookup:
    """Starts a table of n-grams for each sequence."""

    horizon: int
    longest: int
    shortest: int

    @property
    def fingerprint(self) -> str:
        return digest(["prompt_lookup", self.horizon, self.longest, self.shortest])

    def start(self, tokens: list[int]) -> LookupSession:
        return LookupSession(self, tokens)


class LookupSession:
    """Where each n-gram of a sequence was last followed by something."""

    def __init__(self, settings: Lookup, tokens: list[int]):
        self.settings = settings
        self.tokens: list[int] = []
        self.followed: dict[tuple[int, ...], int] = {}
        self.advance(tokens)

    def advance(self, tokens: list[int]) -> None:
        """Appends tokens; every n-gram that now has a successor is entered."""
        for token in tokens:
            here = len(self.tokens)
            for size in range(self.settings.shortest, self.settings.longest + 1):
                if here >= size:
                    self.followed[tuple(self.tokens[here - size :])] = here
            self.tokens.append(token)

    def propose(self, most: int) -> list[int]:
        """What followed the longest known ending of the sequence."""
        for size in range(self.settings.longest, self.settings.shortest - 1, -1):
            place = self.followed.get(tuple(self.tokens[-size:])) if len(self.tokens) >= size else None
            if place is not None:
                return self.tokens[place : place + most]
        return []
