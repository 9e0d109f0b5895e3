"""The loop: right gradients, exact resumption, and clear words when something goes wrong."""

import dataclasses
import errno
import itertools
import json
import math
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny_llama import tiny_llama

from steelyard.core.errors import SteelyardError
from steelyard.core.fingerprint import digest
from steelyard.core.run import Run
from steelyard.data.batching import Batches
from steelyard.data.encoding import TokenRow
from steelyard.train import checkpoints
from steelyard.train.objectives import next_token_loss
from steelyard.train.schedule import rate_share
from steelyard.train.trainer import TrainerSettings, TrainingStopped, train


def rows(count=24, seed=0, shortest=4, longest=16):
    random = np.random.default_rng(seed)
    lengths = random.integers(shortest, longest + 1, count)
    return [
        TokenRow(random.integers(0, 60, n).astype(np.int32), np.arange(n) >= random.integers(1, n), f"rows.jsonl:{i}", str(i))
        for i, n in enumerate(lengths)
    ]


def settings(steps, **changes):
    return TrainerSettings(**{"steps": steps, "learning_rate": 1e-2, "warmup": 0.1, "weight_decay": 0.1, **changes})


def trained(directory, steps, *, run=None, trunk=None, batches=None, validation=None, objective=None, **changes):
    trunk = trunk or tiny_llama()
    run = run or Run(directory, seed=3)
    batches = batches or Batches(rows(), 4, seed=1, epochs=None)
    progress = train(trunk, objective or next_token_loss(trunk), batches, settings(steps, **changes), run, validation=validation)
    return trunk, progress


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def metrics(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def without_time(lines):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_falls_and_every_step_is_recorded(tmp_path, dtype):
    trunk, progress = trained(tmp_path, 30, dtype=dtype)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]
    assert lines[0]["loss"] == pytest.approx(math.log(60), abs=0.3)
    assert all(set(line) == {"step", "seconds", "tokens", "loss", "learning_rate", "grad_norm"} for line in lines)
    assert all(a["tokens"] < b["tokens"] and a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(lines))
    assert not trunk.training and progress.step == 30


