"""Training from scratch side by side with plain PyTorch: the same decoder, batches and optimizer, in turns.

    python benchmarks/pretraining.py [--threads 2] [--rounds 5] [--batch 16] [--only ours-compiled twin-compiled]

Four sides train a decoder of 12M weights (6 blocks, 384 wide, 6 heads, context 256, vocabulary 4,096) in bfloat16: ours and a twin as
one writes it in plain PyTorch, each as it is and through torch.compile. Each round every side takes one step, the order turning round;
what is told are medians. Compilation happens before and is told apart. CPU seconds stand beside the clock's because they say more on a
machine that does other work too. Before they are timed, all must have the same loss. With `--memory` two more things are told, each from
a process of its own: the most bytes of tensors that a step has at once, weights and moments included (`tensor_bytes`), and, for the plain
sides, the process's peak less what it held before the side was built (`peak_bytes`; a compiler's own memory would be in the others').
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from steelyard.core.hardware import describe, versions
from steelyard.core.meters.memory import peak_resident, reset_peak, resident
from steelyard.core.run import Run
from steelyard.data.batching import Batch, Place
from steelyard.model.families.config import Config
from steelyard.model.families.family import find
from steelyard.train.compilation import compiled, compiled_blocks
from steelyard.train.objectives import next_token_loss
from steelyard.train.trainer import TrainerSettings, train

WIDTH, BLOCKS, HEADS, HIDDEN, CONTEXT, VOCABULARY, RATE = 384, 6, 6, 1024, 256, 4096, 1e-3
SIDES = ("ours", "ours-compiled", "twin", "twin-compiled")


@dataclass
class Side:
    """Something to time: its loss before anything was learned, what takes one step, giving (seconds, seconds of processor time), and the
    tensors that are there before and after it."""

    loss: float
    step: Callable[[], tuple[float, float]]
    kept: Callable[[], Iterable[Tensor]]


class TwinBlock(nn.Module):
    """A block as a tutorial has it: rotary attention and a gated channel, each after an RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.mixer_norm, self.channel_norm = nn.RMSNorm(WIDTH, eps=1e-5), nn.RMSNorm(WIDTH, eps=1e-5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.mixer_norm(x)
        q, k, v = (linear(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(turned(q, cos, sin), turned(k, cos, sin), v, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        y = self.channel_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


class Twin(nn.Module):
    """ids, targets -> mean loss."""

    cos: Tensor
    sin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(TwinBlock() for _ in range(BLOCKS))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        size = WIDTH // HEADS
        angles = torch.arange(CONTEXT).float()[:, None] / 10000.0 ** (torch.arange(0, size, 2).float() / size)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.table(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(F.linear(self.norm(x), self.table.weight).flatten(0, 1).float(), targets.flatten())


class OneBatch:
    """The same batch for ever; it notes when it is asked for."""

    def __init__(self, size: int):
        ids = torch.randint(0, VOCABULARY, (size, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
        self.asked: list[tuple[float, float]] = []
        self.ids, self.targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def iterate(self, place: Place = Place(0, 0)) -> Any:  # noqa: B008 (a frozen value)
        for index in range(place.index, 10**9):
            self.asked.append((time.perf_counter(), time.process_time()))
            yield self.batch, Place(0, index + 1)

    @property
    def batch(self) -> Batch:
        return Batch(self.ids.numpy(), self.targets.numpy(), None, ("the batch",), self.ids.numel())


def ours(batch: OneBatch, compiling: bool, folder: Path) -> Side:
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    }
    trunk = find("llama", "benchmark").plan(Config(config)).build()
    twin = seeded()
    names = {"query": "mixer", "key": "mixer", "value": "mixer", "output": "mixer", "gate": "channel", "up": "channel", "down": "channel"}
    with torch.no_grad():
        trunk.inputs.weight.copy_(twin.table.weight)
        for mine, theirs in zip(trunk.blocks, twin.blocks, strict=True):
            for name, part in names.items():
                mine.get_submodule(f"{part}.{name}").weight.copy_(theirs.get_submodule(name).weight)  # type: ignore[operator]
    trunk.requires_grad_(True)
    objective = next_token_loss(trunk, compiled=compiled) if compiling else next_token_loss(trunk)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        total, learned, _ = next_token_loss(trunk.eval())(batch.batch)

    def step() -> tuple[float, float]:
        """The first of two steps of a training, from asking for its batch to asking for the next: what is saved after the last one
        is not part of it."""
        settings = TrainerSettings(
            steps=2, learning_rate=RATE, warmup=0.0, shape="constant", weight_decay=0.1, betas=(0.9, 0.95), dtype="bfloat16",
            compiles=compiling, checkpoint_seconds=1e9,
        )  # fmt: skip
        batch.asked.clear()
        with compiled_blocks(trunk, compiling), tempfile.TemporaryDirectory(dir=folder) as directory:
            train(trunk, objective, batch, settings, Run(Path(directory)))
        (began, cpu), (ended, cpu_then) = batch.asked[:2]
        return ended - began, cpu_then - cpu

    return Side(float(total) / learned, step, trunk.parameters)  # a training has its own optimizer


def twin(batch: OneBatch, compiling: bool) -> Side:
    model = seeded()
    run_model: Any = torch.compile(model) if compiling else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1, betas=(0.9, 0.95))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        loss_before = float(model(batch.ids, batch.targets))

    def step() -> tuple[float, float]:
        began, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = run_model(batch.ids, batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return time.perf_counter() - began, time.process_time() - cpu

    def kept() -> Iterable[Tensor]:
        return [*model.parameters(), *(moment for moments in optimizer.state.values() for moment in moments.values())]

    return Side(loss_before, step, kept)


def seeded() -> Twin:
    torch.manual_seed(0)
    return Twin()


def side(name: str, batch: OneBatch, folder: Path) -> Side:
    compiling = name.endswith("-compiled")
    return ours(batch, compiling, folder) if name.startswith("ours") else twin(batch, compiling)


def peak_bytes(name: str, size: int) -> int:
    """Most memory that building a side and two of its steps take beyond what the process held before them, in this process."""
    if name.endswith("-compiled"):
        raise SystemExit("the compiler's own memory would be measured; ask for the plain sides")
    before = resident()
    reset_peak()
    with tempfile.TemporaryDirectory() as folder:
        taken = side(name, OneBatch(size), Path(folder))
        for _ in range(2):
            taken.step()
    return (peak_resident() or 0) - (before or 0)


def tensor_bytes(name: str, size: int) -> int:
    """The most bytes of tensors at once during a step (ours: two, the second with its moments), as the allocator's events tell them."""
    with tempfile.TemporaryDirectory() as folder:
        taken = side(name, OneBatch(size), Path(folder))
        for _ in range(2):
            taken.step()
        kept = sum(tensor.nbytes for tensor in taken.kept())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
            taken.step()
        trace = Path(folder) / "trace.json"
        events.export_chrome_trace(str(trace))
        found = json.loads(trace.read_text())["traceEvents"]
    return kept + max(event["args"]["Total Allocated"] for event in found if event.get("name") == "[memory]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--memory", action="store_true", help="memory of all sides too")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--tensors", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for asked, measured in ((options.peak, peak_bytes), (options.tensors, tensor_bytes)):
        if asked:
            print(measured(asked, options.batch))
            return
    batch = OneBatch(options.batch)
    tokens = batch.ids.numel()
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: side(name, batch, Path(folder)) for name in options.only}
        if max(found.loss for found in sides.values()) - min(found.loss for found in sides.values()) > 0.01:
            raise SystemExit(f"the losses differ: { {name: found.loss for name, found in sides.items()} }")
        for found in sides.values():
            found.step()
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(options.rounds):
            for name in sorted(sides, reverse=bool(number % 2)):
                taken[name].append(sides[name].step())
    results: dict[str, Any] = {}
    for name, steps in taken.items():
        seconds, cpu = (statistics.median(step[place] for step in steps) for place in (0, 1))
        results[name] = {"loss": sides[name].loss, "tokens_per_second": tokens / seconds, "tokens_per_cpu_second": tokens / cpu}
        for told, option in (("tensor_bytes", "--tensors"), ("peak_bytes", "--peak")) if options.memory else ():
            if told == "tensor_bytes" or not name.endswith("-compiled"):
                command = [sys.executable, __file__, option, name, "--batch", str(options.batch), "--threads", str(options.threads)]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                results[name][told] = int(said.split()[-1])
        print(name, json.dumps(results[name]), flush=True)
    print(json.dumps({"pretraining": results, "options": vars(options), "machine": describe(), "versions": versions()}))


if __name__ == "__main__":
    main()
