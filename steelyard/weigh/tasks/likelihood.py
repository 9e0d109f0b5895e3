"""Tasks on log-probabilities of raw text: choices that continue a prompt, and whole texts that are rolled over.

Both are what lm-eval's `multiple_choice` and `loglikelihood_rolling` are, on the same tokens (`generate/scoring.py`): a choice is
scored as `prompt + delimiter + choice`, a text in windows of the model's context. Raw text is scored by the engine below whatever wraps
it; with `chat` the prompt is put as a user's message instead, and the choices are the answer's beginning.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field

from steelyard.core.protocols import Message
from steelyard.weigh.scorers import choosing, perplexity
from steelyard.weigh.tasks.rows import take
from steelyard.weigh.tasks.task import Choose, Continue, Metric, Output, Read, Sample, Task, Value

CUT = "leave out the beginning of a prompt that is too long, and count it in `cut`; otherwise that sample fails"


@dataclass(frozen=True)
class Question:
    """A prompt and what may follow it.

    Attributes:
        id: of its sample.
        prompt: text before the choices.
        choices: texts, at least two.
        right: numbers of the right ones, at least one.
        prompts: one prompt for each choice, in place of `prompt`, where what differs stands before (`choices` then tells them apart).
        ending: what follows each of `prompts`.
        delimiter: what stands between prompt and choice.
        cluster, tags: of its sample.
    """

    id: str
    prompt: str
    choices: tuple[str, ...]
    right: tuple[int, ...]
    prompts: tuple[str, ...] = ()
    ending: str = ""
    delimiter: str = " "
    cluster: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class QuestionTask(Task):
    """Multiple choice on raw text. A subclass says where its questions are from."""

    limit: int | None = Field(None, ge=1, description="most questions, count; drawn by the seed")
    cut: bool = Field(False, description=CUT)
    chat: bool = Field(False, description="put the prompt as a user's message, through the chat template and whatever wraps the arm")

    @abc.abstractmethod
    def questions(self) -> Sequence[Question]:
        """All questions, in order."""

    @functools.cached_property
    def _questions(self) -> list[Question]:
        return list(self.questions())

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]  # chance depends on the questions
        """acc first; the floors of the counts are the chance level of these questions."""
        shares = [len(one.right) / len(one.choices) for one in self._questions]
        labels = choosing.are_labels([one.choices for one in self._questions])
        return choosing.metrics(sum(shares) / len(shares), self.cut, labels)

    def samples(self, seed: int) -> list[Sample]:
        return [self._sample(question) for question in take(self._questions, self.limit, seed, self.name)]

    def _sample(self, one: Question) -> Sample:
        if self.chat and not one.prompts:
            request: Choose | Continue = Choose((Message("user", one.prompt),), one.choices)
        elif one.prompts:
            request = Continue("", (one.delimiter + one.ending,) * len(one.prompts), one.prompts, self.cut)
        else:
            request = Continue(one.prompt, tuple(one.delimiter + choice for choice in one.choices), cut=self.cut)
        expected = " or ".join(one.choices[number].strip() for number in one.right)
        reference = {"expected": expected, "right": list(one.right), "choices": list(one.choices)}
        return Sample(one.id, request, reference=reference, cluster=one.cluster or one.id.partition("-")[0], tags=one.tags)

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        found = choosing.values(output.scores, sample.reference["choices"], set(sample.reference["right"]))
        return {metric.name: found[metric.name] for metric in self.metrics}


@dataclass(frozen=True)
class Page:
    """A text to roll over; words and bytes are counted in `counted` where that is another text (the one before it was cleaned)."""

    id: str
    text: str
    counted: str | None = None
    cluster: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class RollingTask(Task):
    """Perplexity of whole texts of any length. A subclass says where they are from."""

    metrics: ClassVar[tuple[Metric, ...]] = perplexity.METRICS

    limit: int | None = Field(None, ge=1, description="most texts, count; drawn by the seed")

    @abc.abstractmethod
    def pages(self) -> Sequence[Page]:
        """All texts, in order."""

    def samples(self, seed: int) -> list[Sample]:
        return [self._sample(page) for page in take(list(self.pages()), self.limit, seed, self.name)]

    def _sample(self, page: Page) -> Sample:
        counted = page.text if page.counted is None else page.counted
        reference = {"words": perplexity.count_words(counted), "bytes": len(counted.encode())}
        return Sample(page.id, Read(page.text, rolling=True), reference=reference, cluster=page.cluster, tags=page.tags)

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        score = output.scores[0] if output.scores and output.failure is None else None
        return perplexity.values(score, sample.reference["words"], sample.reference["bytes"])
