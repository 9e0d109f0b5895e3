"""A model that learned some texts with their middle moved to the end fills in what only the suffix tells, and reads on as well as before."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared
from steelyard.core.levers import Lever
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.data.fim import TOKENS, Fim, question
from steelyard.model.model import Model
from steelyard.model.new import DecoderPlan
from steelyard.train.pretrain.new import new_model
from steelyard.train.pretrain.pretrain import Pretrain
from steelyard.train.steps import pull
from steelyard.weigh.tasks.task import Metric

LETTERS, LENGTH = "abcdefghijkl", 6
HELD_OUT = 300
INFILL = Metric("infill", "quality", "nats/token", True, margin=0.1, reach=(-20.0, 0.0))
ONWARD = Metric("left_to_right", "quality", "nats/token", True, margin=0.1, reach=(-20.0, 0.0))


def word(bench: Bench, split: str, number: int) -> str:
    """A word of random letters. Texts read `word=WORD`: going on is reading off, but the first word follows from the second alone."""
    draw = random.Random(derive(bench.seed, "fim", split, number))
    return "".join(draw.choice(LETTERS) for _ in range(LENGTH))


def corpus(bench: Bench) -> Path:
    path = bench.directory / "texts.jsonl"
    words = (word(bench, "training", number) for number in range(bench.pick(60_000, 600)))
    path.write_text("".join(json.dumps({"text": f"{word}={word.upper()}"}) + "\n" for word in words), encoding="utf-8")
    return path


def trained(levers: Sequence[Lever], data: Path, run: Run, seed: int) -> Model:
    """A small decoder out of nothing; arms of one seed begin with the same weights."""
    tokenizer = {"kind": "characters", "data": str(data), "special": list(TOKENS)}
    plan = DecoderPlan.model_validate({"width": 64, "depth": 2, "context": 64, "tokenizer": tokenizer})
    return pull(levers, new_model(plan, Run(run.directory / "new", seed)), run)


def logprobs(model: Model, asked: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Mean log-probability per token of each answer after what was asked; all are of equal length."""
    assert model.tokenizer is not None
    tokenizer = model.tokenizer
    ids_bt = torch.tensor([tokenizer.encode(before) + tokenizer.encode(after) for before, after in zip(asked, answers, strict=True)])
    count = len(tokenizer.encode(answers[0]))
    with torch.no_grad():
        logits_btv = model.logits(ids_bt).log_softmax(-1)
    return logits_btv[:, -count - 1 : -1].gather(-1, ids_bt[:, -count:, None]).squeeze(-1).mean(-1).tolist()


def run(bench: Bench) -> Finding:
    bench.directory.mkdir(parents=True, exist_ok=True)
    data, seeds = corpus(bench), bench.pick((1, 2), (1,))
    pretrain = Pretrain(
        data=str(data), steps=bench.pick(1000, 2), batch=32, learning_rate=3e-3, mask_documents=True, validation=0.0, dtype="float32"
    )
    arms: dict[str, Sequence[Lever]] = {"plain": [pretrain], "fim": [Fim(), pretrain]}
    values: dict[str, list[float]] = {}
    for seed in seeds:
        words = [word(bench, f"held out {seed}", number) for number in range(bench.pick(HELD_OUT, 8))]
        begun, middles = [text[:2] for text in words], [text[2:5] for text in words]
        suffixes = [f"{text[5:]}={text.upper()}" for text in words]
        others = suffixes[1:] + suffixes[:1]
        for name, levers in arms.items():
            model = trained(levers, data, Run(bench.directory / f"{name}-{seed}", seed, say=bench.say), seed)
            asked = {
                "onward": ([f"{text}=" for text in words], [text.upper() for text in words]),
                "prefix": (begun, middles),
                "suffix first": ([question(*both) for both in zip(begun, suffixes, strict=True)], middles),
                "prefix first": ([question(*both, suffix_first=False) for both in zip(begun, suffixes, strict=True)], middles),
                "another's suffix": ([question(*both) for both in zip(begun, others, strict=True)], middles),
            }
            for way, (questions, answers) in asked.items():
                values.setdefault(f"{name}: {way}", []).extend(logprobs(model, questions, answers))
    best, notes = values["plain: prefix"], []
    for way in ("plain: prefix", "plain: suffix first", "fim: suffix first", "fim: prefix first", "fim: another's suffix"):
        notes.append(f"Middles, {way}: {statistics.fmean(values[way]):.2f} nats a token.")
    return Finding(
        [
            Claim(
                "middles are likelier once the suffix is given than for a model that reads left to right",
                compared("fim", "filling in", INFILL, best, values["fim: suffix first"], note="suffix first (SPM)"),
                ("better",),
            ),
            Claim(
                "reading left to right is no worse after equally many tokens",
                compared("fim", "going on", ONWARD, values["plain: onward"], values["fim: onward"]),
                ("equivalent", "identical", "better"),
            ),
            Claim(
                "another text's suffix does not help",
                compared("fim, another's suffix", "filling in", INFILL, best, values["fim: another's suffix"]),
                ("worse", "equivalent", "identical", "underpowered"),
                control=True,
            ),
        ],
        {"plain": arms["plain"], "fim": arms["fim"]},
        [f"Texts `word=WORD` of {LENGTH} random letters; {len(seeds)} training seeds of each arm, held-out words of their own.", *notes],
    )


EXPERIMENT = Experiment(
    "fim",
    "fim",
    "Half the texts with their middle at the end teach a small decoder to fill in what only the suffix tells, at no loss left to right.",
    "Given another text's suffix, it must not be better than a model that never saw one.",
    "mechanism",
    run,
)