@pytest.mark.parametrize("size", [1, 2, 6])
def test_accumulation_equals_one_big_batch_whatever_the_rows_lengths(tmp_path, size):
    data = rows(12, longest=30)
    big, _ = trained(tmp_path / "big", 3, batches=Batches(data, 12, epochs=None, shuffle=False), learning_rate=1e-3)
    small, _ = trained(
        tmp_path / "small", 3, batches=Batches(data, size, epochs=None, shuffle=False), accumulation=12 // size, learning_rate=1e-3
    )
    for line, other in zip(metrics(tmp_path / "big"), metrics(tmp_path / "small"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        assert line["tokens"] == other["tokens"]
    for a, b in zip(big.parameters(), small.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_packed_rows_give_the_same_gradients_as_rows_on_lines_of_their_own(tmp_path):
    data = rows(12)
    trained(tmp_path / "alone", 3, batches=Batches(data, 12, epochs=None), learning_rate=1e-3)
    trained(tmp_path / "packed", 3, batches=Batches(data, 12, epochs=None, pack=40), learning_rate=1e-3)
    for line, other in zip(metrics(tmp_path / "alone"), metrics(tmp_path / "packed"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


class Killed(BaseException):
    """As sudden as kill -9: nothing may be saved on the way out."""


def killed_after(trunk, calls):
    loss, count = next_token_loss(trunk), itertools.count()

    def objective(batch):
        if next(count) == calls:
            raise Killed
        return loss(batch)

    return objective


@pytest.mark.parametrize(("checkpoint_every", "killed_at"), [(10, 10), (4, 11), (7, 19), (50, 5)])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, checkpoint_every, killed_at):
    stream = Batches(rows(), 3, seed=1, epochs=None)
    validation = Batches(rows(6, seed=9), 4, shuffle=False)
    common = {"batches": stream, "validation": validation, "validate_every": 5, "accumulation": 2}
    straight, _ = trained(tmp_path / "straight", 20, **common)
    trunk = tiny_llama()
    every = {"checkpoint_every": checkpoint_every, "checkpoint_seconds": 1e9}
    with pytest.raises(Killed):
        # Validation before the first step takes two calls of the objective, and each fifth step two more.
        trained(tmp_path / "cut", 20, trunk=trunk, objective=killed_after(trunk, 2 * killed_at + 2), **common, **every)
    resumed, progress = trained(tmp_path / "cut", 20, **common, **every)
    assert same_bits(straight, resumed)
    assert without_time(metrics(tmp_path / "cut")) == without_time(metrics(tmp_path / "straight"))
    assert progress.step == 20


LONG = 80


def victim(directory, threads):
    """What the process that is killed runs; it saves every other step, so that the kill may well fall into the writing. It never ends
    by itself: on a busy machine nobody may look for seconds."""
    torch.set_num_threads(threads)  # sums depend on it
    trunk = tiny_llama()
    loss, count = next_token_loss(trunk), itertools.count()

    def objective(batch):
        if next(count) == LONG - 10:
            time.sleep(600)
        return loss(batch)

    trained(directory, LONG, trunk=trunk, objective=objective, batches=Batches(rows(), 3, seed=1, epochs=None), checkpoint_every=2)


def test_kill_9_in_the_middle_loses_nothing_but_the_last_steps(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=victim, args=(tmp_path / "cut", torch.get_num_threads()))
    process.start()
    straight, _ = trained(tmp_path / "straight", LONG, batches=Batches(rows(), 3, seed=1, epochs=None))
    saved = tmp_path / "cut" / "checkpoints"
    while process.is_alive() and not any(path.name >= "step-00000020" for path in saved.glob("step-????????")):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 20 <= checkpoints.load_latest(tmp_path / "cut" / "checkpoints").step < LONG
    resumed, progress = trained(tmp_path / "cut", LONG, batches=Batches(rows(), 3, seed=1, epochs=None))
    assert same_bits(straight, resumed) and progress.step == LONG
    assert without_time(metrics(tmp_path / "cut")) == without_time(metrics(tmp_path / "straight"))


def test_dropout_draws_the_same_numbers_after_a_resumption_and_leaves_the_users_generator_alone(tmp_path):
    class Noisy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(50))

        def forward(self, batch):
            return (torch.nn.functional.dropout(self.weight, 0.5, self.training) ** 2).sum() * batch.tokens, batch.tokens

    def run(directory, steps_before):
        module = Noisy()
        if steps_before:
            count = itertools.count()

            def objective(batch):
                if next(count) == steps_before:
                    raise Killed
                return module(batch)

            with pytest.raises(Killed):
                trained(directory, 8, trunk=module, objective=objective, checkpoint_every=2)
            module = Noisy()
        trained(directory, 8, trunk=module, objective=module, checkpoint_every=2)
        return module.weight

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    straight = run(tmp_path / "straight", 0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(straight, run(tmp_path / "cut", 5))


def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path):
    straight, _ = trained(tmp_path / "straight", 10)
    trunk = tiny_llama()
    loss, count = next_token_loss(trunk), itertools.count(1)

    def objective(batch):
        if next(count) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(batch)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingStopped, match="after step 4 of 10"):
        trained(tmp_path / "cut", 10, trunk=trunk, objective=objective)
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in checkpoints.steps_saved(tmp_path / "cut" / "checkpoints")] == ["step-00000004"]
    resumed, _ = trained(tmp_path / "cut", 10)
    assert same_bits(straight, resumed)


def test_a_cancelled_run_saves(tmp_path):
    with pytest.raises(TrainingStopped, match="after step 1 of 10"):
        trained(tmp_path, 10, run=Run(tmp_path, cancelled=lambda: True))
    assert checkpoints.load_latest(tmp_path / "checkpoints").step == 1


def test_a_finished_training_is_not_repeated(tmp_path):
    first, _ = trained(tmp_path, 6)
    again, progress = trained(tmp_path, 6, objective=lambda batch: pytest.fail("a step was taken"))
    assert same_bits(first, again)
    assert progress.step == 6 and len(metrics(tmp_path)) == 6


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number_stops_with_step_and_rows(tmp_path, value):
    trunk = tiny_llama()
    loss, count = next_token_loss(trunk), itertools.count(1)

    def objective(batch):
        total, learned, _ = loss(batch)
        return (total * value if next(count) == 3 else total), learned

    batches = Batches(rows(8), 2, epochs=None, shuffle=False)
    with pytest.raises(SteelyardError, match=r"step 3, batch of rows.jsonl:4, rows.jsonl:5: the loss is"):
        trained(tmp_path, 10, trunk=trunk, objective=objective, batches=batches, checkpoint_every=1)
    assert checkpoints.load_latest(tmp_path / "checkpoints").step == 2
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]


