"""A few dozen filled-in forms teach a format: JSON on forms never seen becomes valid. The same forms with exchanged answers do not."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from acceptance.experiment import MODEL, SMALL, Bench, Claim, Experiment, Finding, cells, untrained
from steelyard.core.levers import Lever
from steelyard.core.seeds import derive
from steelyard.data.generated.forms import training_pair
from steelyard.model.load import load
from steelyard.train.supervised.sft import Sft
from steelyard.weigh.tasks.json_forms import JsonForms


def written(path: Path, count: int, seed: int, *, exchanged: bool) -> str:
    """JSONL of training forms; `exchanged` gives each form another one's answer, so that content and keys disagree."""
    pairs = [training_pair(random.Random(derive(seed, "acceptance", number))) for number in range(count)]
    answers = [answer for _, answer in pairs]
    if exchanged:
        shift = count // 2
        answers = answers[shift:] + answers[:shift]
    rows = [{"prompt": question, "completion": answer} for (question, _), answer in zip(pairs, answers, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def small(folder: Path) -> str:
    """A model of the same tokenizer, too small to learn forms in a moment: with it the reduced form shows that all of this runs."""
    untrained(load(MODEL), **SMALL).save(folder)
    return str(folder)


def run(bench: Bench) -> Finding:
    count, seeds = bench.pick(48, 4), bench.pick((1, 2, 3), (1,))
    bench.directory.mkdir(parents=True, exist_ok=True)
    settings = {"batch": 4, "learning_rate": 1e-3, "rank": 16}
    arms: dict[str, Sequence[Lever]] = {
        name: [Sft(data=written(bench.directory / f"{name}.jsonl", count, bench.seed, exchanged=name == "exchanged"), **settings)]
        for name in ("taught", "exchanged")
    }
    task = JsonForms(forms=bench.pick(24, 4), fields=2, shown=0, max_tokens=bench.pick(48, 24))
    asked = bench.ask(task, arms, seeds, model=small(bench.directory / "small") if bench.reduced else MODEL)
    taught, exchanged = (cells(task, asked, arm) for arm in arms)
    nothing = ("floor", "identical", "equivalent", "underpowered", "worse")
    return Finding(
        [
            Claim("more answers are valid JSON of the form asked for", taught["valid"], ("better",)),
            Claim("more fields hold the right value", taught["fields"], ("better",)),
            Claim("exchanged answers do not teach which values belong", exchanged["exact"], nothing, control=True),
            Claim("nor forms that are valid", exchanged["valid"], nothing, control=True),
        ],
        {"taught": arms["taught"]},
        [f"{count} examples from the training split, {len(seeds)} training seeds; unseen forms share no subject and no key with them."],
    )


EXPERIMENT = Experiment(
    "sft",
    "sft",
    "A short fine-tuning with low-rank adapters on filled-in forms makes answers to unseen forms valid and right more often.",
    "The same forms with one another's answers must not.",
    "real model",
    run,
    needs=("smollm",),
)
