"""Sets of the hub: from rows in its form, every request is what lm-eval's own task file makes, and so are the metrics.

`lm_eval_prompts.json` holds made-up rows with what lm-eval made of them; it says with which version.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.errors import DataError
from steelyard.core.protocols import Score
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.task import Continue, Output, Read, Task

KEPT = json.loads((Path(__file__).parent / "lm_eval_prompts.json").read_text(encoding="utf-8"))["sets"]
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "hellaswag": ("hellaswag", {}),
    "arc_easy": ("arc", {"part": "easy"}),
    "arc_challenge": ("arc", {"part": "challenge"}),
    "piqa": ("piqa", {}),
    "mmlu_anatomy": ("mmlu", {"subject": "anatomy"}),
    "mmlu_high_school_us_history": ("mmlu", {"subject": "high_school_us_history"}),
    "truthfulqa_mc1": ("truthfulqa", {"form": "mc1"}),
    "truthfulqa_mc2": ("truthfulqa", {"form": "mc2"}),
    "wikitext": ("wikitext", {}),
}


def over(folder: Path, name: str, rows: list[dict[str, Any]]) -> Task:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    called, settings = TASKS[name]
    return registry.make(called, {"path": str(path), **settings})


@pytest.mark.parametrize("name", sorted(KEPT))
def test_requests_and_metrics_are_those_of_lm_evals_task_file(name: str, tmp_path: Path) -> None:
    task = over(tmp_path, name, KEPT[name]["rows"])
    samples = task.samples(0)
    assert len(samples) == len(KEPT[name]["requests"])
    for sample, kept in zip(samples, KEPT[name]["requests"], strict=True):
        request = sample.request
        if isinstance(request, Read):
            assert [[request.text]] == kept["arguments"] and request.rolling
        else:
            assert isinstance(request, Continue)
            assert [list(pair) for pair in request.pairs] == kept["arguments"]
        found = task.score(sample, Output(scores=tuple(Score(one, False, 1, 1) for one in kept["scores"])))
        for metric, value in kept["metrics"].items():
            if isinstance(value, list):
                ours = {"word_perplexity": "word_log_perplexity", "byte_perplexity": "byte_log_perplexity"}.get(metric, metric)
                pair = found[ours]
                assert isinstance(pair, tuple) and pair[1] == value[1]
                assert pair[0] == pytest.approx(-value[0] / (math.log(2) if metric == "bits_per_byte" else 1))
            else:
                ours = "right_share" if name == "truthfulqa_mc2" and metric == "acc" else metric
                assert found[ours] == pytest.approx(value), metric


@pytest.mark.parametrize("name", sorted(KEPT))
def test_a_set_that_no_row_was_seen_of_says_so_and_where_its_rows_are_from(name: str) -> None:
    called, settings = TASKS[name]
    task: Any = registry.make(called, settings)
    assert type(task).evidence.startswith("format-tested")
    assert "/" in task.dataset and (task.commit is None or len(task.commit) == 40)


def test_without_a_commit_nothing_is_downloaded() -> None:
    with pytest.raises(DataError, match="says no revision"):
        registry.make("wikitext").samples(0)
    with pytest.raises(DataError, match="'main' is no commit"):
        registry.make("piqa", {"revision": "main"}).samples(0)


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("hellaswag", {"label": "4"}, "`label`"),
    ("hellaswag", {"label": ""}, "`label`"),
    ("hellaswag", {"endings": "x"}, "`endings`"),
    ("hellaswag", {"ctx_b": None}, "`ctx_b`"),
    ("arc_easy", {"answerKey": "E"}, "none of the choices"),
    ("arc_easy", {"choices": ["a", "b"]}, "`choices`"),
    ("arc_easy", {"choices": {"text": ["a", "b"], "label": ["A"]}}, "`label`"),
    ("piqa", {"label": -1}, "`label`"),
    ("piqa", {"sol1": ""}, "`sol1`"),
    ("mmlu_anatomy", {"choices": ["a"]}, "four texts"),
    ("mmlu_anatomy", {"answer": 4}, "`answer`"),
    ("mmlu_anatomy", {"answer": True}, "`answer`"),
    ("truthfulqa_mc1", {"mc1_targets": {"choices": ["a", "b"], "labels": [0, 1]}}, "not the first alone"),
    ("truthfulqa_mc2", {"mc2_targets": {"choices": ["a", "b"], "labels": [0, 0]}}, "labels"),
    ("truthfulqa_mc2", {"mc2_targets": None}, "lacks"),
    ("wikitext", {"page": 7}, "`page`"),
]


@pytest.mark.parametrize(("name", "change", "told"), HOSTILE)
def test_a_row_that_cannot_be_used_is_named(name: str, change: dict[str, Any], told: str, tmp_path: Path) -> None:
    good = KEPT[name]["rows"][0]
    with pytest.raises(DataError, match=told) as caught:
        over(tmp_path, name, [good, {**good, **change}]).samples(0)
    assert "line 2" in str(caught.value)


def test_other_settings_than_the_known_are_refused() -> None:
    with pytest.raises(Exception, match="subjct"):
        registry.make("mmlu", {"subjct": "anatomy"})
    with pytest.raises(Exception, match="part"):
        registry.make("arc", {"part": "medium"})
