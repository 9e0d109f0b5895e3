"""The report as JSON."""

import dataclasses
import json
import math
from pathlib import Path

import numpy
from example_report import example_report
from hostile_text import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from steelyard.weigh.report.json import plain, quality_part, rounded, to_json, write_report_json
from steelyard.weigh.report.report import ArmSummary, Flip, Report

REPORT = example_report()


def test_one_line_holds_every_cell_with_the_keys_of_the_design():
    text = to_json(REPORT)
    assert "\n" not in text
    read = json.loads(text)
    assert {"arms", "cells", "checks", "machine", "versions", "recipe"} <= set(read)
    keys = {"arm", "task", "axis", "metric", "unit", "higher_is_better", "base", "base_interval", "value", "value_interval", "difference"}
    assert keys | {"low", "high", "n", "primary", "verdict", "source"} <= set(read["cells"][0])
    assert set(read["checks"]) == {"a_a", "planted_defect"} and set(read["arms"]["int8"]) >= {"fingerprint", "levers", "cost"}
    assert len(read["cells"]) == len(REPORT.cells) and len(read["flips"]) == 200


def test_the_same_report_gives_the_same_bytes_and_the_base_stays_first():
    assert to_json(REPORT) == to_json(example_report())
    assert list(json.loads(to_json(REPORT))["arms"])[0] == "base"
    turned = dataclasses.replace(REPORT, versions=dict(reversed(REPORT.versions.items())))
    assert to_json(turned) == to_json(REPORT)


def test_what_a_resumed_run_must_repeat_leaves_out_costs_and_times():
    slower = dataclasses.replace(
        REPORT,
        seconds=9999.0,
        started="2030-01-01T00:00:00+00:00",
        machine={},
        versions={},
        notes=["resumed"],
        cells=[dataclasses.replace(c, value=1.0) if c.axis in ("speed", "memory", "energy", "money") else c for c in REPORT.cells],
        arms={name: dataclasses.replace(arm, cost={"seconds": 1}, kernels="other") for name, arm in REPORT.arms.items()},
    )
    assert quality_part(slower) == quality_part(REPORT) and to_json(slower) != to_json(REPORT)
    changed = [dataclasses.replace(REPORT.cells[0], value=0.123), *REPORT.cells[1:]]
    assert quality_part(dataclasses.replace(REPORT, cells=changed)) != quality_part(REPORT)


def test_numbers_json_does_not_know_become_null():
    cell = dataclasses.replace(REPORT.cells[0], value=math.nan, low=-math.inf, high=math.inf, value_interval=(math.nan, 1.0))
    read = json.loads(to_json(dataclasses.replace(REPORT, cells=[cell])), parse_constant=lambda name: 1 / 0)["cells"][0]
    assert read["value"] is None and read["low"] is None and read["high"] is None and read["value_interval"] == [None, 1.0]


def test_values_of_other_kinds_become_plain_ones():
    given_ = {
        "path": Path("a/b"),
        "float32": numpy.float32(0.1),
        "int": numpy.int64(3),
        "set": {"b", "a"},
        "pair": (1, None, True),
        5: "key",
    }
    assert plain(given_) == {"path": "a/b", "float32": 0.1, "int": 3, "set": ["a", "b"], "pair": [1, None, True], "5": "key"}


def test_hostile_text_survives_and_the_file_is_utf_8(tmp_path):
    flips = [Flip("facts", "s", "int8", "right", word, word, word, word, 0.0, 1.0) for word in HOSTILE]
    report = dataclasses.replace(REPORT, flips=flips, recipe={word: word for word in HOSTILE})
    write_report_json(report, tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [flip["question"] for flip in read["flips"]] == HOSTILE
    assert list(read["recipe"]) == HOSTILE
    assert json.loads(to_json(report)) == read


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_rounding_keeps_six_digits_and_settles(value):
    once = rounded(value)
    if not math.isfinite(value):
        assert once is None
    else:
        assert once is not None and rounded(once) == once and math.copysign(1, once) == (1 if once == 0 else math.copysign(1, value))
        assert abs(once - value) <= abs(value) * 5.1e-6 or abs(value) < 1e-300


def test_an_empty_report_is_json_too():
    empty = Report({"base": ArmSummary("f", [], {})}, [], {}, {}, {}, {})
    assert json.loads(to_json(empty))["cells"] == [] and json.loads(quality_part(empty))["flips"] == []
