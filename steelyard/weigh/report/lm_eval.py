"""A report in the layout of lm-eval 0.4 (`results_*.json`, `samples_*.jsonl`), for tools that read that: one file for each arm.

lm-eval's metrics are called `NAME,FILTER` and have a standard error; ours have no filter ("none"). Standard errors are lm-eval's own:
the sample's standard deviation over the root of n, clusters not regarded; where a metric is no mean over samples, or the answers are not
at hand, "N/A". Intervals, pairs and verdicts have no place in that layout: report.json has them.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.core.errors import SteelyardError
from steelyard.core.fingerprint import digest
from steelyard.weigh.report.columns import COSTS, base_name, column_of, grid
from steelyard.weigh.report.heading import change_text, model_name
from steelyard.weigh.report.json import plain, rounded
from steelyard.weigh.report.report import Report
from steelyard.weigh.report.visible import visible

Rows = Sequence[Mapping[str, Any]]
"""A task's samples: `sample`, `question`, `expected`, `text`, `values` (metric -> number or None)."""


def to_lm_eval(report: Report, arm: str, rows: Mapping[str, Rows] | None = None) -> dict[str, Any]:
    """One arm's results in lm-eval's layout.

    Args:
        report: the report.
        arm: whose; the base is the first.
        rows: task -> its samples, for the standard errors.

    Raises:
        SteelyardError: there is no such arm.
    """
    if arm not in report.arms:
        raise SteelyardError(f"there is no arm `{arm}`", where="report", do=f"Take one of: {', '.join(report.arms)}.")
    rows, cells = rows or {}, grid(report)
    results: dict[str, dict[str, Any]] = {}
    better: dict[str, dict[str, bool]] = {}
    counts: dict[str, int] = {}
    columns = dict.fromkeys(column_of(cell) for cell in report.cells if cell.axis not in COSTS and cell.task)
    for column in columns:
        cell = cells.get((column, arm))
        if cell is None or cell.value is None or not math.isfinite(cell.value):
            continue
        result = results.setdefault(column.task, {"alias": column.task})
        result[f"{column.metric},none"] = float(cell.value)
        result[f"{column.metric}_stderr,none"] = _error(rows.get(column.task, ()), column.metric, cell.value)
        better.setdefault(column.task, {})[column.metric] = column.higher_is_better
        counts[column.task] = max(counts.get(column.task, 0), cell.n)
    for task, result in results.items():
        result["sample_len"] = counts[task]
    settings = _settings(report)
    seed = report.recipe.get("seed")
    summary = report.arms[arm]
    return {
        "results": results,
        "group_subtasks": {task: [] for task in results},
        "configs": {task: {"task": task, "metadata": settings.get(task, {})} for task in results},
        "versions": {task: str(report.versions.get("steelyard", "")) for task in results},
        "n-shot": {task: _shots(settings.get(task)) for task in results},
        "higher_is_better": better,
        "n-samples": {task: {"original": len(rows.get(task, ())) or counts[task], "effective": counts[task]} for task in results},
        "config": {
            "model": "steelyard",
            "model_args": visible(change_text(report, arm)) if arm != base_name(report) else "",
            "model_num_parameters": summary.parameters,
            "model_sha": summary.fingerprint,
            "batch_size": None,
            "limit": report.recipe.get("samples"),
            "random_seed": seed,
            "numpy_seed": seed,
            "torch_seed": seed,
            "fewshot_seed": seed,
        },
        "git_hash": None,
        "date": _stamp(report.started),
        "steelyard_version": report.versions.get("steelyard"),
        "steelyard_arm": arm,
        "model_source": "steelyard",
        "model_name": model_name(report) if arm == base_name(report) else f"{model_name(report)}, {arm}",
        "model_name_sanitized": name_for_file(arm),
        "task_hashes": {task: digest([row.get("sample") for row in rows[task]]) for task in results if rows.get(task)},
        "total_evaluation_time_seconds": str(report.seconds),
    }


def sample_lines(task_rows: Rows) -> str:
    """A task's samples in the layout of lm-eval's `samples_*.jsonl`, one JSON object a line."""
    lines = []
    for number, row in enumerate(task_rows):
        values = {name: value for name, value in row["values"].items() if value is not None}
        question, target, text = (str(row.get(key, "")) for key in ("question", "expected", "text"))
        entry = {
            "doc_id": number,
            "doc": {"id": row.get("sample", ""), "question": question},
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": question}},
            "resps": [[text]],
            "filtered_resps": [text],
            "filter": "none",
            "metrics": sorted(values),
            "doc_hash": digest(row.get("sample", "")),
            "prompt_hash": digest(question),
            "target_hash": digest(target),
            **values,
        }
        lines.append(json.dumps(plain(entry), ensure_ascii=True) + "\n")
    return "".join(lines)


def as_text(layout: Mapping[str, Any]) -> str:
    """The layout as the file holds it."""
    return json.dumps(plain(layout, sort=False), indent=2, ensure_ascii=True) + "\n"


def name_for_file(name: str) -> str:
    """An arm's or task's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._") or "arm"


def _error(rows: Rows, metric: str, value: float) -> float | str:
    """lm-eval's standard error of a mean; N/A where the samples' values do not average to the figure, as those of a ratio."""
    found = [row["values"].get(metric) for row in rows]
    numbers = [float(one) for one in found if one is not None and math.isfinite(one)]
    if len(numbers) < 2 or not math.isclose(statistics.fmean(numbers), value, rel_tol=1e-4, abs_tol=1e-6):
        return "N/A"
    kept = rounded(statistics.stdev(numbers) / math.sqrt(len(numbers)))
    return "N/A" if kept is None else kept


def _settings(report: Report) -> dict[str, Any]:
    """Task -> its settings, as the recipe resolved them."""
    written = report.recipe.get("tasks")
    out: dict[str, Any] = {}
    for task in written if isinstance(written, list) else []:
        if isinstance(task, dict):
            out |= {str(name): settings for name, settings in task.items()}
    return out


def _shots(settings: Any) -> int:
    shots = settings.get("shots", settings.get("examples", 0)) if isinstance(settings, dict) else 0
    return shots if isinstance(shots, int) and not isinstance(shots, bool) else 0


def _stamp(started: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(started).timestamp()
    except ValueError:
        return None
