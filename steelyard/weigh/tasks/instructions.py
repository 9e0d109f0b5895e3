"""Instructions that can be checked, on prompts made afresh: nothing can have learned them, and how many stand together is the dial.

A prompt asks for a short text about something and adds `constraints` instructions of different kinds that do not contradict one another. They
are checked as IFEval's are (`scorers/instructions.py`); kinds that need another package are left out. Figures as in `ifeval`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import Field

from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.seeds import derive
from steelyard.weigh.tasks.sets.ifeval import METRICS, scored
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

_THINGS = (
    "a lighthouse", "rain in the city", "a lost key", "the first train of the day", "an old clock", "a market", "learning to swim", "a letter",
    "the night sky", "baking bread", "a long bridge", "moving house", "a quiet library", "a broken bicycle", "the sea in winter", "a garden",
    "a crowded bus", "an empty theatre", "a visit to the doctor", "a stray dog", "snow", "a chess game", "the taste of coffee", "a power cut",
)  # fmt: skip
_TEXTS = ("a short text", "a short story", "a few sentences", "a short note to a friend", "a short description")
_KEYWORDS = (
    "window",
    "river",
    "morning",
    "paper",
    "green",
    "slowly",
    "mother",
    "stone",
    "light",
    "song",
    "yellow",
    "corner",
    "water",
    "friend",
)
_ENDS = ("That is all.", "The end.", "Good night.", "And so it goes.")

Instruction = tuple[str, dict[str, Any], str]
Maker = Callable[[random.Random], Instruction]


def _keywords(rng: random.Random) -> Instruction:
    words = rng.sample(_KEYWORDS, rng.choice((1, 2)))
    listed = " and ".join(f'"{word}"' for word in words)
    return "keywords:existence", {"keywords": words}, f"Use the word{'s' * (len(words) > 1)} {listed}."


def _forbidden(rng: random.Random) -> Instruction:
    words = rng.sample(("the", "is", "and", "very", "was", "it"), 1)
    return "keywords:forbidden_words", {"forbidden_words": words}, f'Do not use the word "{words[0]}".'


def _words(rng: random.Random) -> Instruction:
    count, relation = rng.choice(((10, "at least"), (20, "at least"), (30, "less than"), (50, "less than")))
    return "length_constraints:number_words", {"num_words": count, "relation": relation}, f"Write {relation} {count} words."


def _no_comma(rng: random.Random) -> Instruction:
    return "punctuation:no_comma", {}, "Do not use any comma."


def _quotation(rng: random.Random) -> Instruction:
    return "startend:quotation", {}, "Put the whole answer in double quotation marks."


def _ending(rng: random.Random) -> Instruction:
    end = rng.choice(_ENDS)
    return "startend:end_checker", {"end_phrase": end}, f'End with exactly this sentence: "{end}"'


def _title(rng: random.Random) -> Instruction:
    return "detectable_format:title", {}, "Give it a title in double angular brackets, such as <<a good day>>."


def _bullets(rng: random.Random) -> Instruction:
    count = rng.choice((2, 3, 4))
    return "detectable_format:number_bullet_lists", {"num_bullets": count}, f"Write exactly {count} bullet points that begin with *."


def _letter(rng: random.Random) -> Instruction:
    letter, count = rng.choice("aeost"), rng.choice((3, 5, 8))
    of = {"letter": letter, "let_frequency": count, "let_relation": "at least"}
    return "keywords:letter_frequency", of, f'The letter "{letter}" has to appear at least {count} times.'


def _placeholders(rng: random.Random) -> Instruction:
    count = rng.choice((1, 2))
    text = f"Leave at least {count} placeholder{'s' * (count > 1)} in square brackets, such as [name]."
    return "detectable_content:number_placeholders", {"num_placeholders": count}, text


def _postscript(rng: random.Random) -> Instruction:
    return "detectable_content:postscript", {"postscript_marker": "P.S."}, "Add a postscript that begins with P.S."


_MAKERS: tuple[Maker, ...] = (
    _keywords, _forbidden, _words, _no_comma, _quotation, _ending, _title, _bullets, _letter, _placeholders, _postscript,
)  # fmt: skip
# What cannot stand together: both want the end, or the bullets' lines leave no room for the other.
_APART = (
    {_quotation, _ending},
    {_forbidden, _ending},
    {_quotation, _bullets},
    {_ending, _postscript},
    {_bullets, _title},
    {_words, _bullets},
)


class Instructions(Task):
    """Prompts with instructions."""

    name: ClassVar[str] = "instructions"
    summary: ClassVar[str] = "Short texts under instructions that can be checked, as many at once as you like."
    metrics: ClassVar[tuple[Metric, ...]] = METRICS

    prompts: int = Field(60, ge=1, le=5000, description="prompts, count")
    constraints: int = Field(1, ge=1, le=5, description="instructions in every prompt, count: the difficulty")
    max_tokens: int = Field(96, ge=8, le=4096, description="longest answer, tokens")

    def samples(self, seed: int) -> list[Sample]:
        out = []
        for number in range(self.prompts):
            rng = random.Random(derive(seed, self.name, number, self.constraints))
            made = [maker(rng) for maker in _drawn(rng, self.constraints, number)]
            prompt = " ".join([f"Write {rng.choice(_TEXTS)} about {rng.choice(_THINGS)}.", *(text for *_, text in made)])
            out.append(
                Sample(
                    f"{number}-{digest([prompt, self.max_tokens])}",
                    Ask((Message("user", prompt),), AnswerSettings(max_tokens=self.max_tokens)),
                    reference={"expected": ", ".join(kind for kind, *_ in made), "instructions": [[kind, of] for kind, of, _ in made]},
                    tags={"first": made[0][0], "constraints": str(self.constraints)},
                )
            )
        return out

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        return scored(sample.reference["instructions"], output)


def _drawn(rng: random.Random, count: int, number: int) -> list[Maker]:
    """Makers that go together: every kind is the first in turn, the others are drawn."""
    while True:
        first = _MAKERS[number % len(_MAKERS)]
        chosen = [first, *rng.sample([maker for maker in _MAKERS if maker is not first], count - 1)]
        if not any(pair <= set(chosen) for pair in _APART):
            return chosen
