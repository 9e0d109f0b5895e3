"""Verdicts: the first that holds, in the design's order."""

import random

import pytest

from steelyard.weigh.cells.cells import MORE_SEEDS, base_cell, draft_cells, finish_all
from steelyard.weigh.cells.remarks import why_none
from steelyard.weigh.cells.scoring import Scored
from steelyard.weigh.cells.verdicts import at_floor, margin_of, verdict
from steelyard.weigh.scorers import calibration
from steelyard.weigh.scorers.perplexity import BITS_PER_BYTE
from steelyard.weigh.tasks.bits_per_byte import BitsPerByte
from steelyard.weigh.tasks.right_answers import ANSWER_LOGPROB
from steelyard.weigh.tasks.task import Metric, Output, Read, Sample

HOLDS = {"measurable": True, "interval": (0.1, 0.2), "margin": 0.02}


def test_verdicts_come_in_the_designs_order():
    assert verdict(measurable=False, floor=True, identical=True, interval=(0.1, 0.2)) == "not measurable"
    assert verdict(measurable=True, floor=True, identical=True, interval=(0.0, 0.0)) == "floor"
    assert verdict(measurable=True, identical=True, interval=(0.0, 0.0), margin=0.1) == "identical"
    assert verdict(measurable=True, interval=(0.001, 0.01), margin=0.02) == "equivalent"  # although it excludes zero
    assert verdict(**HOLDS) == "better"
    assert verdict(**HOLDS, higher_is_better=False) == "worse"
    assert verdict(measurable=True, interval=(-0.2, -0.1), margin=0.02) == "worse"
    assert verdict(measurable=True, interval=(-0.2, -0.1), margin=0.02, higher_is_better=False) == "better"
    assert verdict(measurable=True, interval=(-0.1, 0.1), margin=0.02) == "underpowered"


def test_an_interval_that_touches_zero_does_not_exclude_it():
    assert verdict(measurable=True, interval=(0.0, 0.3), margin=0.02) == "underpowered"


def test_without_an_interval_nothing_is_claimed():
    assert verdict(measurable=True, interval=None, margin=1.0) == "underpowered"


@pytest.mark.parametrize(
    ("higher", "floor", "interval", "expected"),
    [
        (True, 0.25, (0.2, 0.4), True),
        (True, 0.25, (0.26, 0.4), False),
        (True, 0.25, (0.05, 0.2), True),  # worse than chance is no skill either
        (True, 0.0, (0.0, 0.07), True),
        (True, None, (0.0, 0.0), False),
        (False, 8.0, (7.5, 8.5), True),
        (False, 8.0, (2.0, 3.0), False),
    ],
)
def test_the_floor_is_where_skill_is_not_shown(higher, floor, interval, expected):
    metric = Metric("m", "quality", "share", higher, 0.02, floor=floor)
    assert at_floor(metric, interval) is expected


def test_a_relative_margin_is_a_share_of_the_base():
    metric = Metric("bits", "quality", "bits/byte", False, 0.01, relative=True)
    assert margin_of(metric, 2.0) == pytest.approx(0.02) and margin_of(metric, -2.0) == pytest.approx(0.02)


def test_no_values_interval_reaches_where_the_metric_cannot():
    """Of few and uneven samples Student's interval is wider than what logarithms of chances, or bits, can be."""
    told = base_cell("facts", ANSWER_LOGPROB, [-0.01, -0.02, -4.0], ["", "", ""])
    assert told.value == pytest.approx(-1.3433, abs=1e-3) and told.value_interval[0] < -4 and told.value_interval[1] == 0
    samples = [Sample(str(place), Read("text")) for place in range(3)]
    bits = [(0.1, 1.0), (0.1, 1.0), (90.0, 9.0)]
    base, arm = (Scored(samples, [[Output()]] * 3, {BITS_PER_BYTE.name: [(a * by, b) for a, b in bits]}, [None] * 3) for by in (1.0, 1.1))
    (cell,) = finish_all(draft_cells("arm", BitsPerByte(), base, [arm]), {}, 0.05)
    assert cell.base_interval[0] == cell.value_interval[0] == 0 and cell.value_interval[1] > cell.value


@pytest.mark.parametrize(("apart", "by_seeds"), [(0.3, True), (0.0, False)])
def test_more_samples_are_asked_for_only_where_they_would_settle_a_cell(apart, by_seeds):
    """Of an arm whose training seeds lie far apart more samples would not, and the cell says so."""
    rng = random.Random(4)
    samples = [Sample(str(place), Read("text")) for place in range(40)]
    bits, noise = ([rng.gauss(mean, 0.3) for _ in samples] for mean in (2.0, 0.02))

    def scored(values):
        return Scored(samples, [[Output()]] * 40, {BITS_PER_BYTE.name: [(value, 1.0) for value in values]}, [None] * 40)

    runs = [scored([value + more + shift for value, more in zip(bits, noise, strict=True)]) for shift in (-apart, 0.0, apart)]
    (cell,) = finish_all(draft_cells("arm", BitsPerByte(), scored(bits), runs), {}, 0.05)
    assert cell.verdict == "underpowered"
    assert (cell.samples_to_settle is None, MORE_SEEDS in cell.note) == (by_seeds, by_seeds)


def test_a_cell_without_values_says_which_side_has_none():
    assert why_none(calibration.BRIER, [[None, None], [0.5, 0.25]]) == "no answer of the base comes with a probability that can be judged"
    assert why_none(calibration.BRIER, [[None], [None]]).startswith("no answer of the base and the arm comes")
    assert why_none(ANSWER_LOGPROB, [[-0.5], [None]]) == "the metric applies to no sample of the arm"
