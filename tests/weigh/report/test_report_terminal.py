"""The report in a terminal and in a log."""

import dataclasses
import io
import re
from pathlib import Path

import pytest
from example_report import ARMS, example_report
from hostile_text import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from steelyard.weigh.report.report import ArmSummary, Report
from steelyard.weigh.report.terminal import lines, table
from steelyard.weigh.report.verdicts import MARKS

REPORT = example_report(flips=0)


def printed(report: Report, width: int, encoding: str = "utf-8", **how) -> str:
    """What a pipe of this encoding would get."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True, newline="\n")
    Console(file=file, width=width, **how).print(table(report, where=Path("runs/example/report.html")))
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [40, 80, 100, 160, 300])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_tables_fit_the_width_and_lose_nothing(width, encoding):
    text = printed(REPORT, width, encoding)
    assert max(cell_len(line) for line in text.split("\n")) <= width
    assert "…" not in text and "\x1b" not in text
    for arm in ARMS:
        assert any(line.startswith(arm) for line in text.split("\n"))
    for number in ("45.0", "428.2", "0.317", "[+15.0, +20.8]%"):
        assert number in text
    assert "runs/example/report.html" in text.replace("\n", "")


def test_wider_terminals_need_fewer_tables():
    heights = [printed(REPORT, width).count("\n") for width in (80, 100, 160)]
    assert heights[0] > heights[1] > heights[2]


def test_every_verdict_has_a_glyph_of_its_own_explained_below_the_tables():
    for encoding in ("utf-8", "ascii"):
        glyphs = [mark.plain if encoding == "ascii" else mark.glyph for mark in MARKS.values()]
        assert len(set(glyphs)) == len(glyphs) and all(len(glyph) == 1 for glyph in glyphs)
        text = printed(REPORT, 120, encoding)
        for glyph, verdict in zip(glyphs, MARKS, strict=True):
            assert f"{glyph} {verdict}" in text


def test_checks_and_the_place_of_the_report_stand_below():
    text = printed(REPORT, 200)
    assert "A/A: the base against itself: passed" in text and "Planted defect: a change known to be bad: passed" in text
    assert text.rstrip().endswith("Report: runs/example/report.html")
    missing = printed(dataclasses.replace(REPORT, checks={}), 200)
    assert missing.count("absent. Not run in this weighing.") == 2


def test_modelled_numbers_and_primary_results_are_marked():
    text = printed(REPORT, 160)
    assert text.count("modelled") == 2 and text.count("◆") == 5  # four arms and the legend


def test_hostile_names_are_shown_as_text():
    names = ["base", *(word[:40] or "x" for word in HOSTILE)]
    cells = [
        dataclasses.replace(cell, arm=names[place % len(names)], task=names[-1 - place % len(names)])
        for place, cell in enumerate(REPORT.cells)
    ]
    report = dataclasses.replace(REPORT, arms={name: ArmSummary("f", [], {}) for name in names}, cells=cells)
    text = printed(report, 120, force_terminal=True, color_system=None)
    assert "\x1b[31m" not in text and "\x00" not in text and "\u202e" not in text and "\x07" not in text
    assert "[bold red]markup[" in text


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 250), st.text(max_size=60), st.sampled_from(["utf-8", "ascii"]))
def test_any_arm_name_at_any_width_can_be_printed(width, name, encoding):
    cells = [dataclasses.replace(cell, arm=name) for cell in REPORT.cells[:5]]
    report = dataclasses.replace(REPORT, arms={"base": REPORT.arms["base"], name: REPORT.arms["int8"]}, cells=cells)
    assert printed(report, width, encoding)


def test_a_report_without_cells_says_so():
    assert "Nothing was measured" in printed(Report({}, [], {}, {}, {}, {}), 80)


def test_lines_for_a_log_hold_each_headline_result_with_interval_and_verdict():
    logged = lines(REPORT)
    told = r"lookup: speed, tokens per second: 38\.2 tokens/s → 62\.0 tokens/s, \+23\.\d tokens/s \[\+22\.\d, \+24\.\d\], n 6: better"
    assert any(re.fullmatch(told, line) for line in logged)
    assert any("(primary)" in line and line.startswith("library: quality, facts · right: 31.0% → ") for line in logged)
    assert all("\n" not in line for line in logged)
    assert all(line.isascii() for line in lines(REPORT, plain=True))
