"""Stories that the model makes up, sampled at temperature 1: text with a choice of words at every step, for levers of sampling."""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from acceptance.experiment import MODEL, Bench
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings
from steelyard.core.seeds import derive
from steelyard.data.generated.passages import make_passage
from steelyard.generate.engine import Completion, Engine
from steelyard.generate.spec import EngineSpec
from steelyard.model.load import load
from steelyard.model.model import Model

TOGETHER = 8


def questions(bench: Bench, count: int) -> list[list[dict[str, str]]]:
    """One invented name a story."""
    names = [make_passage(random.Random(derive(bench.seed, "story", number)), 1).name for number in range(count)]
    return [[{"role": "user", "content": f"Write a long story about a journey to {name}."}] for name in names]


def written(bench: Bench, arms: Mapping[str, Lever | None], count: int, tokens: int) -> tuple[Model, dict[str, list[Completion]]]:
    """The model, and what each arm wrote about the same questions, each with a seed of its own that all arms share.

    Stories go on past their end, so that all are of one length.
    """
    model, out = load(MODEL), {}
    asked = questions(bench, count)
    for name, lever in arms.items():
        spec = EngineSpec(model, deterministic=True, slots=TOGETHER, context=tokens + 64)
        with Engine.from_spec(lever.decode(spec) if lever else spec) as engine, ThreadPoolExecutor(TOGETHER) as pool:  # type: ignore[attr-defined]

            def story(number: int, engine: Engine = engine) -> Completion:
                seed = derive(bench.seed, "story", number) % 2**31
                settings = AnswerSettings(max_tokens=tokens, temperature=1.0, seed=seed, token_events=True, ignore_eos=True)
                return engine.generate([asked[number]], settings=settings)[0]

            out[name] = list(pool.map(story, range(count)))
        bench.say(f"{name}: {count} stories")
    return model, out
