"""The Triton twins of the scans of Mamba, RWKV and RWKV-7 against their readable forms: values and all gradients.

Where there is no GPU, Triton's interpreter runs the kernels on the CPU (`TRITON_INTERPRET`, set in tests/conftest.py), token by token and
slowly: stretches and blocks are made short here, so that a short text has several of both and ends within one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.kernels import gpu
from steelyard.model.mixers import native_scan, triton_scan
from steelyard.model.mixers.mamba import selective_scan
from steelyard.model.mixers.rwkv import weighted_mean
from steelyard.model.mixers.rwkv7 import delta_rule
from steelyard.model.new import DecoderPlan, initialize
from steelyard.model.step import Step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEEN = gpu.scans() is not None and (DEVICE.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
pytestmark = pytest.mark.skipif(not SEEN, reason="Triton is not installed (extra `gpu`), or neither a GPU nor its interpreter runs it")
interpreted = pytest.mark.skipif(DEVICE.type == "cuda", reason="what a GPU runs has been compiled")


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    routines = gpu.scans()
    monkeypatch.setattr(routines, "STRETCH", 4)
    monkeypatch.setattr(routines, "CHANNELS", 8)


def normal(draw: torch.Generator) -> Callable[..., Tensor]:
    return lambda *sizes: torch.randn(sizes, generator=draw)


def call(rows: int, time: int, draw: torch.Generator) -> Step:
    """A call of several documents a row, with padding behind some rows."""
    documents = (torch.rand(rows, time, generator=draw) < 0.3).cumsum(1)
    lengths = torch.tensor([time, *torch.randint(1, time, (rows - 1,), generator=draw).tolist()])
    return Step.whole(rows, time, DEVICE, segments=documents.masked_fill(torch.arange(time) >= lengths[:, None], -1).to(DEVICE))


def compared(ours: Any, readable: Any, parts: list[Tensor], step: Step) -> None:
    """Ours in float32, the readable form in float64: ours may be no further from it than a few roundings."""
    results = []
    for form, kind in ((ours, torch.float32), (readable, torch.float64)):
        leaves = [part.to(DEVICE, kind).requires_grad_() for part in parts]
        outputs = list(form(*leaves, step))
        if step.real is not None:  # what is said at padding is nobody's
            outputs[0] = outputs[0] * step.real.view(*step.real.shape, *[1] * (outputs[0].dim() - 2))
        weights = [torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(DEVICE, kind) for out in outputs]
        total = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True) if out.requires_grad)
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)  # type: ignore[arg-type]
        results.append([*outputs, *(torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True))])
    for number, (mine, wanted) in enumerate(zip(*results, strict=True)):
        assert mine.shape == wanted.shape
        assert ((mine - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3)) < 2e-5, number


def of_scan(draw: torch.Generator, b: int, t: int, d: int, s: int) -> list[Tensor]:
    new = normal(draw)
    return [new(b, t, d), 3 * new(b, t, d), -new(s, d).exp(), new(b, t, s), new(b, t, s), new(d), new(b, t, d), new(b, s, d)]


def of_mean(draw: torch.Generator, b: int, t: int, d: int) -> list[Tensor]:
    new = normal(draw)
    before = torch.stack((new(b, d), new(b, d).abs()), 1)
    before[0, :, :2] = 0  # channels in which nothing was ever said
    return [4 * new(b, t, d), new(b, t, d), new(d).exp(), new(d), before, new(b, d)]


def of_delta(draw: torch.Generator, b: int, t: int, h: int, d: int) -> list[Tensor]:
    new = normal(draw)
    fall, rate = -0.6 * torch.sigmoid(new(b, t, h, d)), torch.sigmoid(new(b, t, h, d))
    removed = F.normalize(new(b, t, h, d), dim=-1)
    return [new(b, t, h, d), fall, removed, rate, new(b, t, h, d), new(b, t, h, d), new(b, h, d, d)]


def test_mamba_s_scan_and_all_its_gradients_equal_the_readable_ones():
    draw = torch.Generator().manual_seed(1)
    compared(triton_scan.selective_scan, selective_scan, of_scan(draw, 2, 10, 11, 3), call(2, 10, draw))


def test_rwkv_s_mean_and_all_its_gradients_equal_the_readable_ones():
    draw = torch.Generator().manual_seed(2)
    compared(triton_scan.weighted_mean, weighted_mean, of_mean(draw, 2, 14, 11), call(2, 14, draw))


def test_rwkv_7_s_delta_rule_and_all_its_gradients_equal_the_readable_ones():
    draw = torch.Generator().manual_seed(3)
    compared(triton_scan.delta_rule, delta_rule, of_delta(draw, 2, 10, 1, 11), call(2, 10, draw))


@pytest.mark.parametrize("name", ["scan", "mean", "delta"])
def test_a_text_in_pieces_is_the_whole_text_to_the_bit(name):
    draw = torch.Generator().manual_seed(4)
    time, cut = 11, 5
    forms = {"scan": triton_scan.selective_scan, "mean": triton_scan.weighted_mean, "delta": triton_scan.delta_rule}
    drawn = {"scan": of_scan(draw, 1, time, 9, 2), "mean": of_mean(draw, 1, time, 9), "delta": of_delta(draw, 1, time, 1, 9)}
    parts, form = [part.to(DEVICE) for part in drawn[name]], forms[name]
    kept = 2 if name == "mean" else 1  # tensors of memory, the last of the arguments
    given, memory = parts[:-kept], parts[-kept:]

    def run(start: int, end: int, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        timed = [part[:, start:end] if part.dim() > 2 else part for part in given]
        y, *memory = form(*timed, *memory, Step.whole(1, end - start, DEVICE))
        return y, memory

    with torch.no_grad():
        whole, after = run(0, time, memory)
        first, between = run(0, cut, memory)
        second, last = run(cut, time, between)
    assert torch.equal(torch.cat((first, second), 1), whole)
    assert all(torch.equal(mine, wanted) for mine, wanted in zip(last, after, strict=True))


@pytest.mark.parametrize("name", ["mamba", "rwkv", "rwkv7"])
def test_a_mixer_says_the_same_by_either(name, monkeypatch):
    plan = DecoderPlan.model_validate({"mixer": name, "channel": "none", "width": 8, "depth": 1, "initial": 0.5})
    trunk = initialize(plan.trunk(16).build(), plan, 0).to(DEVICE)
    ids, step = torch.arange(5, device=DEVICE)[None], Step.whole(1, 5, DEVICE)
    told = []
    for by_triton in (False, True):
        monkeypatch.setattr(gpu, "runs_on", lambda device, here=by_triton: here)  # the interpreter has no other device than the CPU
        monkeypatch.setattr(native_scan, "pool_for", lambda x, step: None)
        trunk.zero_grad()
        logits = trunk.logits(ids, step)
        logits.square().sum().backward()
        told.append([logits, *(parameter.grad for parameter in trunk.parameters())])
    for mine, wanted in zip(*told, strict=True):
        assert (mine is None) == (wanted is None)
        assert mine is None or torch.allclose(mine, wanted, rtol=1e-3, atol=1e-4)


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from steelyard.kernels import triton_scans as kernels

NUMBERS = {"rows", "time", "heads", "width", "state", "values"}
CHOSEN = {"MARKED": True, "KEEP": True, "ENDED": True, "T": 32, "S": 16, "V": 32, "D": 32}
for kernel in (kernels._scan, kernels._scan_back, kernels._mean, kernels._mean_back, kernels._delta, kernels._delta_back):
    kinds = {name: "i32" if name in NUMBERS else "*u8" if name == "marks" else "*fp32" for name in kernel.arg_names}
    kinds |= {name: "constexpr" for name in kernel.arg_names if name in CHOSEN}
    chosen = {(kernel.arg_names.index(name),): value for name, value in CHOSEN.items() if name in kernel.arg_names}
    made = triton.compile(ASTSource(fn=kernel, signature=kinds, constexprs=chosen), target=GPUTarget("cuda", 80, 32))
    print(kernel.__name__, len(made.asm["cubin"]))
"""


@interpreted
def test_the_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter takes more than the compiler does, which needs no GPU."""
    told = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env=told, timeout=300)
    assert run.returncode == 0, run.stderr
    sizes = dict(line.split() for line in run.stdout.splitlines())
    assert len(sizes) == 6 and all(int(size) > 0 for size in sizes.values())


def test_on_a_cpu_they_are_not_asked():
    x = torch.ones(1, 2, 3)
    assert not triton_scan.fits(x, Step.whole(1, 2, x.device))
