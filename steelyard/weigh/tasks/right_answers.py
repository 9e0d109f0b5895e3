"""How likely an arm finds the right answer, beside whether it gave it: far fewer questions tell two arms apart.

    answer_logprob = log [ p(right | conversation) / sum over right and wrong answers of p(answer | conversation) ]     nats, 0 at best

Whether an answer is right is yes or no, and most questions come out alike on both sides; this moves on every question. The wrong answers are
of the right one's kind (another capital, a number with another digit), so what an arm makes of the wording, which all of them share, cancels: by
the right answer's probability alone, a model that lost its manners and blurts out bare numbers would look better than one that
answers in a sentence. Arms that tell no log-probabilities have no value here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import pydantic
from pydantic import Field

from steelyard.core.seeds import derive
from steelyard.data.words import words
from steelyard.weigh.scorers import choosing
from steelyard.weigh.tasks.task import Ask, Choose, Metric, Output, Sample, Task, Value

WRONG = 3  # wrong answers beside the right one
ANSWER_LOGPROB = Metric("answer_logprob", "quality", "nats", True, margin=0.05, reach=(-math.inf, 0.0))
SAID_LOGPROB = Metric("said_logprob", "quality", "nats", True, margin=0.05, reach=(-math.inf, 0.0))


class RightAnswers(Task):
    """Another task's questions with right and wrong answers, to be scored."""

    summary: ClassVar[str] = "How much likelier than wrong ones the right answers to another task's questions are."
    metrics: ClassVar[tuple[Metric, ...]] = (ANSWER_LOGPROB,)
    perturbable: ClassVar[bool] = False

    of: pydantic.InstanceOf[Task] = Field(description="whose questions are asked")
    called: str = Field(description="what the recipe calls that task")

    @functools.cached_property
    def name(self) -> str:  # type: ignore[override]  # tells whose questions they are
        return f"{self.called}, right answers"

    def samples(self, seed: int) -> list[Sample]:
        return self.scored(self.of.samples(seed))

    def scored(self, samples: Sequence[Sample]) -> list[Sample]:
        """Those of the samples whose answers can be told apart, to be scored instead of asked."""
        out = []
        for sample in samples:
            answers = self.of.told_apart(sample) if isinstance(sample.request, Ask) else ()
            if len(answers) > 1 and isinstance(sample.request, Ask):
                request = Choose(sample.request.conversation, answers)
                tags = {key: value for key, value in sample.tags.items() if key not in ("depth", "length", "language")}
                reference = {"expected": answers[0]}
                out.append(dataclasses.replace(sample, request=request, tags=tags, reference=reference))
        return out

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        assert isinstance(sample.request, Choose)
        return {"answer_logprob": choosing.values(output.scores, sample.request.continuations, {0})["right_logprob"]}


class SaidAnswers(RightAnswers):
    """Another task's right answers by themselves: how readily they are said. For the planted defect, where the task itself is at floor.

    A model that cannot tell right answers from wrong ones still knows how an assistant speaks, and what spoils its prompt shows there:
    SmolLM2-135M-Instruct solves none of 44 problems of MGSM, and with the wrong template "The answer is N." is 1.6 [0.8, 2.3] nats less
    likely. Of four ways of asking it was the one that showed the defect on these 44; on 113 others in three draws it shows it each time (1.2 to
    2.2 nats), on five sets of a few problems in eleven languages in three of five. Measured on this model alone. Between two arms it would
    praise whoever blurts out more readily, so no report compares them by it.
    """

    summary: ClassVar[str] = "How likely the right answers to another task's questions are."
    metrics: ClassVar[tuple[Metric, ...]] = (SAID_LOGPROB,)

    @functools.cached_property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.called}, right answers said"

    def scored(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples whose right answer is known as a text, that text alone to be scored."""
        found = super().scored(samples)
        return [
            dataclasses.replace(one, request=dataclasses.replace(one.request, continuations=one.request.continuations[:1]))
            for one in found
            if isinstance(one.request, Choose)
        ]

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        return {"said_logprob": None if output.failure is not None else output.scores[0].logprob}


def other_numbers(right: str, key: str) -> tuple[str, ...]:
    """Numbers with one other digit, written as the right one is; the same ones for the same key. Empty where it has no digits."""
    rng, places = random.Random(derive("other numbers", right, key)), [at for at, letter in enumerate(right) if letter in "0123456789"]
    found = dict[str, None]()
    for _ in range(20 * WRONG if places else 0):
        at = rng.choice(places)
        digit = rng.choice("123456789" if at == places[0] else "0123456789")
        if digit != right[at]:
            found[right[:at] + digit + right[at + 1 :]] = None
        if len(found) == WRONG:
            break
    return tuple(found)


def some_of(rivals: Sequence[str], answers: Collection[str], key: str) -> tuple[str, ...]:
    """Some of the rivals that are not right under another spelling; the same ones for the same key."""
    right = {words(answer) for answer in answers}
    wrong = [rival for rival in dict.fromkeys(rivals) if words(rival) not in right]
    return tuple(random.Random(derive("rivals", key)).sample(wrong, min(WRONG, len(wrong))))
