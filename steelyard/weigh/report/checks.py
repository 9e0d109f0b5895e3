"""Is the balance itself true? What the A/A comparison and the planted defect say, in plain language."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from steelyard.weigh.report.columns import measure
from steelyard.weigh.report.report import Cell, Report

# The probability with which a true balance is called false, whatever ties its metrics together (right, truthful and
# hallucinated move as one, so counting false differences as if each were a toss of its own would cry wolf).
ALARM = 0.005


@dataclass(frozen=True)
class Check:
    """One check of the balance. `outcome` is "absent" where it was not run: then nothing vouches for the balance on this point."""

    name: str
    title: str
    outcome: Literal["passed", "failed", "absent"]
    sentence: str
    meaning: str
    cells: tuple[Cell, ...] = ()


def checks(report: Report) -> list[Check]:
    """Both checks, whether or not they were run."""
    return [
        _same_against_itself(report.checks.get("a_a", []), 1 - report.confidence),
        _planted_defect(report.checks.get("planted_defect", [])),
    ]


def _same_against_itself(cells: list[Cell], error_rate: float) -> Check:
    title = "A/A: the base against itself"
    meaning = "Nothing was changed here, so a true balance may find a difference only as often as its stated error rate."
    compared = [cell for cell in cells if cell.verdict not in ("floor", "not measurable")]
    if not compared:
        return Check("a_a", title, "absent", "Not run in this weighing.", meaning, tuple(cells))
    false = [cell for cell in compared if cell.verdict in ("better", "worse")]
    # Where records could not differ (all identical), chance had no say.
    chances = sum(cell.verdict != "identical" for cell in compared)
    untrue = [cell for cell in false if _strength(cell, error_rate) > statistics.NormalDist().inv_cdf(1 - ALARM / 2 / chances)]
    moved = [cell for cell in compared if "greedy" in cell.arm.lower() and cell.verdict != "identical"]
    failed = bool(untrue) or bool(moved)
    sentence = f"{_count(cells, compared)}: {_tally(compared)}."
    if false:
        sentence += f" A difference where there is none: {_some(false)}"
        sentence += "." if untrue else f"; one in {1 / error_rate:.0f} is to be expected."
    if untrue:
        sentence += " That is too large for chance: do not rely on the verdicts of this report."
    if moved:
        sentence += f" Asked again without chance, the base did not repeat itself: {_some(moved)}."
    return Check("a_a", title, "failed" if failed else "passed", sentence, meaning, tuple(cells))


def _planted_defect(cells: list[Cell]) -> Check:
    title = "Planted defect: a change known to be bad"
    meaning = "A balance that misses a gross fault would also miss yours; what it calls equivalent would then mean little."
    if not cells:
        return Check("planted_defect", title, "absent", "Not run in this weighing.", meaning)
    telling = [cell for cell in cells if cell.primary] or cells
    if all(cell.verdict == "not measurable" for cell in telling):
        return Check(
            "planted_defect", title, "absent", "Not measurable here, so whether a fault would show is not known.", meaning, tuple(cells)
        )
    caught = [cell for cell in telling if cell.verdict == "worse"]
    if caught:
        sentence = f"Caught: worse in {_some(caught)}."
    else:
        sentence = f'Missed ({_tally(telling)}): at this sample size do not read "equivalent" as harmless.'
    return Check("planted_defect", title, "passed" if caught else "failed", sentence, meaning, tuple(cells))


def _strength(cell: Cell, error_rate: float) -> float:
    """How many standard errors the difference is away from zero, as its interval tells; 0 where it has none."""
    if cell.difference is None or cell.low is None or cell.high is None:
        return 0.0
    half = cell.difference - cell.low if cell.difference > 0 else cell.high - cell.difference
    critical = statistics.NormalDist().inv_cdf(1 - error_rate / 2)
    return abs(cell.difference) / half * critical if half > 0 else math.inf


def _count(cells: list[Cell], compared: list[Cell]) -> str:
    skipped = len(cells) - len(compared)
    return f"{len(compared)} comparison{'s' * (len(compared) != 1)}" + (f" ({skipped} more not comparable)" if skipped else "")


def _tally(cells: list[Cell]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(cell.verdict for cell in cells).most_common())


def _some(cells: list[Cell]) -> str:
    named = list(dict.fromkeys(measure(cell) for cell in cells))
    return ", ".join(named[:4]) + (" and more" if len(named) > 4 else "")
