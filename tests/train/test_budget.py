"""Budgets: training ends when one is used, the learning rate follows its share, and a resumed one goes on to the same bits."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from guessing_three import TOKENS, Endless, Line
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.run import Run
from steelyard.train import clock
from steelyard.train.budget import Budget, one_budget
from steelyard.train.schedule import rate_share
from steelyard.train.trainer import Progress, TrainerSettings, train


def run(directory, *, objective=None, **settings):
    line = Line()
    chosen = TrainerSettings(**{"learning_rate": 0.1, "warmup": 0.25, **settings})
    progress = train(line, objective or line.loss, Endless(), chosen, Run(directory, seed=1), flops=lambda batch: 100 * batch.tokens)
    return line, progress, [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("budget", "steps"), [({"steps": 7}, 7), ({"tokens": 7 * TOKENS}, 7), ({"tokens": 80}, 7), ({"flops": 8e3}, 7)])
def test_training_ends_with_the_step_that_reaches_the_budget(tmp_path, budget, steps):
    _, progress, lines = run(tmp_path, **budget)
    assert progress.step == steps == len(lines)
    assert progress.tokens == steps * TOKENS and progress.flops == 100 * progress.tokens == lines[-1]["flops"]


def test_a_budget_of_seconds_counts_seconds_in_steps_alone(tmp_path, monkeypatch):
    line, now = Line(), [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(batch):
        now[0] += 0.25
        return line.loss(batch)

    def sample():
        now[0] += 1.0
        return ["x"]

    chosen = TrainerSettings(learning_rate=0.1, seconds=3, sample_every=1)
    progress = train(line, slow, Endless(), chosen, Run(tmp_path), sample=sample)
    assert (progress.step, progress.seconds, now[0]) == (12, 3.0, 15.0)


@pytest.mark.parametrize("unit", ["tokens", "flops"])
def test_budgets_in_proportion_give_the_same_training(tmp_path, unit):
    amounts = {"tokens": 10 * TOKENS, "flops": 100.0 * 10 * TOKENS}
    a, _, first = run(tmp_path / "steps", steps=10, warmup=0.2)
    b, _, second = run(tmp_path / unit, **{unit: amounts[unit]}, warmup=0.2)
    for one, other in zip(first, second, strict=True):
        assert one["learning_rate"] == pytest.approx(other["learning_rate"], rel=1e-9)
    assert torch.allclose(a.guess, b.guess)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("budget", [{"steps": 20}, {"tokens": 20 * TOKENS}, {"flops": 100.0 * 20 * TOKENS}])
@pytest.mark.parametrize("more", [{}, {"average": 0.9}, {"spikes": "skip", "shape": "wsd"}])
def test_a_killed_training_resumes_to_the_same_bits_under_every_budget(tmp_path, budget, more):
    straight, _, lines = run(tmp_path / "straight", **budget, **more)
    line, calls = Line(), itertools.count()

    def objective(batch):
        if next(calls) == 13:
            raise Killed
        return line.loss(batch)

    with pytest.raises(Killed):
        train(
            line,
            objective,
            Endless(),
            TrainerSettings(**{"learning_rate": 0.1, "warmup": 0.25, "checkpoint_every": 5}, **budget, **more),
            Run(tmp_path / "cut", seed=1),
            flops=lambda batch: 100 * batch.tokens,
        )
    resumed, _, again = run(tmp_path / "cut", **budget, **more)
    assert torch.equal(straight.guess, resumed.guess)
    drop = lambda lines: [{key: value for key, value in line.items() if key != "seconds"} for line in lines]  # noqa: E731
    assert drop(lines) == drop(again)


def test_another_budget_is_another_training(tmp_path):
    run(tmp_path, steps=4)
    for other in ({"steps": 5}, {"tokens": 4}):
        with pytest.raises(SteelyardError, match="other settings or data"):
            run(tmp_path, **other)


@pytest.mark.parametrize(("given_", "words"), [({}, "none is given"), ({"steps": 3, "seconds": 2.0}, "steps and seconds are given")])
def test_exactly_one_budget_is_asked_for(given_, words):
    with pytest.raises(RecipeError, match=words):
        one_budget(**given_)


def test_operations_that_nobody_counts_are_no_budget(tmp_path):
    line = Line()
    with pytest.raises(SteelyardError, match="somebody who counts them"):
        train(line, line.loss, Endless(), TrainerSettings(learning_rate=0.1, flops=10.0), Run(tmp_path))


def test_the_share_of_a_budget_is_never_more_than_all_of_it():
    assert Budget("tokens", 10).share(Progress(tokens=15)) == 1.0
    assert Budget("steps", 10).shown(Progress(step=3)) == (3, 10)
    assert Budget("flops", 1e12).shown(Progress(flops=int(5e11))) == (500, 1000)


@hypothesis_settings(deadline=None)
@given(
    st.floats(1, 1e15),
    st.floats(0, 1),
    st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    st.floats(0, 0.9),
    st.floats(0.01, 1),
    st.integers(2, 60),
)
def test_whatever_the_unit_the_rate_rises_once_and_then_never_rises_again(total, warmup, shape, floor, decay, steps):
    size = total / steps
    shares = [rate_share(size * step, total, warmup * total, shape, floor, size=size, decay=decay) for step in range(steps)]
    top = shares.index(max(shares))
    assert all(0 <= share <= 1 for share in shares)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(shares[: top + 1]))
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(shares[top:]))


def test_wsd_stays_at_the_peak_until_its_last_fifth_and_falls_to_the_floor():
    shares = [rate_share(step, 100, 10, "wsd", 0.1) for step in range(101)]
    assert shares[9:80] == [1.0] * 71 and shares[80] == 1.0 > shares[81]
    assert shares[90] == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.5))) and shares[100] == pytest.approx(0.1)
