"""Conversations of several turns: something is told early, other things follow, and at the end it is asked for.

Every turn the person tells one made-up detail of their life, and the assistant's replies are given; the last turn asks for one of them. With
`corrected` every asked detail is told twice, the second time otherwise ("No, I was wrong: ..."), and the later word counts. The dials are how many
things are told (`turns`) and where the asked one stands, which goes from first to last in turn, so that the report can draw its curve.
An answer is right if its first statement names what was told and nothing else of the kind.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.seeds import derive
from steelyard.weigh.scorers import calibration
from steelyard.weigh.scorers.text import first_statement, names_right
from steelyard.weigh.tasks.chat import FINISHED
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

RIGHT = Metric("right", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
OLD_WORD = Metric("old_word", "quality", "share", False, margin=0.03, binary=True)

_PEOPLE = (
    "sister",
    "brother",
    "neighbour",
    "aunt",
    "doctor",
    "boss",
    "cousin",
    "teacher",
    "dentist",
    "landlord",
    "grandfather",
    "best friend",
)
_NAMES = (
    "Alma", "Bruno", "Clara", "Dario", "Edith", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Leo", "Mira", "Nils", "Olga", "Pavel",
    "Rosa", "Simon", "Tilda", "Viktor", "Wanda", "Yara", "Zeno", "Ida", "Otto", "Selma", "Timo", "Vera",
)  # fmt: skip
_REPLIES = ("Thank you for telling me.", "That is good to know.", "I see.", "How nice.", "I will keep it in mind.")


class Recollection(Task):
    """Details told over several turns."""

    name: ClassVar[str] = "recollection"
    summary: ClassVar[str] = "Conversations of several turns: what was told early is asked for at the end."
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, OLD_WORD, *calibration.METRICS, FINISHED)

    conversations: int = Field(60, ge=1, le=5000, description="conversations, count")
    turns: int = Field(2, ge=1, le=12, description="details told before the question, count: the difficulty")
    corrected: bool = Field(
        False, description="whether the asked detail is told once more, otherwise, in a later turn; the later word counts"
    )
    max_tokens: int = Field(24, ge=4, le=512, description="longest answer, tokens")

    def samples(self, seed: int) -> list[Sample]:
        return [
            self._sample(random.Random(derive(seed, self.name, number, self.turns, self.corrected)), number)
            for number in range(self.conversations)
        ]

    def _sample(self, rng: random.Random, number: int) -> Sample:
        people, names = rng.sample(_PEOPLE, self.turns), rng.sample(_NAMES, self.turns + 1)
        place = number % self.turns
        told = [(f"My {person} is called {name}.", person) for person, name in zip(people, names[:-1], strict=True)]
        right, old = names[place], ""
        if self.corrected:
            old, right = right, names[-1]
            told.insert(rng.randrange(place + 1, len(told) + 1), (f"No, I was wrong: my {people[place]} is called {right}.", people[place]))
        turns = [turn for text, _ in told for turn in (Message("user", text), Message("assistant", rng.choice(_REPLIES)))]
        question = f"What is my {people[place]} called?"
        conversation = (*turns, Message("user", question))
        rivals = [name for name in names if name != right]
        depth = place / max(self.turns - 1, 1)
        return Sample(
            id=f"{number}-{digest([[turn.content for turn in conversation], self.max_tokens])}",
            request=Ask(conversation, AnswerSettings(max_tokens=self.max_tokens, token_events=True)),
            reference={"expected": right, "answers": [right], "rivals": rivals, "old": old, "question": question},
            tags={
                "depth": f"{depth:.2f}",
                "length": str(self.turns),
                "length_unit": "turns",
                "corrected": "yes" if self.corrected else "no",
            },
        )

    def told_apart(self, sample: Sample) -> tuple[str, ...]:
        return (sample.reference["expected"], *sample.reference["rivals"][:3])

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        if output.failure is not None:
            return dict.fromkeys(metric.name for metric in self.metrics)
        said, of = first_statement(output.text), sample.reference
        right = names_right(said, of["answers"], of["rivals"])
        old = names_right(said, [of["old"]], [*of["answers"], *(name for name in of["rivals"] if name != of["old"])]) if of["old"] else None
        finished = float(output.reason in ("stop", "tool_calls")) if output.reason else None
        return {
            "right": float(right),
            "old_word": None if old is None else float(old),
            "finished": finished,
            **calibration.values(calibration.sure_of(output, said), right, answered=bool(said)),
        }
