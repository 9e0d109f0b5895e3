"""Beam search finds answers that are likelier than greedy ones; a search that keeps the worst candidates finds less likely ones."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared
from steelyard.core.levers import Lever
from steelyard.core.seeds import derive
from steelyard.data.generated.passages import make_passage
from steelyard.generate.beams.beam import Beam, BeamSearch
from steelyard.generate.beams.search import Beams, Candidate
from steelyard.generate.engine import Completion, Engine
from steelyard.generate.spec import EngineSpec
from steelyard.model.load import load
from steelyard.weigh.report.report import Cell
from steelyard.weigh.tasks.task import Metric

LIKELIHOOD = Metric("logprob_per_token", "quality", "nats/token", True, margin=0.01)
WHAT = "first sentences of stories"


class Worst(Beam):
    """The control: of all candidates, those that greedy decoding would not have chosen go on: the least likely."""

    def decode(self, spec: EngineSpec) -> EngineSpec:
        spec = super().decode(spec)
        assert isinstance(spec.search, BeamSearch)
        return replace(spec, search=WorstSearch(spec.search.rules))


@dataclass(frozen=True)
class WorstSearch(BeamSearch):
    def request(self, prompt, settings, on_event, tokenizer, limit):
        return WorstBeams(prompt, settings, on_event, tokenizer, limit, self.rules)


class WorstBeams(Beams):
    def _candidates(self, logits) -> list[Candidate]:
        return super()._candidates(logits)[::-1]


def likelihood(answer: Completion) -> float:
    """Nats a token of the whole answer, as the model itself sees it; its end token is not told and not counted."""
    return sum(answer.logprobs) / max(1, len(answer.logprobs))


def run(bench: Bench) -> Finding:
    model = load(MODEL)
    count, tokens = bench.pick(24, 8), bench.pick(24, 12)
    names = [make_passage(random.Random(derive(bench.seed, "beam", number)), 1).name for number in range(count)]
    asked = [[{"role": "user", "content": f"Write one sentence about a journey to {name}."}] for name in names]
    arms: dict[str, Lever | None] = {"greedy": None, "beams 2": Beam(beams=2), "beams 4": Beam(beams=4), "worst": Worst(beams=4)}
    arms |= {} if bench.reduced else {"beams 8": Beam(beams=8)}
    answers: dict[str, list[Completion]] = {}
    for arm, lever in arms.items():
        spec = EngineSpec(model, deterministic=True, slots=8, context=128)
        with Engine.from_spec(lever.decode(spec) if lever else spec) as engine:  # type: ignore[attr-defined]
            answers[arm] = engine.generate(asked, max_tokens=tokens)
        bench.say(f"{arm}: {sum(map(likelihood, answers[arm])) / count:.3f} nats a token")
    values = {arm: [likelihood(answer) for answer in each] for arm, each in answers.items()}

    def beside(arm: str, base: str = "greedy") -> Cell:
        return compared(arm, WHAT, LIKELIHOOD, values[base], values[arm], note="" if base == "greedy" else f"the base is {base}")

    def length(arm: str) -> float:
        return sum(len(answer.logprobs) for answer in answers[arm]) / count

    more = [] if bench.reduced else [Claim("8 beams find likelier answers than 2", beside("beams 8", "beams 2"), ("better",))]
    lost = sum(b < a - 1e-4 for a, b in zip(values["greedy"], values["beams 4"], strict=True))
    return Finding(
        [
            Claim("2 beams find likelier answers than greedy decoding", beside("beams 2"), ("better",)),
            Claim("4 beams do", beside("beams 4"), ("better",)),
            *more,
            Claim("a search that keeps the worst candidates finds less likely ones", beside("worst"), ("worse",), control=True),
        ],
        {"beams 4": [Beam(beams=4)]},
        notes=(
            f"An answer is cut at {tokens} tokens; on average it has {length('greedy'):.0f} when decoded greedily and {length('beams 4'):.0f} "
            f"with 4 beams, which found a less likely one {lost} times of {count}: the search is not exhaustive.",
            "Nothing is said here of how good the answers are; likelier is not better.",
            f"Greedy: {answers['greedy'][0].text!r}; 4 beams: {answers['beams 4'][0].text!r}",
        ),
    )


EXPERIMENT = Experiment(
    "beam",
    "beam",
    "Answers found by beam search are likelier under the model than greedy ones, with more beams more so.",
    "A search that follows the least likely of its candidates must find less likely answers.",
    "real model",
    run,
    needs=("smollm",),
)
