"""From a number to a chance: maps that agree with scikit-learn, and a file that is checked before it is believed."""

from __future__ import annotations

import dataclasses
import json

import numpy
import pytest

from steelyard.augment.uncertainty import calibration, calibrators
from steelyard.augment.uncertainty.calibration import Calibration
from steelyard.augment.uncertainty.calibrators import Isotonic, Platt, fit, fit_isotonic, fit_platt
from steelyard.augment.uncertainty.p_ik import Probe
from steelyard.augment.uncertainty.risk_control import Threshold
from steelyard.core.errors import DataError, ModelFileError


def answers(count: int, seed: int = 0) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Scores whose chance of being right is their square."""
    rng = numpy.random.default_rng(seed)
    scores = rng.random(count)
    return scores, (rng.random(count) < scores**2).astype(float)


def test_isotonic_regression_is_that_of_scikit_learn_to_nine_digits():
    sklearn = pytest.importorskip("sklearn.isotonic", reason="scikit-learn is not installed")
    scores, right = answers(200)
    scores = numpy.round(scores, 2)  # equal scores too
    theirs = sklearn.IsotonicRegression(out_of_bounds="clip").fit(scores, right)
    mine = fit_isotonic(scores, right)
    at = numpy.linspace(-0.1, 1.1, 301)
    assert [mine(x) for x in at] == pytest.approx(list(theirs.predict(at)), abs=1e-9)


def test_platts_map_finds_the_line_that_made_the_answers():
    rng = numpy.random.default_rng(1)
    scores = rng.random(20_000)
    logits = numpy.log(scores / (1 - scores))
    right = (rng.random(20_000) < 1 / (1 + numpy.exp(-(0.5 * logits - 1)))).astype(float)
    found = fit_platt(scores, right)
    assert found.slope == pytest.approx(0.5, abs=0.03) and found.shift == pytest.approx(-1, abs=0.05)


def test_a_score_that_is_turned_round_is_taken_to_tell_nothing():
    scores, right = answers(400)
    found = fit_platt(1 - scores, right)
    assert found.slope == 0 and found(0.1) == pytest.approx(right.mean(), abs=0.02)


def test_calibration_makes_the_held_out_loss_smaller():
    scores, right = answers(1000)
    made, losses = fit(scores, right > 0.5)
    assert min(losses["platt"], losses["isotonic"]) < losses["raw"] - 0.05
    fresh, truth = answers(2000, seed=9)
    assert numpy.mean([(made(s) - y) ** 2 for s, y in zip(fresh, truth, strict=True)]) < numpy.mean((fresh - truth) ** 2) - 0.02


@pytest.mark.parametrize("right", [[True] * 30, [False] * 30, [True, False]])
def test_too_little_to_calibrate_on_is_refused(right):
    with pytest.raises(DataError, match="answers are right"):
        fit([0.5] * len(right), right)


def test_all_scores_equal_give_the_share_that_was_right():
    made, _ = fit([0.7] * 40, [True, False] * 20)
    assert made(0.7) == pytest.approx(0.5) and made(0.1) == pytest.approx(0.5)


EXAMPLE = Calibration(
    subject="abc", model="tiny", task="facts", task_fingerprint="def", seed=3, made="2026-01-02T03:04:05+00:00", measure="p_ik", n=200,
    right=0.4, calibrator=Isotonic((0.1, 0.9), (0.2, 0.8)), probe=Probe((0.5, -1.0), 0.25), quality={"auroc": 0.9},
    threshold=Threshold(0.1, 0.1, 0.6, 0.3, 0.05, 200),
)  # fmt: skip


@pytest.mark.parametrize("made", [EXAMPLE, dataclasses.replace(EXAMPLE, calibrator=Platt(1.5, -0.2), probe=None, threshold=None)])
def test_what_is_written_is_read_back(tmp_path, made):
    made.write(tmp_path / "calibration.json")
    assert calibration.read(tmp_path / "calibration.json") == made


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "something else"),
        ("version", 2),
        ("subject", ""),
        ("task", []),
        ("n", 0),
        ("n", True),
        ("right", 1.5),
        ("measure", {"name": "p_ik", "count": 5, "temperature": 1, "probe": {"weights": ["x"], "bias": 0}}),
        ("calibrator", None),
        ("calibrator", {"kind": "platt", "slope": -1, "shift": 0}),
        ("calibrator", {"kind": "isotonic", "scores": [0.9, 0.1], "chances": [0.1, 0.2]}),
        ("calibrator", {"kind": "isotonic", "scores": [0.1, 0.9], "chances": [0.8, 0.2]}),
        ("calibrator", {"kind": "isotonic", "scores": [], "chances": []}),
        ("calibrator", {"kind": "isotonic", "scores": [0.1], "chances": [7]}),
        ("threshold", {"alpha": 0.1}),
        ("threshold", 3),
        ("quality", {"auroc": "high"}),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, key, value):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(EXAMPLE.as_dict() | {key: value}))
    with pytest.raises(ModelFileError, match=r"calibration\.json"):
        calibration.read(path)


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(EXAMPLE.as_dict())[:-40])
    with pytest.raises(ModelFileError):
        calibration.read(path)


def test_maps_stay_within_zero_and_one():
    for made in (Isotonic((0.2, 0.4), (0.1, 1.0)), Platt(900.0, 800.0), Platt(0.0, -900.0)):
        assert all(0 <= made(score) <= 1 for score in (0.0, 0.3, 1.0))
    assert calibrators.read({"kind": "platt", "slope": 1, "shift": 0}, "here")(0.3) == pytest.approx(0.3)
