"""Loss spikes: found by measures they cannot move, and reported, left out or ending the training as asked."""

import itertools
import json

import pytest
import torch
from guessing_three import Endless, Line

from steelyard.core.errors import SteelyardError
from steelyard.core.run import Run
from steelyard.train import checkpoints
from steelyard.train.spikes import FEWEST, WINDOW, SpikeWatch
from steelyard.train.trainer import TrainerSettings, train

SPIKE = 30


def trained(directory, answer, say=lambda line: None, steps=40):
    line, calls = Line(), itertools.count(1)

    def objective(batch):
        loss, count = line.loss(batch)
        return (loss * 50 if next(calls) == SPIKE else loss), count

    settings = TrainerSettings(steps=steps, learning_rate=0.01, clip=0.0, spikes=answer)
    progress = train(line, objective, Endless(), settings, Run(directory, seed=1, say=say))
    return line, progress, [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_falling_noisy_loss_has_no_spikes():
    watch = SpikeWatch()
    noise = torch.randn(500, generator=torch.Generator().manual_seed(0)).tolist()
    assert not any(watch.see(8 / (1 + step / 50) + 0.1 * value) for step, value in enumerate(noise))
    assert len(watch.losses) == WINDOW


def test_spikes_do_not_hide_the_next_one_and_a_new_level_is_soon_none():
    watch = SpikeWatch()
    for step in range(FEWEST):
        assert not watch.see(2.0 + 0.01 * (step % 3))
    assert [watch.see(5.0) for _ in range(5)] == [True] * 5
    assert not watch.see(2.0)
    seen = [watch.see(5.0) for _ in range(60)]
    assert seen[0] and not seen[-1]


def test_a_reported_spike_is_said_and_taken(tmp_path):
    said = []
    _, progress, lines = trained(tmp_path, "report", said.append)
    assert (progress.spikes, progress.skipped) == (1, 0)
    assert [line["step"] for line in lines if line.get("spike")] == [SPIKE] and lines[SPIKE - 1]["skipped"] is False
    assert any(f"the loss of step {SPIKE} is a spike" in line and f"batch {SPIKE - 1}" in line for line in said)


def test_a_skipped_spike_leaves_weights_and_moments_as_they_were(tmp_path):
    whole, progress, lines = trained(tmp_path / "a", "skip")
    assert (progress.spikes, progress.skipped, progress.step) == (1, 1, 40)
    assert lines[SPIKE - 1]["skipped"] is True
    again, _, same = trained(tmp_path / "b", "skip")
    assert torch.equal(whole.guess, again.guess)
    assert [line["loss"] for line in lines] == [line["loss"] for line in same]
    before, _, _ = trained(tmp_path / "c", "skip", steps=40)
    assert torch.equal(before.guess, whole.guess)
    taken, _, _ = trained(tmp_path / "d", "report")
    assert not torch.equal(taken.guess, whole.guess)


def test_a_spike_that_stops_keeps_the_weights_before_it(tmp_path):
    with pytest.raises(SteelyardError, match=rf"step {SPIKE}, batch of batch {SPIKE - 1}: the loss spikes"):
        trained(tmp_path, "stop")
    kept = checkpoints.load_latest(tmp_path / "checkpoints")
    assert kept.step == SPIKE - 1 and kept.state["place"] == [0, SPIKE - 1]
