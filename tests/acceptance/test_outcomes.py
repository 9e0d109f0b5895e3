"""How claims come to an outcome, without any model."""

import json

import pytest

from acceptance.experiment import Bench, Claim, Experiment, Finding, carry_out, counted, outcome, store


def claim(verdict, expected=("better",), control=False):
    cell = counted("arm", "task", "right", 6, 10, verdict)
    return Claim("a sentence", cell, expected, control)


CONTROL = claim("equivalent", ("equivalent",), control=True)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([claim("better"), CONTROL], "as expected"),
        ([claim("underpowered"), CONTROL], "no effect at this scale"),
        ([claim("worse"), CONTROL], "contrary"),
        ([claim("better"), claim("better", ("equivalent",), control=True)], "control failed"),
        ([claim("worse"), claim("worse", ("equivalent",), control=True)], "control failed"),
    ],
)
def test_a_failed_control_weighs_most_and_nothing_shown_is_a_result(claims, expected):
    assert outcome(claims) == expected


def test_a_kept_result_says_what_was_expected_found_and_where(tmp_path):
    finding = Finding([claim("better"), CONTROL], notes=["a remark"])
    experiment = Experiment("example", "", "It rises.", "It does not.", "mechanism", lambda bench: finding)
    path = store(carry_out(experiment, Bench(tmp_path)), tmp_path)
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["outcome"] == "as expected" and kept["notes"] == ["a remark"]
    assert kept["command"] == "make accept NAME=example" and kept["seed"] == 7
    assert kept["cells"][0]["holds"] and kept["cells"][0]["primary"] and not kept["controls"][0]["primary"]
    assert {"cpu", "cores", "memory_bytes"} <= set(kept["machine"]) and "torch" in kept["versions"]


def test_a_timed_result_from_a_busy_machine_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    experiment = Experiment("example", "", "h", "c", "mechanism", lambda bench: Finding([CONTROL]), timed=True)
    assert "busy machine" in carry_out(experiment, Bench(tmp_path))["notes"][0]
