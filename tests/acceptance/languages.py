"""What the same passages cost the model in ten languages, beside English: tokens, which are paid and waited for, and bits, which are
what it does not know. English under another name must cost what English costs, and more where every passage is said twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared
from steelyard.core.files import write_text
from steelyard.weigh.cells.scoring import Scored
from steelyard.weigh.report.report import Cell
from steelyard.weigh.tasks.parallel_text import ParallelText
from steelyard.weigh.tasks.task import Metric

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "mgsm"
NAMES = {
    "bn": "Bengali", "de": "German", "es": "Spanish", "fr": "French", "ja": "Japanese", "ru": "Russian", "sw": "Swahili", "te": "Telugu",
    "th": "Thai", "zh": "Chinese",
}  # fmt: skip
COSTS = {
    "tokens": Metric("tokens", "languages", "tokens/passage", False, margin=0.01, relative=True),
    "bits": Metric("bits", "languages", "bits/passage", False, margin=0.01, relative=True),
}


def run(bench: Bench) -> Finding:
    wanted = list(NAMES)[: bench.pick(None, 2)]
    asked = ask(bench, "parallel", passages(wanted)[: bench.pick(None, 4)])
    claims = [
        Claim(f"{NAMES[language]} costs more {cost} than English", cell(asked, language, cost), ("worse",))
        for cost in COSTS
        for language in wanted
    ]
    for cost in COSTS:
        what = f"English by another name costs the same {cost}"
        claims.append(Claim(what, cell(asked, "same", cost), ("identical",), control=True))
    claims.append(Claim("said twice, English costs more tokens", cell(asked, "twice", "tokens"), ("worse",), control=True))
    dear = sorted(wanted, key=lambda language: -mean(asked, f"tokens_in_{language}"))
    english = mean(asked, "tokens_in_en")
    told = ", ".join(f"{NAMES[language]} {mean(asked, f'tokens_in_{language}') / english:.2f}" for language in dear)
    bits = ", ".join(f"{NAMES[language]} {mean(asked, f'bits_in_{language}') / mean(asked, 'bits_in_en'):.2f}" for language in dear)
    return Finding(claims, notes=[f"Times the tokens of English: {told}.", f"Times the bits of English: {bits}."])


def passages(languages: Sequence[str]) -> list[dict[str, str]]:
    """The problems in English, in these languages, in English by another name, and in English said twice."""
    texts = {language: _first_column(FOLDER / f"{language}_first50.tsv") for language in ("en", *languages)}
    rows = [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]
    return [row | {"same": row["en"], "twice": f"{row['en']} {row['en']}"} for row in rows]


def ask(bench: Bench, name: str, rows: Sequence[dict[str, str]]) -> Scored:
    file = bench.directory / f"{name}.jsonl"
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return bench.ask(ParallelText(path=file), {})["base"][0]


def column(asked: Scored, metric: str) -> list[float]:
    """The values of one language, by passage."""
    return [value for value in asked.values[metric] if isinstance(value, float)]


def mean(asked: Scored, metric: str) -> float:
    values = column(asked, metric)
    return sum(values) / len(values)


def cell(asked: Scored, language: str, cost: str) -> Cell:
    """A language beside English, passage by passage."""
    english, other = (column(asked, f"{cost}_in_{one}") for one in ("en", language))
    return compared(NAMES.get(language, language), "parallel_text", COSTS[cost], english, other)


def _first_column(file: Path) -> list[str]:
    return [line.partition("\t")[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


EXPERIMENT = Experiment(
    "languages",
    "",
    "The same problems take this model more tokens and more bits in each of ten other languages than in English.",
    "English by another name takes the very same, and more tokens where each problem is said twice.",
    "real model",
    run,
    needs=("smollm", "shared_data"),
)