def test_a_gradient_that_is_not_a_number_stops_too(tmp_path):
    trunk = tiny_llama()

    def objective(batch):
        weight = trunk.inputs.weight
        return (weight * 0).abs().sqrt().sum() + next_token_loss(trunk)(batch)[0], 3

    with pytest.raises(SteelyardError, match="gradient's norm is nan at step 1"):
        trained(tmp_path, 10, trunk=trunk, objective=objective)


def test_a_full_disk_is_said_and_leaves_earlier_checkpoints_whole(tmp_path, monkeypatch):
    trained(tmp_path, 4, checkpoint_every=2)

    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints.safetensors.torch, "save_file", full)
    with pytest.raises(SteelyardError, match="No space left"):
        checkpoints.save(tmp_path / "checkpoints", 5, {"w": torch.zeros(2)}, {}, {}, 2)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000002", "step-00000004"]
    assert checkpoints.load_latest(tmp_path / "checkpoints").step == 4


def test_a_full_disk_under_the_metrics_is_said(tmp_path, monkeypatch):
    run = Run(tmp_path)
    real = type(tmp_path).open

    def full(self, mode="r", *args, **kwargs):
        if self.name == "metrics.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(type(tmp_path), "open", full)
    with pytest.raises(SteelyardError, match="disk is full"):
        run.metric(step=1)


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["half", "other", "gone"])
def test_a_damaged_checkpoint_is_refused_not_skipped(tmp_path, name, damage):
    trained(tmp_path, 6, checkpoint_every=2, keep=2)
    path = checkpoints.steps_saved(tmp_path / "checkpoints")[-1] / name
    content = bytearray(path.read_bytes())
    place = content.index(b'"tokens": ') + 10 if name == "state.json" else len(content) - 1
    content[place] ^= 1  # another digit, or another weight
    path.write_bytes(content[: len(content) // 2] if damage == "half" else content)
    if damage == "gone":
        path.unlink()
    with pytest.raises(SteelyardError, match=r"step-00000006: the checkpoint is damaged[\s\S]*goes on from step-00000004"):
        trained(tmp_path, 6)


def test_checkpoints_of_another_training_are_refused(tmp_path):
    trained(tmp_path, 4)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(SteelyardError, match="other settings or data"):
        trained(tmp_path, 4, identity="changed")
    with pytest.raises(SteelyardError, match="other settings or data"):
        trained(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_only_the_last_checkpoints_are_kept(tmp_path):
    trained(tmp_path, 7, checkpoint_every=1, keep=3)
    assert [path.name for path in checkpoints.steps_saved(tmp_path / "checkpoints")] == ["step-00000005", "step-00000006", "step-00000007"]


def test_decay_shrinks_matrices_and_leaves_vectors(tmp_path):
    class Still(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix, self.vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))

    module = Still()
    objective = lambda batch: ((module.matrix.sum() + module.vector.sum()) * 0.0, 1)  # noqa: E731
    trained(tmp_path, 2, trunk=module, objective=objective, warmup=0.0, shape="constant", learning_rate=0.5)
    assert torch.allclose(module.matrix, torch.full((2, 2), (1 - 0.5 * 0.1) ** 2))
    assert torch.equal(module.vector, torch.ones(2))


def test_validation_is_the_mean_over_tokens_and_does_not_change_the_training(tmp_path):
    validation = Batches(rows(9, seed=5), 4, shuffle=False)
    plain, _ = trained(tmp_path / "plain", 6)
    watched, progress = trained(tmp_path / "watched", 6, validation=validation, validate_every=4)
    assert same_bits(plain, watched)
    assert [line["step"] for line in metrics(tmp_path / "watched") if "validation_loss" in line] == [4, 6]
    with torch.no_grad():
        one = next_token_loss(watched)(next(Batches(rows(9, seed=5), 9, shuffle=False).iterate())[0])
    assert progress.validation_loss == pytest.approx(float(one[0]) / one[1], abs=1e-5)
    assert progress.validation_before > progress.validation_loss - 1


def test_a_stream_that_ends_early_ends_the_training(tmp_path):
    _, progress = trained(tmp_path, 50, batches=Batches(rows(10), 4, epochs=2.0), accumulation=4)
    assert progress.step == 2 and progress.tokens == 2 * sum(map(len, rows(10)))


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(SteelyardError, match="nothing to train"):
        trained(tmp_path, 2, trunk=tiny_llama().requires_grad_(False))


def test_progress_reaches_the_run(tmp_path):
    seen, lines = [], []
    run = dataclasses.replace(Run(tmp_path), progress=lambda *what: seen.append(what), say=lines.append)
    trained(tmp_path, 20, run=run)
    assert [(name, done, total) for name, done, total, _ in seen] == [("training", n, 20) for n in range(1, 21)]
    assert lines[0].startswith("training: step 1/20, loss 4.") and lines[0].endswith("left")
    assert len(lines) <= 12


@hypothesis_settings(deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from(["cosine", "linear", "constant"]), st.floats(0, 0.9))
def test_the_rate_rises_to_its_peak_and_falls_to_its_floor(steps, warmup_share, shape, floor):
    warmup = math.ceil(warmup_share * steps)
    shares = [rate_share(step, steps, warmup, shape, floor) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares[:-1]) and shares[-1] >= 0
    assert all(a < b for a, b in itertools.pairwise(shares[:warmup]))
    assert all(a >= b for a, b in itertools.pairwise(shares[warmup:]))
    assert max(shares) == 1.0
    assert min(shares[warmup:], default=1.0) >= floor or shape == "constant"


def stopped_halfway(directory):
    """A training of six steps that was stopped after three."""
    run = Run(directory, seed=3)
    run.cancelled = lambda: len(metrics(directory)) >= 3
    with pytest.raises(TrainingStopped):
        trained(directory, 6, run=run)
    return checkpoints.load_latest(directory / "checkpoints").state


def test_energy_is_counted_from_the_first_step_and_a_stopped_training_adds_to_it(tmp_path):
    _, whole = trained(tmp_path / "whole", 6)
    assert 0 < whole.joules_low <= whole.joules_high
    assert set(whole.energy_source.split("+")) <= {"wall", "rapl", "nvml", "modelled"}
    before = stopped_halfway(tmp_path / "parts")["progress"]
    _, after = trained(tmp_path / "parts", 6)
    assert 0 < before["joules_low"] < after.joules_low and before["joules_high"] < after.joules_high
    assert 0 < before["wall_seconds"] < after.wall_seconds and whole.wall_seconds >= whole.seconds
    assert (whole.machines, whole.gpus) == (1, []) and whole.cores >= 1  # what a price table wants to know


def test_a_checkpoint_of_a_version_that_counted_no_energy_is_gone_on_from(tmp_path):
    state = stopped_halfway(tmp_path)
    for key in ("joules_low", "joules_high", "energy_source", "wall_seconds", "machines", "cores", "gpus"):
        del state["progress"][key]
    state["digest"] = digest({key: value for key, value in state.items() if key != "digest"})
    (file,) = (path for path in (tmp_path / "checkpoints").rglob("*.json") if "joules_low" in path.read_text())
    file.write_text(json.dumps(state))
    _, progress = trained(tmp_path, 6)
    assert progress.step == 6 and progress.joules_low > 0
    assert progress.machines == 0 and progress.wall_seconds == 0, "the time before is not known, so the training has no price"
