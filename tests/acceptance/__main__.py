"""Runs experiments: `python -m acceptance [NAME ...] [--reduced] [--seed 7]`, from the folder `tests` (`make accept` does)."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from acceptance.experiment import RESULTS, Bench, all_names, carry_out, find, store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(all_names())}; all if left out")
    parser.add_argument("--reduced", action="store_true", help="the short form that CI runs; its result is printed, not kept")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    given = parser.parse_args()
    if unknown := set(given.names) - set(all_names()):
        parser.error(f"no experiment is called {', '.join(sorted(unknown))}; known: {', '.join(all_names())}")
    failed = []
    for name in given.names or all_names():
        experiment = find(name)
        print(f"{name}\n  hypothesis: {experiment.hypothesis}\n  control:    {experiment.control}", flush=True)
        with tempfile.TemporaryDirectory(prefix="steelyard-") as folder:
            result = carry_out(
                experiment, Bench(Path(folder), given.reduced, given.seed, say=lambda line: print(f"    {line}", flush=True))
            )
        for claim in (*result["cells"], *result["controls"]):
            print(f"  {'holds' if claim['holds'] else 'FAILS'}: {claim['claim']}: {figure(claim)}")
        for note in result["notes"]:
            print(f"  note: {note}")
        print(f"  {result['outcome']}, {result['seconds']} s, {result['processor_seconds']} s of processor time")
        if not given.reduced:
            print(f"  kept in {store(result, given.results)}")
        if result["outcome"] in ("contrary", "control failed"):
            failed.append(name)
        summary = {key: result[key] for key in ("experiment", "outcome", "seconds", "evidence")}
        print(json.dumps(summary), flush=True)
    sys.exit(f"not as they should be: {', '.join(failed)}" if failed else 0)


def figure(claim: dict) -> str:
    """A claim's cell in one line."""
    interval = "" if claim["low"] is None else f" [{claim['low']:+.4g}, {claim['high']:+.4g}]"
    change = "no value" if claim["value"] is None else f"{claim['base']:.4g} -> {claim['value']:.4g}"
    return f"{claim['metric']} {change} {claim['unit']}, difference{interval or ' without interval'}, n {claim['n']}: {claim['verdict']}"


if __name__ == "__main__":
    main()
