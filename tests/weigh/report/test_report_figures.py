"""Numbers, text and checks as the report words them."""

import dataclasses
import math
import random
import re

import pytest
from example_report import example_report
from hostile_text import HOSTILE
from hypothesis import example, given
from hypothesis import strategies as st

from steelyard.weigh.report.checks import checks
from steelyard.weigh.report.columns import base_name, grid, headline
from steelyard.weigh.report.diffs import compare
from steelyard.weigh.report.figures import decimals, duration, moment, number, words
from steelyard.weigh.report.findings import findings, limits
from steelyard.weigh.report.heading import change_text, levers_text, machine_rows, machine_text, parameters_text, title
from steelyard.weigh.report.plots import axis_over, interval_plot, tradeoff
from steelyard.weigh.report.report import ArmSummary, Cell
from steelyard.weigh.report.visible import visible

REPORT = example_report(flips=0)


def cell(**changes) -> Cell:
    made = Cell(
        "arm", "facts", "quality", "right", "share", True, 0.3, (0.25, 0.36), 0.45, (0.4, 0.51), 0.15, 0.08, 0.22, 200, True, "better"
    )
    return dataclasses.replace(made, **changes)


def test_shares_are_percent_and_their_differences_percentage_points():
    shown = words(cell(margin=0.05))
    assert (shown.base, shown.value, shown.value_interval) == ("30.0%", "45.0%", "[40.0, 51.0]")
    assert (shown.difference, shown.interval, shown.margin, shown.relative) == ("+15.0 pp", "[+8.0, +22.0]", "±5 pp", "")


def test_other_units_carry_the_relative_difference_with_its_interval():
    shown = words(
        cell(unit="MB", base=742.0, base_interval=None, value=428.0, value_interval=None, difference=-314.0, low=-317.0, high=-311.0)
    )
    assert (shown.base, shown.value, shown.difference) == ("742.0 MB", "428.0 MB", "−314.0 MB")
    assert (shown.relative, shown.relative_interval) == ("−42.3%", "[−42.7, −41.9]%")
    assert shown.move == "742.0 → 428.0 MB"


def test_no_more_than_all_can_be_lost_of_what_is_never_less_than_nothing():
    error = cell(unit="squared error", base=0.25, value=0.055, difference=-0.195, low=-0.27, high=-0.12)
    assert (words(error).interval, words(error).relative_interval) == ("[−0.27, −0.12]", "[−100, −48]%")
    below = dataclasses.replace(error, value=-0.1, difference=-0.35, low=-0.4, high=-0.3)
    assert words(below).relative_interval == "[−160, −120]%"


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (0.9327, (0.9298, 0.9357), 4),
        (45.32, (44.5, 46.1), 1),
        (428.7, (419.0, 437.0), 0),
        (12345.6, None, 0),
        (0.5, None, 3),
        (0.0, None, 0),
    ],
)
def test_decimals_follow_the_interval(value, interval, expected):
    assert decimals(value, interval) == expected


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_bound_that_is_not_zero_is_never_shown_as_zero(low, width):
    shown = words(cell(unit="J", difference=low + width / 2, low=low, high=low + width))
    assert not re.search(r"[\[ ][+−]?0(\.0+)?[,\]]", shown.interval)


@given(*[st.one_of(st.none(), st.floats())] * 6)
@example(1.3e-293, None, 0.0, 0.0, 2.4e13, None)  # a percentage beyond all numbers
def test_any_cell_can_be_put_into_words(base, value, difference, low, high, margin):
    odd = cell(
        unit="s", base=base, value=value, difference=difference, low=low, high=high, margin=margin, value_interval=(low or 0.0, high or 0.0)
    )
    for shown in (words(odd), words(odd, plain=True), words(dataclasses.replace(odd, unit="share"))):
        assert "nan" not in str(shown) and "inf" not in str(shown).replace("interval", "")
    assert str(words(odd, plain=True)).isascii()


def test_a_level_has_four_digits_at_most_and_its_difference_what_the_interval_gives():
    shown = words(
        cell(unit="MB", value=1339.1461, value_interval=(1339.1331, 1339.1592), base=1338.0, difference=1.1461, low=1.13, high=1.16)
    )
    assert (shown.value, shown.value_interval) == ("1,339 MB", "[1,339, 1,339]")
    assert (shown.difference, shown.interval) == ("+1.146 MB", "[+1.130, +1.160]")


def test_numbers_group_thousands_and_carry_a_true_minus():
    assert number(-12345.678, 1) == "−12,345.7" and number(-12345.678, 1, plain=True) == "-12,345.7"
    assert number(0.04, 1, signed=True) == "0.0" and number(-0.04, 1) == "0.0" and number(3e12, 0) == "3e+12"


def test_times_are_told_as_a_person_would():
    assert [duration(s) for s in (4.25, 48.0, 222.4, 7500.0, None, math.nan)] == ["4.2 s", "48 s", "3 min 42 s", "2 h 5 min", "", ""]
    assert moment("2026-03-02T10:14:07+00:00") == "2026-03-02 10:14 UTC"
    assert moment("2026-03-02T10:14:07+05:30") == "2026-03-02 10:14 UTC+05:30" and moment("last week") == "last week"


