"""Two processes are one: the same loss, gradients and weights, and what two have saved one goes on from."""

import contextlib
import datetime
import itertools
import json
import os

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from tiny_llama import tiny_llama

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.run import Run
from steelyard.data.batching import Batches
from steelyard.data.encoding import TokenRow
from steelyard.model.new import DecoderPlan
from steelyard.train.objectives import next_token_loss
from steelyard.train.parallel.processes import Together, parallelize
from steelyard.train.trainer import TrainerSettings, train

SETTINGS = {"learning_rate": 1e-3, "warmup": 0.1, "weight_decay": 0.1, "average": 0.9, "accumulation": 2, "validate_every": 4}
WAYS = {"data": {}, "sharded": {}, "sharded muon": {"optimizer": "muon"}}
STEPS, SAVED = 8, 5
PARTS = {
    "experts": {"channel": {"moe": {"experts": 4, "active": 2, "balance": 1.0, "router_z": 0.1}}},
    "experts rebuilt": {"stack": "reversible", "channel": {"moe": {"experts": 4, "active": 2, "balance": 1.0}}},
    "halting": {"stack": {"universal": {"turns": 4, "ponder": 0.5, "epsilon": 0.4}}},
    "drawn loops": {"stack": {"recurrent_depth": {"loops": 3}}},
    "further tokens": {"head": {"multi_token": {"tokens": 3}}},
}
"""Parts with losses of their own, or with something drawn or decided for all lines of a step."""


def batches(size=5, seed=0, **changes):
    """Rows of unequal lengths, unevenly shared between two processes; the last batch of an epoch has one row for both."""
    random = np.random.default_rng(seed)
    rows = [
        TokenRow(random.integers(0, 60, n).astype(np.int32), np.arange(n) >= random.integers(1, n), f"row {i}", str(i))
        for i, n in enumerate(random.integers(4, 20, 16))
    ]
    return Batches(rows, size, seed=1, **changes)


def trained(directory, steps, company=None, way="data", parts=None, **more):
    torch.manual_seed(1)
    plan = {"width": 16, "depth": 3, "context": 64, "vocabulary": 60, **(parts or {})}
    module = tiny_llama() if parts is None else DecoderPlan.model_validate(plan).trunk(60).build().requires_grad_(True)
    if company is not None:
        company.prepare(module, way)
    settings = TrainerSettings(**{**SETTINGS, "steps": STEPS, **more})
    stream = batches(epochs=None)
    if steps < STEPS:  # it ends early, as if it had been stopped; what it saves is for all the steps
        asked = itertools.count(1)
        run = Run(directory, seed=3, cancelled=lambda: next(asked) == steps)
    else:
        run = Run(directory, seed=3)
    objective = next_token_loss(module, others=company.others if company else None)
    progress = train(module, objective, stream, settings, run, validation=batches(4, seed=5, shuffle=False), company=company)
    return module, progress


def lines(directory):
    kept = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in kept]


def one_of_two(number, directory):
    """What each of the two processes does: whole trainings, and ones that are stopped and left for one process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number)}
    torch.set_num_threads(1)
    import torch.distributed as dist

    from steelyard.train.interruption import TrainingStopped
    from steelyard.train.parallel.launched import company

    # One that asks the other for what that one does not tell has to fail, not to wait for half an hour.
    patience = datetime.timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=number, world_size=2, timeout=patience)
    crew = company(torch.device("cpu"))
    shares = {}
    for name, more in WAYS.items():
        way = name.split()[0]
        module, _ = trained(directory / name / "two", STEPS, crew, way, **more)
        state = {key: crew.whole(value).clone() for key, value in module.state_dict().items()}
        held = sum(getattr(value, "to_local", lambda value=value: value)().numel() for value in module.parameters())
        shares[name] = held / sum(value.numel() for value in module.parameters())
        if crew.first:
            torch.save(state, directory / name / "two.pt")
        with contextlib.suppress(TrainingStopped):
            trained(directory / name / "cut", SAVED, crew, way, **more)
    for name, parts in PARTS.items():
        for way in ways_of(parts):
            module, _ = trained(directory / name / way, STEPS, crew, way, parts)
            state = {key: crew.whole(value).clone() for key, value in module.state_dict().items()}
            if crew.first:
                torch.save(state, directory / name / f"{way}.pt")
    (directory / f"shares{number}.json").write_text(json.dumps(shares))
    dist.destroy_process_group()


def ways_of(parts):
    return ["data"] if parts.get("stack") == "reversible" else ["data", "sharded"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(one_of_two, (directory,), nprocs=2)
    return directory


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_have_the_losses_gradients_and_weights_of_one(two, tmp_path, name):
    module, _ = trained(tmp_path, STEPS, **WAYS[name])
    for one, other in zip(lines(tmp_path), lines(two / name / "two"), strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == pytest.approx(value, abs=1e-5), (one["step"], key)
    for key, value in torch.load(two / name / "two.pt").items():
        assert float((value - module.state_dict()[key]).abs().max()) < 1e-5, key


@pytest.mark.parametrize("name", PARTS)
def test_what_parts_add_and_draw_is_that_of_one_process(two, tmp_path, name):
    module, _ = trained(tmp_path, STEPS, parts=PARTS[name])
    for way in ways_of(PARTS[name]):
        for one, other in zip(lines(tmp_path), lines(two / name / way), strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                assert other[key] == pytest.approx(value, abs=2e-5), (way, one["step"], key)
        for key, value in torch.load(two / name / f"{way}.pt").items():
            assert float((value - module.state_dict()[key]).abs().max()) < 1e-5, (way, key)


@pytest.mark.parametrize("name", WAYS)
def test_what_two_processes_saved_one_goes_on_from(two, tmp_path, name):
    straight, _ = trained(tmp_path, STEPS, **WAYS[name])
    assert len(lines(two / name / "cut")) == SAVED
    resumed, progress = trained(two / name / "cut", STEPS, **WAYS[name])
    assert progress.step == STEPS and len(lines(two / name / "cut")) == STEPS
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert float((one - other).abs().max().detach()) < 1e-5


def test_sharded_weights_are_shared_out_and_the_others_are_not(two):
    shares = [json.loads((two / f"shares{number}.json").read_text()) for number in (0, 1)]
    for name in WAYS:
        whole = 2.0 if name == "data" else 1.0
        assert sum(share[name] for share in shares) == pytest.approx(whole, abs=0.01)
        assert shares[0][name] == pytest.approx(whole / 2, abs=0.05)


def test_a_stack_whose_weights_cannot_be_shared_out_says_so():
    trunk = DecoderPlan.model_validate({"width": 16, "depth": 2, "stack": "reversible"}).trunk(60).build()
    with pytest.raises(UnsupportedError, match="`parallel: data`"):
        parallelize(trunk, None, "sharded")  # type: ignore[arg-type]


def test_a_process_whose_company_has_ended_says_so(monkeypatch):
    """As torch.distributed reports it, whatever the backend."""

    def gone(*given, **named):
        raise RuntimeError("Connection closed by peer")

    for call in ("barrier", "all_reduce", "broadcast"):
        monkeypatch.setattr(f"torch.distributed.{call}", gone)
    crew = object.__new__(Together)
    crew.group, crew.device = None, torch.device("cpu")
    for ask in (crew.wait, lambda: crew.total([1.0]), lambda: crew.agreed(1.0)):
        with pytest.raises(SteelyardError, match="has ended"):
            ask()
