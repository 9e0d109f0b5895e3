"""Scaling laws in the report: shown where there is one, in words and numbers that stand in the JSON too, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
import math

from example_report import example_report
from test_report_html import read

from steelyard.weigh.report import terminal
from steelyard.weigh.report.html import page
from steelyard.weigh.report.json import to_json
from steelyard.weigh.report.report import ArmSummary, ScalingLaw, ScalingPoint, Training
from steelyard.weigh.statistics.scaling_law import scaling_laws

HOSTILE = '<script>alert("1")</script>'


def trained(name="attention", count=12):
    arms = {}
    for number in range(count):
        size, flops = (10_000, 40_000, 160_000)[number % 3], 1e10 * 4 ** (number // 3)
        tokens = int(flops / 7 / size)
        loss = (1.2 + 40 / size**0.4 + 80 / tokens**0.4) * (1 + 0.003 * math.sin(number))
        arms[f"{name} {number}"] = ArmSummary("", [], {}, trainings=[Training(name, name, size, tokens, flops, loss, 1)])
    return arms


def with_laws(*laws):
    return dataclasses.replace(example_report(), scaling=list(laws))


def test_a_report_without_trainings_says_nothing_of_scaling():
    assert 'id="scaling"' not in page(example_report()) and json.loads(to_json(example_report()))["scaling"] == []


def test_a_law_is_drawn_and_told_in_words_and_numbers():
    (law,) = scaling_laws(trained())
    report = with_laws(law)
    tree = read(page(report))
    text = " ".join(tree.text)
    assert "scaling" in tree.ids and law.verdict in text and "foretells the costliest" in text
    assert tree.tags.count("circle") >= 12
    (written,) = json.loads(to_json(report))["scaling"]
    assert {figure["name"] for figure in written["figures"]} >= {"E", "alpha", "beta", "size_exponent", "best_parameters"}
    assert len(written["points"]) == 12 and written["foretold"]["arms"] == ["attention 11"]
    told = terminal.lines(report, plain=True)
    assert any(line.startswith("Scaling law of attention (12 points)") for line in told)


def test_points_without_a_law_are_shown_with_the_reason():
    points = [ScalingPoint([f"arm {n}"], 10_000, 1000 * n, 7e7 * n, 3.0 - n / 10, 1) for n in range(1, 7)]
    tree = read(page(with_laws(ScalingLaw("lstm", points, [], "No law: only 1 different sizes"))))
    assert "only 1 different sizes" in " ".join(tree.text)


def test_names_in_a_law_cannot_become_markup():
    (law,) = scaling_laws(trained(HOSTILE))
    drawn = page(with_laws(law))
    assert HOSTILE not in drawn
    read(drawn)