def test_headline_has_the_primary_results_and_one_column_for_every_other_axis():
    columns = headline(REPORT)
    assert [(column.task, column.metric) for column in columns if column.axis == "quality"] == [
        ("facts", "right"),
        ("bits_per_byte", "bits_per_byte"),
        ("json_forms", "exact"),
    ]
    assert len({column.axis for column in columns}) == 10 == len(columns) - 2
    assert columns[-1].axis == "money"


def test_the_bases_numbers_are_read_off_the_comparisons():
    cells, columns = grid(REPORT), headline(REPORT)
    found = cells[columns[0], base_name(REPORT)]
    assert found.value == 0.31 and found.difference is None and found.value_interval is not None


def test_findings_tell_better_and_worse_apart_whatever_the_direction():
    by = {finding.arm: finding for finding in findings(REPORT)}
    assert list(by) == ["int8", "lookup", "library", "broken"]
    assert "peak_memory" in {c.metric for c in by["int8"].better} and "tokens_per_second" in {c.metric for c in by["library"].worse}
    assert [c.verdict for c in by["broken"].primary] == ["worse"]


def test_limits_name_small_models_modelled_numbers_and_what_is_not_settled():
    found = {limit.title: limit for limit in limits(REPORT)}
    assert "135M parameters" in found["One small model"].text
    assert {c.axis for c in found["Modelled, not measured"].cells} == {"energy", "money"}
    assert all(c.verdict == "underpowered" for c in found["Not settled"].cells) and found["Not settled"].cells
    assert REPORT.notes[0] in {limit.text for limit in limits(REPORT)}


def test_a_greedy_a_a_that_moves_and_a_missed_defect_fail():
    assert [check.outcome for check in checks(REPORT)] == ["passed", "passed"]
    moved = [dataclasses.replace(c, verdict="equivalent") for c in REPORT.checks["a_a"] if c.arm == "A/A greedy"]
    missed = [dataclasses.replace(c, verdict="equivalent") for c in REPORT.checks["planted_defect"]]
    failed = checks(dataclasses.replace(REPORT, checks={"a_a": moved, "planted_defect": missed}))
    assert [check.outcome for check in failed] == ["failed", "failed"]
    assert "did not repeat itself" in failed[0].sentence and "Missed" in failed[1].sentence
    assert [check.outcome for check in checks(dataclasses.replace(REPORT, checks={}))] == ["absent", "absent"]


def test_a_planted_defect_that_could_not_be_asked_is_not_called_missed():
    silent = [dataclasses.replace(c, verdict="not measurable") for c in REPORT.checks["planted_defect"]]
    check = checks(dataclasses.replace(REPORT, checks={"planted_defect": silent}))[1]
    assert check.outcome == "absent" and "not known" in check.sentence


def a_a_of(*differences):
    """The check on sampled A/A cells with these differences, each with an interval of +-1.96."""
    cells = [
        cell(arm="A/A sampled", verdict="better" if d > 1.96 else "worse" if d < -1.96 else "underpowered", primary=False)
        for d in differences
    ]
    cells = [dataclasses.replace(c, difference=d, low=d - 1.96, high=d + 1.96) for c, d in zip(cells, differences, strict=True)]
    return checks(dataclasses.replace(REPORT, checks={"a_a": cells}))[0]


def test_a_false_difference_is_told_and_one_too_large_for_chance_fails():
    assert a_a_of(2.3, 0.0, -1.0).outcome == "passed" and "one in 20 is to be expected" in a_a_of(2.3, 0.0, -1.0).sentence
    assert a_a_of(*[2.3] * 8).outcome == "passed"  # eight metrics of the same answers move as one
    assert a_a_of(0.0, -6.0).outcome == "failed" and "do not rely" in a_a_of(0.0, -6.0).sentence


@pytest.mark.parametrize("together", [True, False])
def test_a_true_balance_is_seldom_called_false_whatever_ties_its_metrics(together):
    draw = random.Random(5)
    failed = 0
    for _ in range(1000):
        one = draw.gauss(0, 1)
        failed += a_a_of(*(one if together else draw.gauss(0, 1) for _ in range(8))).outcome == "failed"
    assert failed <= 12  # 0.5 % of 1000 is 5; more than 12 has a chance of 0.2 %


@given(st.text(max_size=200), st.text(max_size=200))
def test_differences_spell_both_texts(base, arm):
    pieces = compare(base, arm)
    assert "".join(p.text for p in pieces if p.kind != "new") == base and "".join(p.text for p in pieces if p.kind != "gone") == arm


def test_differences_are_told_word_by_word():
    pieces = compare("The capital is Suva.", "The capital is Funafuti.")
    assert [(p.kind, p.text) for p in pieces] == [("same", "The capital is "), ("gone", "Suva"), ("new", "Funafuti"), ("same", ".")]
    assert [p.text for p in compare("東京は首都", "京都は首都") if p.kind != "same"]


