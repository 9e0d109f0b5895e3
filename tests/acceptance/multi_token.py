"""Heads for later tokens guess what is then verified: the text stays what it is, and several guesses at a time are right."""

from __future__ import annotations

import copy
import random
import statistics
from pathlib import Path
from typing import Any

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from acceptance.guessing import requested
from acceptance.small_decoders import bits, reading, taught
from steelyard.core.protocols import AnswerSettings
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.texts.opening import open_texts
from steelyard.data.token_file import TokenFile, write_tokens
from steelyard.data.tokenizer_training import train_tokenizer
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.speculation.further_heads import FurtherHeadsLever
from steelyard.model.heads.multi_token import MultiTokenLever
from steelyard.model.model import Model
from steelyard.model.new import DecoderPlan
from steelyard.train.pretrain.new import new_model
from steelyard.weigh.tasks.task import Metric

BITS = Metric("bits_per_byte", "quality", "bits/byte", False, margin=0.02)
RIGHT = Metric("guesses_right_at_a_time", "quality", "tokens/pass", True, margin=0.05)
WHAT = "made-up words of eight letters"
LETTERS, WORDS = "abcdefghijklmnopqrstuvwxyz", 8
TIME, HEADS = 64, 4
PLAN: dict[str, Any] = {"width": 64, "depth": 2, "context": 128}


def texts(bench: Bench, count: int) -> tuple[TokenFile, TokenFile]:
    """Words of a small made-up language in random order, as bytes: (to learn, kept aside). Which word comes cannot be known, but where two
    letters of one have been read, the others can. (In text that repeats itself, heads that merely say the next token again guess well.)"""
    draw = random.Random(derive(bench.seed, "words"))
    language = ["".join(draw.choices(LETTERS, k=8)) for _ in range(WORDS)]
    bench.directory.mkdir(parents=True, exist_ok=True)
    path = bench.directory / "words.txt"
    path.write_text(" ".join(draw.choices(language, k=count)), encoding="utf-8")
    return write_tokens(open_texts(str(path)), train_tokenizer("bytes", (), None, ()), bench.directory / "tokens").split(0.1)


def answers(model: Model, kept: TokenFile, lever: FurtherHeadsLever | None, count: int, tokens: int) -> tuple[list[list[int]], list[float]]:
    """What a model writes on after some openings, and how many guesses were right at each verification."""
    spec = EngineSpec(model, deterministic=True, slots=4, dtype="float32")
    prompts = [kept.ids[start : start + 32].tolist() for start in range(0, 200 * count, 200)]
    wanted = [AnswerSettings(max_tokens=tokens, temperature=0.7 * (number % 2), seed=number, ignore_eos=True) for number in range(count)]
    with Engine.from_spec(lever.decode(spec) if lever else spec) as engine:
        told = requested(engine, prompts, wanted)
    return [list(one.generated) for one in told], [one.agreed / max(1, one.passes) for one in told]


def forgetful(model: Model) -> Model:
    """The same model whose further heads know nothing: their weights are drawn anew."""
    trunk = copy.deepcopy(model.trunk)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trunk.heads["lm"].further.parameters():  # type: ignore[union-attr]
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model.with_trunk(trunk)


def run(bench: Bench) -> Finding:
    levers = {"four": MultiTokenLever(tokens=HEADS), "one": MultiTokenLever(tokens=1)}  # type: ignore[call-arg]
    seeds, windows, steps = bench.pick((1, 2, 3), (1,)), bench.pick(300, 24), bench.pick(400, 30)
    count, tokens = bench.pick(12, 3), bench.pick(48, 12)
    learned, kept = texts(bench, bench.pick(20_000, 2_000))
    runs: dict[str, list[list[float]]] = {name: [] for name in levers}
    right: dict[str, list[float]] = {"trained": [], "forgetful": []}
    same = 0
    for seed in seeds:
        for name, lever in levers.items():
            plan = DecoderPlan.model_validate(PLAN | {"head": {"multi_token": lever.settings}})
            model = new_model(plan, Run(Path(bench.directory) / f"new-{name}", seed))
            trunk = taught(bench, name, model.trunk, reading(learned, seed, time=TIME), steps=steps, seed=seed, learning_rate=3e-3)
            runs[name].append(bits(trunk, kept, windows, TIME))
            if name == "four":
                model = model.with_trunk(trunk)
                plain, _ = answers(model, kept, None, count, tokens)
                guess = FurtherHeadsLever(verify="coupled")  # type: ignore[call-arg]
                for arm, one in (("trained", model), ("forgetful", forgetful(model))):
                    said, agreed = answers(one, kept, guess, count, tokens)
                    same += sum(a == b for a, b in zip(said, plain, strict=True))
                    right[arm] += agreed
    read = {name: [statistics.fmean(values) for values in zip(*each, strict=True)] for name, each in runs.items()}
    mean = {arm: statistics.fmean(values) for arm, values in right.items()}
    bench.say(f"right at a time {mean}, bits/byte { ({name: round(statistics.fmean(values), 3) for name, values in read.items()}) }")
    asked = 2 * count * len(seeds)
    more = [] if bench.reduced else [
        Claim("more than one guess at a time is right", compared("four heads", WHAT, RIGHT, [1.0] * len(right["trained"]), right["trained"]), ("better",)),
        Claim("heads that know nothing guess worse", compared("forgetful heads", WHAT, RIGHT, right["trained"], right["forgetful"]), ("worse",), control=True),
    ]  # fmt: skip
    nothing = ("floor", "identical", "equivalent", "underpowered", "worse")
    return Finding(
        [
            Claim(
                "with guesses, good or bad, every text is the text without",
                counted("coupled", WHAT, "same text", same, asked, "identical" if same == asked else "worse"),
                ("identical",),
            ),
            *more,
            Claim(
                "the next token itself is told no better, as the paper finds in small models",
                compared("four heads", WHAT, BITS, read["one"], read["four"]),
                nothing,
                control=True,
            ),
        ],
        {"four heads": [levers["four"]]},
        [
            f"Guesses right at each verification, the certain first one among them: {mean['trained']:.2f} of {HEADS}; "
            f"by heads that know nothing {mean['forgetful']:.2f}.",
            f"Decoders of width 64 and 2 blocks, {steps} steps of 16 windows of {TIME} bytes, {len(seeds)} seeds. "
            "Whether induction comes earlier, which the paper also says, was not tried.",
        ],
    )


EXPERIMENT = Experiment(
    "multi_token",
    "multi_token",
    "Heads trained on later tokens guess more than one token at a time rightly, and verified guesses leave every text as it is.",
    "Heads that know nothing must guess worse and leave the text as it is all the same; the next token is told no better.",
    "mechanism",
    run,
)
