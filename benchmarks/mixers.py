"""Every mixer beside attention: training at one length, and what a token and the memory cost as a text grows.

    python benchmarks/mixers.py [--mixers mamba mamba2 lstm] [--width 384] [--time 2048] [--rounds 7] [--threads 2] [--device cuda]

Training is one forward and backward pass of one mixer over one text, maps included. Generation is the median of single steps of a decoder of
one block after 64, 512, 2,048 and 8,192 tokens, whose texts were read before the clock runs; memory is what its pool takes for so many
tokens; steps have one thread, because there is nothing in them worth sharing. Mixers take turns within every round (forwards and backwards), the first round is not counted, and ratios to attention are medians
over rounds. The last line printed is JSON. On a GPU (`--device cuda`) the clock is read when it has done its work, and `triton` in the
JSON says whether the scans had Triton kernels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steelyard.core.errors import RecipeError
from steelyard.core.hardware import describe, versions
from steelyard.kernels import gpu, native
from steelyard.model.new import DecoderPlan, initialize, known
from steelyard.model.state import Dense, State
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

VOCABULARY, PREFILL, STEPS = 64, 512, 16
POSITIONS = (64, 512, 2048, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", nargs="*", default=known("mixer"), help="attention is always among them")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--time", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trunks: dict[str, Trunk] = {}
    for name in dict.fromkeys(["attention", *options.mixers]):
        try:
            trunks[name] = decoder(name, options.width).to(options.device)
        except RecipeError as error:
            print(f"{name}: left out, {error.what}", flush=True)
    training = in_turns({name: pass_over(trunk.blocks[0].mixer, options) for name, trunk in trunks.items()}, options.rounds)
    results: dict[str, Any] = {}
    for name, seconds in training.items():
        ratio = statistics.median(mine / base for mine, base in zip(seconds, training["attention"], strict=True))
        results[name] = {"training_ms": statistics.median(seconds) * 1e3, "ratio_to_attention": ratio}
        print(f"{name}: {results[name]['training_ms']:.0f} ms forward and backward, {ratio:.2f} of attention", flush=True)
    torch.set_num_threads(1)
    for position in POSITIONS:
        steps = in_turns({name: step_after(trunk, position) for name, trunk in trunks.items()}, STEPS)
        for name, seconds in steps.items():
            own = {"step_ms": statistics.median(seconds) * 1e3, "memory_bytes": empty(trunks[name], position).bytes()}
            results[name].setdefault("generation", {})[str(position)] = own
            print(f"{name} after {position}: {own['step_ms']:.2f} ms a token, {own['memory_bytes']} bytes", flush=True)
    routines = native.routines()
    by_triton = gpu.runs_on(torch.device(options.device))
    told = vars(options) | {"mixers": list(trunks), "routines": routines.name if routines else None, "triton": by_triton}
    print(json.dumps({"mixers": results, "options": told, "machine": describe(), "versions": versions()}))


def decoder(name: str, width: int) -> Trunk:
    """One block with the mixer and nothing else."""
    plan = DecoderPlan.model_validate({"mixer": name, "channel": "none", "width": width, "depth": 1, "context": max(POSITIONS) + 4 * STEPS})
    return initialize(plan.trunk(VOCABULARY).build(), plan, 0)


def empty(trunk: Trunk, tokens: int) -> State:
    """Memory for one text."""
    return trunk.new_state(1, tokens, Dense(torch.float32, trunk.device))


def pass_over(mixer: Any, options: argparse.Namespace) -> Callable[[], object]:
    text = torch.randn(1, options.time, options.width, generator=torch.Generator().manual_seed(1)).to(options.device)

    def run() -> None:
        x = text.clone().requires_grad_()
        mixer.zero_grad(set_to_none=True)
        y = mixer(x, Step.whole(1, options.time, x.device))
        y.backward(torch.ones_like(y))

    return run


@torch.inference_mode()
def step_after(trunk: Trunk, position: int) -> Callable[[], object]:
    """A step that goes on from a text of `position` tokens, a token further each time."""
    capacity = position + 4 * STEPS
    state, done = empty(trunk, capacity), 0

    def push(ids: Tensor) -> None:
        nonlocal done
        count = ids.shape[1]
        trunk.logits(ids, Step((0,), (done,), (count,), count, ids.device, capacity=capacity), state)
        done += count

    text = torch.randint(0, VOCABULARY, (1, position), generator=torch.Generator().manual_seed(2)).to(trunk.device)
    for part in text.split(PREFILL, 1):
        push(part)
    return torch.inference_mode()(lambda: push(text[:, :1]))


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round but the first."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in reversed(list(runs)) if number % 2 else runs:
            start = time.perf_counter()
            runs[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                taken[name].append(time.perf_counter() - start)
    return taken


if __name__ == "__main__":
    main()
