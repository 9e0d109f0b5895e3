"""Beam search: keep the k likeliest beginnings of an answer instead of one, and give the likeliest whole answer found.

    score(y) = sum_t log p(y_t | y_<t) / |y|^length_penalty
    step: of all one-token continuations of the k hypotheses, the k likeliest that have not ended go on; those among the first k that
    have ended (end token, stop string, `max_tokens`) are finished; the finished answer of the highest score is given

Source: B. T. Lowerre, The Harpy Speech Recognition System, 1976; the form with length penalty and stopping rules is that of
`transformers`' `generate(num_beams=k)`, and gives the same text. p is what sampling at temperature 1 would draw from: readouts,
constraints and penalties shape it, and it sums to 1 after them.
Searching does not sample: a temperature above 0 is refused. An answer's beginning may still change until the end, so nothing is
streamed before. More beams find likelier answers, not always better ones: likely answers of language models are often short or
repetitive (arXiv:1904.09751).
Cost: k slots and k times the computation of a token; a hypothesis that forks copies its slot; a stop string is looked for in every
candidate's whole text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import Field

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings, Event
from steelyard.generate.beams.search import Beams, Rules
from steelyard.generate.spec import EngineSpec
from steelyard.model.tokenizer import Tokenizer


class Beam(Lever):
    """The likeliest answer that a search of some width finds."""

    name: ClassVar[str] = "beam"
    idea: ClassVar[str] = (
        "Greedy decoding takes the likeliest token at each step and may miss a likelier answer. Beam search follows the k likeliest "
        "beginnings side by side and gives the answer with the highest probability per length."
    )
    equation: ClassVar[str] = "argmax_y sum_t log p(y_t | y_<t) / |y|^length_penalty, over what k hypotheses at a time reach"
    paper: ClassVar[str] = "B. T. Lowerre, The Harpy Speech Recognition System, 1976; rules as in transformers' generate(num_beams=k)"
    cost: ClassVar[str] = (
        "k slots and k times the computation of a token; forks copy a slot's cache. Nothing is streamed before the end, and a temperature "
        "above 0 is refused."
    )
    main: ClassVar[str] = "beams"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"speculation", "beam"})
    identity: ClassVar[dict] = {"beams": 1}
    maturity: ClassVar = "stable"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True
    greedy: ClassVar[bool] = True

    beams: int = Field(4, ge=1, le=256, description="hypotheses followed at once; each takes a slot; 1 turns it off")
    length_penalty: float = Field(
        1.0, ge=-10, le=10, allow_inf_nan=False, description="exponent of the length by which log-probabilities are divided; 0 = whole sums"
    )
    early_stopping: bool | Literal["never"] = Field(
        False,
        description="when to end: true = as soon as `beams` answers are finished; false = when no hypothesis beats them at its present "
        "length; never = only when none can",
    )

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Answers by searching.

        Raises:
            SteelyardError: fewer slots than beams, or an engine that speculates.
        """
        if self.beams == 1:
            return spec
        if spec.slots < self.beams:
            raise SteelyardError(f"{self.beams} beams in {spec.slots} slots", where=self.name, do="Use fewer beams, or more slots.")
        if spec.speculation is not None:
            raise UnsupportedError("a search cannot be guessed ahead", where=self.name, do="Leave the lever that speculates out.")
        return replace(spec, search=BeamSearch(Rules(self.beams, self.length_penalty, self.early_stopping)))


@dataclass(frozen=True)
class BeamSearch:
    """Makes a search of each request."""

    rules: Rules

    @property
    def width(self) -> int:
        return self.rules.beams

    @property
    def fingerprint(self) -> str:
        return digest(["beam", self.rules.beams, self.rules.length_penalty, self.rules.early_stopping])

    def check(self, settings: AnswerSettings) -> None:
        """Refuses requests that want to be sampled."""
        if settings.temperature > 0:
            raise SteelyardError(
                f"temperature is {settings.temperature:g}, but beam search does not sample",
                where="answer settings",
                do="Set temperature to 0, or leave the lever `beam` out.",
            )

    def request(
        self, prompt: list[int], settings: AnswerSettings, on_event: Callable[[Event], None], tokenizer: Tokenizer, limit: int
    ) -> Beams:
        """A request whose answer is searched for."""
        return Beams(prompt, settings, on_event, tokenizer, limit, self.rules)