@given(st.text())
def test_visible_text_has_nothing_unseen_and_plain_text_stays(text):
    shown = visible(text)
    assert not any(ord(c) < 32 and c not in "\n\t" or 0x202A <= ord(c) <= 0x202E or 0xD800 <= ord(c) <= 0xDFFF for c in shown)
    shown.encode("utf-8")
    if text.isascii() and text.isprintable():
        assert shown == text


def test_visible_leaves_joiners_of_scripts_and_emoji():
    assert visible("क्\u200dष \U0001f469\u200d\U0001f52c می\u200cخواهم") == "क्\u200dष \U0001f469\u200d\U0001f52c می\u200cخواهم"
    assert all(visible(word) is not None for word in HOSTILE)


@given(st.lists(st.floats(-1e200, 1e200), min_size=1, max_size=9))
def test_an_axis_holds_its_values_and_has_few_round_ticks(values):
    axis = axis_over(values)
    assert all(0 <= axis.at(value) <= 100 for value in values)
    assert len(axis.ticks) <= 12 and all(-0.01 <= place <= 100.01 for place, _ in axis.ticks)


def test_one_gross_outlier_leaves_the_scale_and_is_marked():
    cells = grid(REPORT)
    column = headline(REPORT)[0]
    drawn = interval_plot(
        REPORT, column, {**cells, (column, "broken"): dataclasses.replace(cells[column, "broken"], difference=-40.0, low=-41.0, high=-39.0)}
    )
    assert drawn is not None and [row.off for row in drawn.rows] == ["", "", "", "left"]
    plain_plot = interval_plot(REPORT, column, cells)
    assert plain_plot is not None and not plain_plot.off_scale and plain_plot.band is not None


def test_the_better_region_follows_both_directions():
    cells, columns = grid(REPORT), {column.metric: column for column in headline(REPORT)}
    speed = tradeoff(REPORT, columns["right"], columns["tokens_per_second"], cells)
    memory = tradeoff(REPORT, columns["right"], columns["peak_memory"], cells)
    assert speed and memory and speed.better and memory.better
    assert speed.better[0] > 0 and memory.better[0] == 0.0
    assert tradeoff(REPORT, columns["brier"], columns["peak_memory"], cells).missing == ["broken"]


def test_names_of_levers_models_and_titles():
    assert levers_text(ArmSummary("f", [{"name": "quantize", "settings": {"bits": 8}}, {"lookup": {}}, {"prompt": "Be brief"}], {})) == (
        "quantize(bits=8) + lookup + prompt(Be brief)"
    )
    assert parameters_text(134_515_008) == "135M" and parameters_text(1_500_000_000) == "1.5B"
    assert title(REPORT) == "int8, lookup, library and broken against smollm2-135m-instruct"


def test_an_arm_of_another_model_names_it():
    arms = {"base": ArmSummary("f", [], {}), "big": ArmSummary("f", [{"quantize": {"bits": 8}}], {}), "far": ArmSummary("f", [], {})}
    recipe = {"arms": {"big": {"base": "hf:org/big", "steps": []}, "far": {"endpoint": {"url": "https://host/v1", "model": "m"}}}}
    report = dataclasses.replace(REPORT, arms=arms, recipe=recipe)
    assert [change_text(report, arm) for arm in arms] == ["", "hf:org/big + quantize(bits=8)", "m at https://host/v1"]


def test_an_arm_is_told_by_what_the_base_does_not_have():
    training = {"name": "pretrain", "settings": {"data": "encyclopedia", "steps": 10}}
    other = {"name": "pretrain", "settings": {"data": "encyclopedia", "steps": 20}}
    lstm = {"name": "lstm", "settings": {}}
    arms = {"base": ArmSummary("f", [training], {}), "lstm": ArmSummary("f", [lstm, training], {}), "long": ArmSummary("f", [other], {})}
    report = dataclasses.replace(REPORT, arms=arms, recipe={})
    assert [change_text(report, arm) for arm in arms] == [
        "pretrain(data=encyclopedia, steps=10)",
        "lstm",
        "pretrain(data=encyclopedia, steps=20)",
    ]


def test_the_machine_is_told_in_a_line_and_in_rows():
    gpu = {"name": "Some GPU", "memory_bytes": 24_000_000_000, "capability": "8.9"}
    machine = {
        "cpu": "A CPU",
        "cores": 1,
        "memory_bytes": 25_276_502_016,
        "gpus": [gpu],
        "instruction_sets": ["avx2"],
        "versions": {"x": "1"},
    }
    report = dataclasses.replace(REPORT, machine=machine)
    assert machine_text(report) == "A CPU, 1 core, 25.3 GB, Some GPU"
    assert dict(machine_rows(report))["gpus"] == "name Some GPU, memory 24 GB, capability 8.9"
    assert "versions" not in dict(machine_rows(report)) and dict(machine_rows(report))["memory"] == "25.3 GB"
    assert machine_text(dataclasses.replace(REPORT, machine={})) == "not recorded"
