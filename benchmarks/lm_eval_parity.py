"""Log-likelihoods here and in lm-eval 0.4 (its Hugging Face backend, float32, CPU), item by item and in one run; then their speed.

    python benchmarks/lm_eval_parity.py --lm-eval PYTHON [--families smollm2 neox] [--sets bbq ...] [--store] [--speed]

`--lm-eval` is an interpreter that has lm-eval (`pip install "lm_eval[hf]"` in an environment of its own: nothing else here needs it).
Both sides read the same rows of ../shared/data, the same model directory and the same window. Ours runs `dtype="float32"`,
`deterministic=True`, through the same way as in a weighing. What must hold: log-likelihoods of choices within 1e-4 nats, those of
rolled texts within 1e-6 of their size, and equal acc, acc_norm, acc_bytes and perplexities.

`--store` keeps lm-eval's figures of the short form in tests/parity, where CI compares with them and needs no lm-eval.
`--speed` times both sides in turns, lm-eval at every batch size given, and reports the ratio to its fastest. Ours scores every pass with an engine
of its own: the slots of one that scored the same set before still hold its texts' beginnings. Wait for a quiet machine, or
count processor seconds (`--processor`, with `--threads 1`: threads that wait for one another count as busy).
The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

PARITY = Path(__file__).resolve().parents[1] / "tests" / "parity"
sys.path.insert(0, str(PARITY))

from parity_models import DIRECTORIES  # noqa: E402
from parity_sets import SETS, write_rows  # noqa: E402
from parity_sides import differences, ours  # noqa: E402

from steelyard.core.hardware import describe, versions  # noqa: E402
from steelyard.generate.engine import Engine  # noqa: E402
from steelyard.model.load import load  # noqa: E402

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FULL = {"bbq": 60, "crows_pairs": 60, "causal_judgement": 30, "kv_retrieval": 4, "shakespeare": 12}
SHORT = {
    "smollm2": {"bbq": 4, "crows_pairs": 4, "causal_judgement": 2, "kv_retrieval": 1, "shakespeare": 1},
    "neox": {"bbq": 8, "crows_pairs": 8, "causal_judgement": 6, "kv_retrieval": 2, "shakespeare": 2},
}
WINDOWS = {"smollm2": 1024, "neox": 256}
SHORT_WINDOWS = {"smollm2": 384, "neox": 256}


class Theirs:
    """A process that runs lm-eval on one model."""

    def __init__(self, python: str, model: Path, window: int, threads: int):
        command = [python, str(PARITY / "lm_eval_side.py"), str(model), str(window), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.versions = self._reply()["versions"]

    def run(self, name: str, rows: Path, batch: int) -> dict[str, Any]:
        """One set at one batch size."""
        assert self.process.stdin is not None
        print(
            json.dumps({"name": name, "config": SETS[name].theirs, "rows": str(rows), "batch": batch}), file=self.process.stdin, flush=True
        )
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"lm-eval ended with status {self.process.wait()}: run tests/parity/lm_eval_side.py by hand to see why")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--lm-eval", default=sys.executable, metavar="PYTHON", help="an interpreter that has lm-eval")
    parser.add_argument("--families", nargs="+", default=list(DIRECTORIES), choices=list(DIRECTORIES))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the shared data")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16], help="lm-eval's batch sizes that are timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--store", action="store_true", help="keep lm-eval's figures of the short form for CI")
    parser.add_argument("--speed", action="store_true", help="time both sides in turns")
    parser.add_argument("--processor", action="store_true", help="count processor seconds, not the clock's: for a machine that is busy")
    given = parser.parse_args()
    windows = SHORT_WINDOWS if given.store else WINDOWS
    torch.set_num_threads(given.threads)
    out: dict[str, Any] = {"machine": describe(), "versions": versions(), "threads": given.threads, "parity": [], "speed": []}
    with tempfile.TemporaryDirectory(prefix="steelyard-") as temporary:
        folder = Path(temporary)
        for family in given.families:
            directory, window, counts = DIRECTORIES[family](folder), windows[family], SHORT[family] if given.store else FULL
            theirs = Theirs(given.lm_eval, directory, window, given.threads)
            out["versions"] = {**out["versions"], **theirs.versions}
            settings: dict[str, Any] = {"dtype": "float32", "deterministic": True, "context": window, "slots": given.slots}
            kept: dict[str, Any] = {}
            model = load(str(directory))
            with Engine(model, threads=given.threads, **settings) as engine:
                for name in given.sets:
                    rows = write_rows(name, given.data, counts[name], folder)
                    kept[name] = theirs.run(name, rows, given.batches[-1])
                    row = {"family": family, **differences(name, ours(engine, name, given.data, counts[name], folder), kept[name])}
                    out["parity"].append(row)
                    print(line_of(row), flush=True)
            if given.speed:
                out["speed"].append(race(given, family, partial(Engine, model, threads=given.threads, **settings), theirs, folder, counts))
            theirs.close()
            if given.store:
                keep(family, window, counts, kept, theirs.versions)
    print(json.dumps(out))
    if not all(row["holds"] for row in out["parity"]):
        raise SystemExit(1)


def line_of(row: dict[str, Any]) -> str:
    unit = "of its size" if row["relative"] else "nats"
    figures = ", ".join(f"{name} {mine:.6g} / {other:.6g}" for name, (mine, other) in row["metrics"].items())
    verdict = "holds" if row["holds"] else "FAILS"
    return f"{row['family']:8} {row['set']:17} {row['scores']:5} scores, apart at most {row['largest_difference']:.1e} {unit}: {verdict}; {figures}"


def race(
    given: argparse.Namespace, family: str, engine: Callable[[], Engine], theirs: Theirs, folder: Path, counts: dict[str, int]
) -> dict[str, Any]:
    """Seconds of both sides on all sets, in turns; lm-eval's figure is that of its fastest batch size on each set."""
    rows = {name: write_rows(name, given.data, counts[name], folder) for name in given.sets}
    clock = "busy" if given.processor else "seconds"
    fastest: dict[str, tuple[float, int]] = {}
    for name in given.sets:
        fastest[name] = min((theirs.run(name, rows[name], batch)[clock], batch) for batch in given.batches)
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in given.sets}
    for _ in range(given.repeats):
        for name in given.sets:
            with engine() as fresh:
                fresh.score([("", "Warm.")] * given.slots)  # threads and buffers are there, as lm-eval's are
                mine = ours(fresh, name, given.data, counts[name], folder)[clock]
            pairs[name].append((mine, theirs.run(name, rows[name], fastest[name][1])[clock]))
    out: dict[str, Any] = {"family": family, "clock": "processor" if given.processor else "wall", "sets": {}}
    for name, timed in pairs.items():
        mine, other = (statistics.median(column) for column in zip(*timed, strict=True))
        ratios = sorted(theirs / ours for ours, theirs in timed)
        out["sets"][name] = {"steelyard": mine, "lm_eval": other, "batch": fastest[name][1], "ratio": other / mine, "ratios": ratios}
        span = f"{other / mine:.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{family:8} {name:17} {mine:7.2f} s here, {other:7.2f} s in lm-eval (batch {fastest[name][1]}): {span}", flush=True)
    totals = [sum(part[side] for part in out["sets"].values()) for side in ("steelyard", "lm_eval")]
    out["ratio"] = totals[1] / totals[0]
    print(f"{family:8} all sets          {totals[0]:7.2f} s here, {totals[1]:7.2f} s in lm-eval: {out['ratio']:.2f} times", flush=True)
    return out


def keep(family: str, window: int, counts: dict[str, int], kept: dict[str, Any], by: dict[str, str]) -> None:
    """Writes lm-eval's figures where CI finds them."""
    sets = {name: {key: part[key] for key in ("items", "each", "metrics")} for name, part in kept.items()}
    made = {"made_by": "python benchmarks/lm_eval_parity.py --store", "versions": by, "window": window, "counts": counts, "sets": sets}
    (PARITY / f"lm_eval_{family}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
