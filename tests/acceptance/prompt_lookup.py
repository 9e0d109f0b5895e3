"""Guesses from what stood before: the same text as plain decoding, in fewer passes, sooner where answers quote."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from unittest import mock

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared, counted
from steelyard.core.protocols import AnswerSettings
from steelyard.core.seeds import derive
from steelyard.data.generated.forms import make_form
from steelyard.data.generated.passages import make_passage
from steelyard.generate import sequences
from steelyard.generate.engine import Completion, Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.prompt_lookup import Lookup, LookupSession, PromptLookup
from steelyard.model.load import load
from steelyard.weigh.cells.costs import METRICS
from steelyard.weigh.tasks.task import Metric

PASSES = Metric("passes_per_token", "speed", "passes/token", False, margin=0.02, relative=True, kind="ratio")
SPEED = next(metric for metric in METRICS if metric.name == "tokens_per_second")


@dataclass(frozen=True)
class Elsewhere(Lookup):
    """The control that guesses: what it proposes comes from another text, so hardly any guess can be right."""

    def start(self, tokens: list[int]) -> LookupSession:
        session = super().start(tokens)
        session.propose = lambda most: [(token * 7919 + 13) % 30_000 for token in session.text.tokens[-most:]]  # type: ignore[method-assign]
        return session


@contextlib.contextmanager
def wrong_noise_keys() -> Iterator[None]:
    """Every token of a pass drawn with the noise of its first: the fault of noise drawn once per pass. Plain decoding cannot tell."""
    first = [0]
    accept, draw = sequences.Generation.accept, sequences.draw

    def accept_and_note(self, logits, draft, found=()):
        first[0] = len(self.tokens)
        return accept(self, logits, draft, found)

    def draw_with_first(row, settings, position, *known, **pool):
        return draw(row, settings, first[0], *known, **pool)

    with mock.patch.object(sequences.Generation, "accept", accept_and_note), mock.patch.object(sequences, "draw", draw_with_first):
        yield


def quoting(rng: random.Random, sentences: int) -> list[dict[str, str]]:
    """A question whose answer repeats it."""
    return [{"role": "user", "content": f"Write this again, word for word: {make_passage(rng, sentences).text}"}]


def any_prompt(rng: random.Random) -> list[dict[str, str]]:
    """A question whose answer quotes, or one whose answer does not."""
    passage = make_passage(rng, rng.randint(1, 3))
    other = [f"{passage.text}\n\n{passage.told[0].question}", make_form(rng, "test", 3).request, f"Tell me a story about {passage.name}."]
    return rng.choice([quoting(rng, rng.randint(1, 3)), [{"role": "user", "content": rng.choice(other)}]])


def settings_of(rng: random.Random) -> AnswerSettings:
    """Any way of drawing an answer; greedy in one case of four."""
    return AnswerSettings(
        max_tokens=rng.randint(4, 14),
        temperature=rng.choice([0.0, 0.4, 0.8, 1.2]),
        top_k=rng.choice([0, 0, 20]),
        top_p=rng.choice([1.0, 1.0, 0.9]),
        min_p=rng.choice([0.0, 0.0, 0.05]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.1]),
        seed=rng.randint(0, 2**31),
        token_events=True,
        ignore_eos=rng.random() < 0.3,
    )


def said(completions: list[Completion]) -> list[tuple]:
    return [(answer.text, [token.id for token in answer.tokens], answer.finish_reason) for answer in completions]


def differing(bench: Bench, plain: Engine, guessing: Engine, batches: int) -> int:
    """In how many random batches of 1 to 3 requests two engines differ."""
    count = 0
    for number in range(batches):
        rng = random.Random(derive(bench.seed, "batch", number))
        batch, settings = [any_prompt(rng) for _ in range(rng.randint(1, 3))], settings_of(rng)
        count += said(plain.generate(batch, settings=settings)) != said(guessing.generate(batch, settings=settings))
    return count


def caught(bench: Bench, plain: Engine, guessing: Engine, batches: int) -> int:
    """In how many batches wrong noise keys show: sampled answers that quote, so that passes really hold several tokens."""
    count = 0
    for number in range(batches):
        rng = random.Random(derive(bench.seed, "wrong keys", number))
        settings = AnswerSettings(max_tokens=20, temperature=rng.choice([0.5, 0.8]), seed=number, token_events=True, ignore_eos=True)
        batch = [quoting(rng, 3)]
        right = said(plain.generate(batch, settings=settings))
        with wrong_noise_keys():
            count += said(guessing.generate(batch, settings=settings)) != right
    return count


def timed(engine: Engine, batch: list, tokens: int) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """Decoding of a batch, greedily: (tokens, seconds) in all, and (passes, tokens) of each answer."""
    answers = engine.generate(batch, settings=AnswerSettings(max_tokens=tokens))
    seconds = sum((a.timing.seconds or 0.0) - (a.timing.to_first_token or 0.0) for a in answers)
    written = [float(answer.usage.completion_tokens) for answer in answers]
    return (sum(written) - len(answers), seconds), [(float(a.usage.verified), n) for a, n in zip(answers, written, strict=True)]


def run(bench: Bench) -> Finding:
    lever, model = PromptLookup(), load(MODEL)
    spec = EngineSpec(model, deterministic=True, slots=4, context=768)
    batches, sampled = bench.pick(200, 4), bench.pick(24, 4)
    asked = [[quoting(random.Random(derive(bench.seed, "timed", number)), 4)] for number in range(bench.pick(20, 2))]
    speeds: dict[str, list[tuple[float, float]]] = {}
    passes: dict[str, list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        engines = {
            "plain": stack.enter_context(Engine.from_spec(spec)),
            "lookup": stack.enter_context(Engine.from_spec(lever.decode(spec))),
            "elsewhere": stack.enter_context(
                Engine.from_spec(replace(spec, speculation=Elsewhere(lever.tokens, lever.longest, lever.shortest)))
            ),
        }
        moved = differing(bench, engines["plain"], engines["lookup"], batches)
        bench.say(f"{moved} of {batches} batches differ")
        noticed = caught(bench, engines["plain"], engines["lookup"], sampled)
        bench.say(f"{noticed} of {sampled} batches differ with wrong keys")
        for number, batch in enumerate(asked):
            order = list(engines) if number % 2 == 0 else list(reversed(engines))
            for name in order:  # interleaved, so that a machine that slows down slows all of them down
                total, each = timed(engines[name], batch, bench.pick(48, 16))
                speeds.setdefault(name, []).append(total)
                passes.setdefault(name, []).extend(each)
    task = "passages to be written again"
    same = counted("lookup", f"{batches} random batches", "same text", batches - moved, batches, "worse" if moved else "identical")
    seen = counted("wrong keys", f"{sampled} sampled answers", "same text", sampled - noticed, sampled, "worse" if noticed else "identical")
    return Finding(
        [
            Claim("text, tokens and endings equal plain decoding in random batches, greedy and sampled", same, ("identical",)),
            Claim("answers that quote take fewer passes", compared("lookup", task, PASSES, passes["plain"], passes["lookup"]), ("better",)),
            # No time is judged in the reduced form: it runs where others work too.
            *(
                []
                if bench.reduced
                else [Claim("and come faster", compared("lookup", task, SPEED, speeds["plain"], speeds["lookup"]), ("better",))]
            ),
            Claim("wrong noise keys are caught by the same comparison", seen, ("worse",), control=True),
            Claim(
                "guesses from elsewhere save no passes",
                compared("elsewhere", task, PASSES, passes["plain"], passes["elsewhere"]),
                ("identical", "equivalent", "underpowered", "worse"),
                control=True,
            ),
        ],
        {"lookup": [lever]},
    )


EXPERIMENT = Experiment(
    "prompt_lookup",
    "prompt_lookup",
    "Guessing from what stood in prompt and answer before leaves every text as it was and makes answers that quote their prompt come sooner.",
    "Noise drawn once per pass instead of per position must be caught, and guesses from elsewhere must save nothing.",
    "real model",
    run,
    needs=("smollm",),
    timed=True,
)
