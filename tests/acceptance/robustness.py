"""An arm that breaks on typos must be caught, under typos and nowhere else; white space must show nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from acceptance.experiment import Bench, Claim, Experiment, Finding, cells
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import Answerer, AnswerSettings, Conversation, Done, Event, Text
from steelyard.data.words import words
from steelyard.weigh.cells.scoring import Scored
from steelyard.weigh.tasks.facts import Facts
from steelyard.weigh.tasks.perturbations import PLACEBO
from steelyard.weigh.tasks.perturbed import TAG, USUAL, Perturbed
from steelyard.weigh.tasks.task import Ask, Sample


class KnownWords(Lever):
    """An answerer that reads only words it knows: at any other it gives up. What a brittle guard or a keyword router does."""

    name: ClassVar[str] = "planted_known_words"
    idea: ClassVar[str] = "Answer only questions all of whose words are in a list."
    identity: ClassVar[dict] = {}

    known: frozenset[str] = Field(description="words, in small letters")

    def wrap(self, answerer: Answerer) -> Answerer:
        return _Reader(self, answerer)


class _Reader:
    def __init__(self, lever: KnownWords, inner: Answerer):
        self.lever, self.inner = lever, inner
        self.fingerprint = digest(["known words", sorted(lever.known), inner.fingerprint])
        self.capabilities = inner.capabilities & {"logprobs"}

    async def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        if set(words(conversation[-1].content)) - self.lever.known:
            yield Text("I do not know.")
            yield Done("stop")
            return
        async for event in self.inner.answer(conversation, settings):
            yield event


def run(bench: Bench) -> Finding:
    inner = Facts(answerable=bench.pick(60, 4), invented=0, max_tokens=bench.pick(24, 8))
    task = Perturbed(of=inner, called="facts", items=bench.pick(60, 4))
    samples = task.samples(bench.seed)
    # What typos make of a word stands in no list; every other wording does.
    usual = vocabulary([sample for sample in samples if sample.tags[TAG] != "typos"])
    arms = {"brittle": [KnownWords(known=usual)], "patient": [KnownWords(known=usual | vocabulary(samples))]}
    asked = bench.ask(task, arms)
    brittle, patient = (cells(task, asked, arm) for arm in arms)
    # Two wordings alone: where no typo is asked, the brittle arm's records must be the base's own, one by one.
    placebo, order = (cells(task, only(asked, name), "brittle") for name in (PLACEBO, "word_order"))
    # A reduced run may hold too few right answers to tell anything: what it then shows is no effect, never the contrary.
    return Finding(
        [
            Claim("right answers under typos become fewer", brittle["right_under_typos"], ("worse",)),
            Claim("the drop under typos becomes larger", brittle["right_drop_under_typos"], ("worse",)),
            Claim("the mean under all perturbations, the axis's primary metric, falls", brittle["right_perturbed"], ("worse",)),
            Claim("white space at the end, the placebo: identical", placebo[f"right_drop_under_{PLACEBO}"], ("identical",), control=True),
            Claim("words out of order, all of them known: identical", order["right_drop_under_word_order"], ("identical",), control=True),
            Claim(
                "the same reader with the misspelt words in its list: identical", patient["right_perturbed"], ("identical",), control=True
            ),
            Claim("and its drop under typos: identical", patient["right_drop_under_typos"], ("identical",), control=True),
        ],
        arms,
        [
            f"Of the base's answers to {len(samples) // 7 if samples else 0} questions as asked, {_share(asked, 'right_unperturbed')} are right; "
            + ", ".join(f"{_share(asked, f'right_under_{name}')} under {name.replace('_', ' ')}" for name in _kinds(samples))
            + "."
        ],
    )


def only(asked: Mapping[str, Sequence[Scored]], wording: str) -> dict[str, list[Scored]]:
    """The same answers, to the questions as they were and in one other wording alone."""
    return {arm: [_part(scored, (USUAL, wording)) for scored in runs] for arm, runs in asked.items()}


def _part(scored: Scored, wordings: Sequence[str]) -> Scored:
    kept = [place for place, sample in enumerate(scored.samples) if sample.tags[TAG] in wordings]
    values = {name: [column[place] for place in kept] for name, column in scored.values.items()}
    samples, outputs = [scored.samples[place] for place in kept], [scored.outputs[place] for place in kept]
    return Scored(samples, outputs, values, [scored.failures[place] for place in kept], scored.obstacle)


def _kinds(samples: list[Sample]) -> list[str]:
    return [name for name in dict.fromkeys(sample.tags[TAG] for sample in samples) if name != "none"]


def _share(asked: dict, metric: str) -> str:
    values = [value for value in asked["base"][0].values[metric] if value is not None]
    return f"{sum(values) / len(values):.0%} of {len(values)}" if values else "none of 0"


def vocabulary(samples: list[Sample]) -> frozenset[str]:
    """All words of the questions."""
    return frozenset(word for one in samples if isinstance(one.request, Ask) for word in words(one.request.conversation[-1].content))


EXPERIMENT = Experiment(
    "robustness",
    "",
    "An arm that gives up on misspelt words is found to be worse under typos and on the axis's primary metric.",
    "Under the placebo and words out of order the arm is identical record by record, and so is the same arm with the misspelt words listed.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
)
