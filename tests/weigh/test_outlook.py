"""The time that a weighing still takes: one figure, which counts down with the clock and ends near the truth."""

from __future__ import annotations

import re

import pytest

from steelyard.weigh.outlook import Outlook
from steelyard.weigh.plan import PlanRow

SECONDS = {"facts": 2.0, "texts": 5.0}  # an answer, as planned
COUNT = {"facts": 60, "texts": 12}


def row(arm, task, samples, seconds, metric="right"):
    return PlanRow(arm, task, metric, "share", samples, 0, None, None if seconds is None else seconds / 60, "the base's speed")


def rows(arms=("base", "int8", "brief"), recorded=0):
    plan = [row(arm, task, COUNT[task], COUNT[task] * SECONDS[task]) for arm in arms for task in SECONDS]
    return [*plan, row("checks", "", 20, 40.0), row("all", "", 0, 60.0)]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def seconds_of(words):
    found = re.fullmatch(r"about ([\d.]+) (s|min|h) left in all", words)
    assert found, words
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]


def run(outlook, clock, slower, arms=("base", "int8", "brief"), making=0.0):
    """Asks everything, `slower` times as long as planned; yields (seconds really left but for making, words)."""
    whole = len(arms) * sum(COUNT[task] * SECONDS[task] for task in COUNT) + 40
    asked = 0.0
    for arm in arms:
        clock.now += making
        for task in SECONDS:
            outlook.left(arm, task, 0)
            for _ in range(COUNT[task]):
                clock.now += slower * SECONDS[task]
                asked += SECONDS[task]
                yield slower * (whole - asked) + 60, outlook.left(arm, task, 1)
    outlook.left("base", "facts", 0)
    for number in range(20):
        clock.now += slower * 2
        asked += 2
        yield slower * (whole - asked) + 60, outlook.left("base" if number < 10 else "planted defect", "facts", 1)
    for number in range(10):
        yield 60 - 6 * number, outlook.timing(number, 10)
        clock.now += 6


@pytest.mark.parametrize("slower", [0.3, 1.0, 3.0])
def test_there_is_one_figure_that_shrinks_and_ends_near_the_truth(slower):
    clock = Clock()
    found = [(true, seconds_of(words)) for true, words in run(Outlook(rows(), clock=clock), clock, slower)]
    told = [words for _, words in found]
    grew = [after for before, after in zip(told, told[1:], strict=False) if after > before]
    assert len(grew) <= (0 if slower <= 1 else 8), grew  # only where the plan took the machine for faster, and then a few times
    for true, words in found[len(found) // 3 :]:
        assert abs(words - true) <= 0.35 * true + 40, (true, words)  # minutes are whole ones


def test_making_a_model_is_not_taken_for_slow_answers():
    clock = Clock()
    outlook = Outlook(rows(), clock=clock)
    for true, words in run(outlook, clock, 1.0, making=900.0):
        assert abs(seconds_of(words) - true) <= 0.25 * true + 40


def test_arms_that_cannot_be_opened_and_tasks_at_floor_are_not_counted():
    clock, floored = Clock(), set()
    outlook = Outlook(rows(), lambda arm, task: task in floored, clock=clock)
    assert outlook.left("base", "facts", 0) == "about 11 min left in all"  # 3 x 180 s, 40 s of checks, 60 s of timing
    floored.add("facts")
    assert seconds_of(outlook.left("base", "texts", 0)) == pytest.approx(3 * 60 + 40 + 60, abs=30)
    assert seconds_of(outlook.left("brief", "texts", 0)) == pytest.approx(60 + 40 + 60, abs=30), "int8 was given up"


def test_no_more_is_foretold_than_may_be_asked():
    clock = Clock()
    assert Outlook(rows(), most=lambda: 20.0, clock=clock).left("base", "facts", 0) == "about 80 s left in all"


def test_nothing_is_foretold_while_the_pace_of_anything_is_unknown():
    assert Outlook([*rows(), row("late", "facts", 3, None)]).left("base", "facts", 0) == ""
