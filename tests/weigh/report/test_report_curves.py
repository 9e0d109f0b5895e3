"""Curves and the front of quality against cost, as the page shows them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

from example_report import ARMS, example_report
from hostile_text import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from steelyard.weigh.report import curves
from steelyard.weigh.report.columns import grid, headline
from steelyard.weigh.report.html import page
from steelyard.weigh.report.plots import pareto, tradeoff
from steelyard.weigh.report.report import Curve, CurvePoint

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(points)
def test_the_front_holds_exactly_what_nobody_beats(drawn):
    def beats(a, b):
        return a[0] >= b[0] and a[1] >= b[1] and a != b

    assert sorted(pareto(drawn)) == [i for i, p in enumerate(drawn) if not any(beats(q, p) for q in drawn)]


def test_the_front_of_a_picture_goes_by_the_direction_of_each_metric():
    report = example_report(flips=0)
    cells, columns = grid(report), headline(report)
    quality = next(column for column in columns if column.metric == "right")
    speed = next(column for column in columns if column.metric == "tokens_per_second")
    memory = next(column for column in columns if column.metric == "peak_memory")
    fast, small = tradeoff(report, quality, speed, cells), tradeoff(report, quality, memory, cells)
    assert fast is not None and set(fast.front) == {"lookup", "library"}  # 62 tokens/s at 31%, 32 at 46%
    assert small is not None and small.front[0] == "int8" and small.front[-1] == "library"
    assert len(small.stairs) == 2 * (len(small.front) - 1)


def test_what_was_not_measured_is_neither_drawn_nor_on_the_front():
    report = example_report(flips=0)
    gone = [
        dataclasses.replace(cell, value=None, difference=None, verdict="not measurable")
        if cell.arm == "library" and cell.axis == "speed"
        else cell
        for cell in report.cells
    ]
    report = dataclasses.replace(report, cells=gone)
    columns = headline(report)
    picture = tradeoff(report, columns[0], next(c for c in columns if c.axis == "speed"), grid(report))
    assert picture is not None and picture.missing == ["library"]
    assert "library" not in picture.front and "library" not in [point.arm for point in picture.points]


def test_every_curve_of_every_arm_is_drawn_and_told_in_a_table():
    report = example_report(flips=0)
    html = page(report)
    assert [(one.kind, one.task) for one in curves.drawn(report)] == [
        ("reliability", "facts"), ("risk_coverage", "facts"), ("position", "needles"),
    ]  # fmt: skip
    assert html.count('<figure class="panel">') == 3 * len(ARMS)
    for one in curves.drawn(report):
        assert [panel.arm for panel in one.panels] == list(ARMS)
        assert len(one.rows) == sum(len(curve.points) for curve in report.curves if (curve.kind, curve.task) == (one.kind, one.task))
    section = html[html.index('id="curves"') : html.index('id="samples"')]
    assert section.count('<svg role="img"') == section.count('aria-label="base, ') + 3 * (len(ARMS) - 1)
    assert section.count("<table") == 3


def test_numbers_of_curves_are_rounded_to_what_their_interval_supports():
    report = example_report(flips=0)
    row = curves.drawn(report)[0].rows[0]
    assert (row.arm, row.at, row.n) == ("base", "5%", 24)
    assert re.fullmatch(r"\d+%|\d+\.\d%", row.value) and row.interval.startswith("[")


def test_more_lengths_than_can_be_told_apart_are_left_to_the_table_and_that_is_said():
    many = [
        Curve("position", "base", "needles", "found", "share", True, f"{k} tokens", [CurvePoint(0.5, 0.5, 0.4, 0.6, 9)]) for k in range(9)
    ]
    report = dataclasses.replace(example_report(flips=0), curves=many)
    (one,) = curves.drawn(report)
    assert len(one.panels[0].lines) == 6 and len(one.rows) == 9 and one.lines_left == 3
    assert "3 more lengths are in the table only" in page(report)


def test_points_that_are_no_numbers_are_left_out_and_hostile_names_stay_text():
    bad = [CurvePoint(math.nan, 0.5, None, None, 1), CurvePoint(0.5, math.inf, 0.1, 0.2, 2), CurvePoint(0.5, 0.25, math.nan, math.inf, 3)]
    hostile = [Curve("risk_coverage", word, word, word, word, False, word, bad) for word in HOSTILE]
    report = dataclasses.replace(example_report(flips=0), curves=hostile)
    html = page(report)
    section = html[html.index('id="curves"') : html.index('id="samples"')]
    assert "nan" not in re.sub(r">[^<]*<|aria-label=\"[^\"]*\"", "", section).lower()
    assert not re.search(r"<(script|img|iframe|style|base)\b", section)
    assert all(len(one.rows) == 1 for one in curves.drawn(report))


def test_a_report_without_curves_has_no_section_for_them():
    html = page(dataclasses.replace(example_report(flips=0), curves=[]))
    assert 'id="curves"' not in html and 'href="#curves"' not in html


def test_a_thousand_curves_leave_the_page_below_its_limit():
    report = example_report(flips=200)
    many = [
        dataclasses.replace(curve, task=f"{curve.task} {number}", arm=f"arm {arm}")
        for number, arm, curve in itertools.product(range(20), range(12), report.curves[:5])
    ]
    html = page(dataclasses.replace(report, curves=many))
    assert len(html.encode()) <= 3_000_000
    assert "more would not fit into 3 MB" in html
