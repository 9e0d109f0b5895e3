"""Our side of the comparison: the sets through the same way as in a weighing, item by item."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import yaml
from parity_sets import SETS, write_rows

from steelyard.augment.answerers import LocalAnswerer
from steelyard.generate.engine import Engine
from steelyard.weigh.asking.answering import answer_all
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.records import Records
from steelyard.weigh.scorers import perplexity
from steelyard.weigh.tasks.task_file import TaskFile

ITEM = 1e-4  # nats between two log-likelihoods of a choice
ROLLING = 1e-6  # relative, between two log-likelihoods of a text


def ours(engine: Engine, name: str, data: Path, count: int, folder: Path) -> dict[str, Any]:
    """A set through the engine: log-likelihoods of every item, its metrics, and the seconds that scoring took."""
    rows = write_rows(name, data, count, folder)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**SETS[name].ours, "rows": {"path": rows.name}}), encoding="utf-8")
    task = TaskFile(path=folder / f"{name}.yaml")
    samples = task.samples(0)
    arm = OpenArm(
        "base", LocalAnswerer(engine), engine.fingerprint, engine.spec.slots, engine.score, engine.score_rolling, engine.fingerprint
    )
    begun, used = time.perf_counter(), time.process_time()
    with Records(folder / f"{name}-{time.time_ns()}.sqlite") as records:
        outputs = answer_all(arm, name, samples, records, seed=0)
    took = {"seconds": time.perf_counter() - begun, "busy": time.process_time() - used}
    assert all(output.failure is None for output in outputs), [output.failure for output in outputs]
    scored = [dict(task.score(sample, output)) for sample, output in zip(samples, outputs, strict=True)]
    items = [[score.logprob for score in output.scores] for output in outputs]
    if SETS[name].ours["kind"] == "perplexity":
        return {"items": items, "metrics": perplexity.perplexities(scored), **took}
    each = {metric: [row[metric] for row in scored] for metric in ("acc", "acc_norm", "acc_bytes")}
    means = {metric: sum(values) / len(values) for metric, values in each.items()}
    return {"items": items, "each": each, "metrics": means, **took}


def differences(name: str, mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """How far the two sides are apart, and whether that is within what is promised."""
    assert [len(row) for row in mine["items"]] == [len(row) for row in theirs["items"]], f"{name}: not the same items"
    pairs = [(a, b) for one, other in zip(mine["items"], theirs["items"], strict=True) for a, b in zip(one, other, strict=True)]
    rolling = SETS[name].ours["kind"] == "perplexity"
    apart = max(abs(a - b) / (abs(b) if rolling else 1.0) for a, b in pairs)
    shared = sorted(set(mine["metrics"]) & set(theirs["metrics"]))
    same = all(
        math.isclose(mine["metrics"][metric], theirs["metrics"][metric], rel_tol=1e-6)
        if rolling
        else mine["each"][metric] == theirs["each"][metric]
        for metric in shared
    )
    return {
        "set": name,
        "items": len(mine["items"]),
        "scores": len(pairs),
        "largest_difference": apart,
        "allowed": ROLLING if rolling else ITEM,
        "relative": rolling,
        "metrics": {metric: [mine["metrics"][metric], theirs["metrics"][metric]] for metric in shared},
        "same_metrics": same,
        "holds": apart <= (ROLLING if rolling else ITEM) and same,
    }


def stored(path: Path) -> dict[str, Any]:
    """What lm-eval gave, as it was kept."""
    return json.loads(path.read_text(encoding="utf-8"))
