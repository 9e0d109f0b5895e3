"""The page of challenges says what the kept results say, and nothing else."""

import copy

import challenges
import pytest

CELL = {
    "claim": "it rises", "expected": ["better"], "holds": True, "arm": "library", "task": "facts", "axis": "quality", "metric": "right",
    "unit": "share", "base": 0.4, "value": 0.6, "difference": 0.2, "low": 0.1, "high": 0.3, "n": 90, "verdict": "better",
}  # fmt: skip
RESULT = {
    "experiment": "retrieve", "hypothesis": "H.", "control": "C.", "evidence": "real model", "outcome": "as expected", "reduced": False,
    "command": "make accept NAME=retrieve", "seed": 7, "started": "2026-01-01T00:00:00+00:00", "seconds": 100.0, "load_average": 0.1,
    "notes": [], "cells": [CELL], "controls": [{**CELL, "arm": "other", "verdict": "equivalent"}],
    "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 8e9}, "versions": {"steelyard": "0.1.0", "torch": "2.13.0"},
}  # fmt: skip


def rows_of(result):
    return {row[0]: row for row in challenges.rows({"retrieve": result})}


def test_the_committed_page_is_what_the_kept_results_yield():
    assert challenges.PAGE.read_text(encoding="utf-8") == challenges.page(challenges.results()), "run `make docs`"


def test_the_readme_s_table_is_what_the_kept_results_yield():
    readme = challenges.README.read_text(encoding="utf-8")
    assert readme == challenges.with_table(readme, challenges.results()), "run `make docs`"


def test_all_seventeen_challenges_have_a_row():
    assert len(challenges.CHALLENGES) == 17
    page = challenges.page({})
    assert all(f"**{challenge.name}**" in page for challenge in challenges.CHALLENGES)
    assert page.count(f"| {challenges.NOT_SHOWN} |") == 17


def test_a_figure_is_shown_with_its_interval_and_how_far_it_reaches():
    row = next(row for name, row in rows_of(RESULT).items() if "Context" in name)
    assert row[1] == "`make accept NAME=retrieve`" and row[3] == "real model"
    assert "0.4 → 0.6 share, difference +0.2 [+0.1, +0.3], n = 90: better" in row[2]


@pytest.mark.parametrize("part", ["cells", "controls"])
def test_a_claim_that_failed_or_whose_control_failed_is_not_shown(part):
    result = copy.deepcopy(RESULT)
    result[part][0]["holds"] = False
    row = next(row for name, row in rows_of(result).items() if "Context" in name)
    assert row[3] == challenges.NOT_SHOWN and "share" in row[2]


def test_every_figure_names_an_experiment_that_exists():
    from acceptance import NAMES

    assert {figure.experiment for challenge in challenges.CHALLENGES for figure in challenge.figures} <= set(NAMES)


def test_only_the_marked_part_of_a_readme_is_renewed():
    text = f"above\n{challenges.BEGIN}\nold\n{challenges.END}\nbelow\n"
    new = challenges.with_table(text, {})
    assert new.startswith("above\n") and new.endswith("\nbelow\n") and "old" not in new and "Hallucination" in new
    assert challenges.with_table("no marks", {}) == "no marks"
