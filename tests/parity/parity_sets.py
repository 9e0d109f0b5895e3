"""What is weighed by Steelyard and by lm-eval alike: rows, our task file, and lm-eval's own task configuration for each set.

Both sides read the same file of rows. Each side's prompt is written in its own way, so that equal prompts are something to be found out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHAKESPEARE = "tinyshakespeare.txt"


@dataclass(frozen=True)
class Set:
    """One set.

    Attributes:
        rows: folder of the shared data and a count -> rows.
        ours: a task file's content without `rows`.
        theirs: an lm-eval task configuration without its data.
    """

    rows: Callable[[Path, int], list[dict[str, Any]]]
    ours: dict[str, Any]
    theirs: dict[str, Any]


def _bbq(data: Path, count: int) -> list[dict[str, Any]]:
    lines = (data / "bbq" / "Age.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    kept = ("context", "question", "ans0", "ans1", "ans2", "label")
    return [{key: row[key] for key in kept} for row in map(json.loads, lines)]


def _crows(data: Path, count: int) -> list[dict[str, Any]]:
    with (data / "crows_pairs_first500.csv").open(encoding="utf-8", newline="") as file:
        return [{"more": row["sent_more"], "less": row["sent_less"]} for row, _ in zip(csv.DictReader(file), range(count), strict=False)]


def _judgement(data: Path, count: int) -> list[dict[str, Any]]:
    return json.loads((data / "bbh" / "causal_judgement.json").read_text(encoding="utf-8"))["examples"][:count]


def _retrieval(data: Path, count: int) -> list[dict[str, Any]]:
    """75 keys with their values; the choices are the right value and the three that stand around it."""
    out = []
    for number, line in enumerate((data / "kv_retrieval_75_first50.jsonl").read_text(encoding="utf-8").splitlines()[:count]):
        records = json.loads(line)["ordered_kv_records"]
        place = (number * 31) % (len(records) - 4)
        text = ",\n".join(f'"{key}": "{value}"' for key, value in records)
        out.append({"text": text, "key": records[place][0], "values": [value for _, value in records[place : place + 4]]})
    return out


def _pages(data: Path, count: int) -> list[dict[str, Any]]:
    text = (data / SHAKESPEARE).read_text(encoding="utf-8")
    size = 3000
    return [{"page": text[start : start + size]} for start in range(0, count * size, size)]


LOADED = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm", "acc_bytes")]
CHOICES = {"output_type": "multiple_choice", "metric_list": LOADED}

SETS: dict[str, Set] = {
    "bbq": Set(
        _bbq,
        {
            "kind": "choices",
            "prompt": "{{ context }} {{ question }}\nAnswer:",
            "choices": ["{{ ans0 }}", "{{ ans1 }}", "{{ ans2 }}"],
            "right": "{{ label }}",
        },
        {
            **CHOICES,
            "doc_to_text": "{{context}} {{question}}\nAnswer:",
            "doc_to_choice": "{{[ans0, ans1, ans2]}}",
            "doc_to_target": "label",
        },
    ),
    "crows_pairs": Set(  # no context at all: the text follows the start token
        _crows,
        {"kind": "choices", "prompt": "", "choices": ["{{ more }}", "{{ less }}"], "right": "0", "delimiter": ""},
        {**CHOICES, "doc_to_text": "", "doc_to_choice": "{{[more, less]}}", "doc_to_target": 0, "target_delimiter": ""},
    ),
    "causal_judgement": Set(  # a prompt that ends with white space, which belongs to the choice
        _judgement,
        {
            "kind": "choices",
            "before": "Answer the question.\n\n",
            "prompt": "{{ input }}\nAnswer: ",
            "choices": ["Yes", "No"],
            "expected": "{{ target }}",
            "cut": True,
            "delimiter": "",
        },
        {
            **CHOICES,
            "description": "Answer the question.\n\n",
            "doc_to_text": "{{input}}\nAnswer: ",
            "doc_to_choice": ["Yes", "No"],
            "doc_to_target": "{{['Yes', 'No'].index(target)}}",
            "target_delimiter": "",
        },
    ),
    "kv_retrieval": Set(  # far longer than the context: its beginning is cut off; choices of many tokens
        _retrieval,
        {
            "kind": "choices",
            "prompt": '{{ text }}\n\nKey: "{{ key }}"\nIts value:',
            "choices": "{{ row['values'] | tojson }}",
            "right": "0",
            "cut": True,
        },
        {**CHOICES, "doc_to_text": '{{text}}\n\nKey: "{{key}}"\nIts value:', "doc_to_choice": "values", "doc_to_target": 0},
    ),
    "shakespeare": Set(
        _pages,
        {"kind": "perplexity", "text": "{{ page }}"},
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{page}}",
            "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
        },
    ),
}


def write_rows(name: str, data: Path, count: int, folder: Path) -> Path:
    """A set's rows as JSONL."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in SETS[name].rows(data, count)), encoding="utf-8")
    return path
