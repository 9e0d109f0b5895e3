"""Training side by side with transformers + peft: the same model, adapters, batches and optimizer, in turns.

    python benchmarks/training.py [--threads 2] [--rounds 5] [--steps 4] [--batch 4]

Each round both take the same steps on the same batches of the recipe `teach-format`, the one that begins alternating; what is told
are medians over the rounds. Tokens are those that are not padding. CPU seconds stand beside the clock's because they say more on a
machine that does other work too. Before it is timed, both must have the same loss. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from steelyard.core.hardware import describe, versions
from steelyard.core.run import Run
from steelyard.data.batching import NOT_LEARNED, Batch, Batches
from steelyard.data.encoding import Encoder, encode_all
from steelyard.data.sources import open_source
from steelyard.model.load import load
from steelyard.model.model import Model
from steelyard.train.adapters.lora import LoraPlan, attach
from steelyard.train.objectives import next_token_loss
from steelyard.train.trainer import TrainerSettings, train

MODEL, DATA, RANK, ALPHA, RATE = "smollm2-135m-instruct", "generated:json_forms", 16, 32.0, 1e-4


@dataclasses.dataclass
class Round:
    """One side's part of a round: tokens read, seconds by the clock, seconds of processor time."""

    tokens: int
    seconds: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a round")
    parser.add_argument("--batch", type=int, default=4, help="rows of a step")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load(MODEL)
    batches = rows_in_batches(model, options.steps * options.batch, options.batch)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        for dtype in options.dtypes:
            results[dtype] = compare(model, Path(folder), batches, dtype, options.rounds, options.steps)
            print(told(dtype, results[dtype]), flush=True)
            gc.collect()
    print(json.dumps({"training": results, "options": vars(options), "machine": describe(), "versions": versions()}))


def rows_in_batches(model: Model, rows: int, size: int) -> Batches:
    assert model.tokenizer is not None
    examples = open_source(DATA, count=rows, seed=7).examples
    encoded, _ = encode_all(Encoder(model.tokenizer, model.template), examples, max_length=model.context_length)
    return Batches(encoded, size, seed=1, epochs=None)


def compare(model: Model, folder: Path, batches: Batches, dtype: str, rounds: int, steps: int) -> dict[str, Any]:
    """Times both in turns.

    Raises:
        SystemExit: the two do not compute the same loss, so their speeds cannot be compared.
    """
    ours, our_loss = our_side(model, folder, batches, dtype)
    theirs, their_loss = their_side(folder, batches, dtype)
    if abs(our_loss - their_loss) > (1e-4 if dtype == "float32" else 2e-2) * our_loss:
        raise SystemExit(f"the losses differ: {our_loss} and {their_loss}")
    sides = {"ours": ours, "theirs": theirs}
    for run in sides.values():
        run(1)
    measured: dict[str, list[Round]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        for side in sorted(sides, reverse=bool(number % 2)):
            measured[side].append(sides[side](steps))
    out: dict[str, Any] = {"loss": {"ours": our_loss, "theirs": their_loss}}
    for side, taken in measured.items():
        out[side] = {
            "tokens_per_second": statistics.median(r.tokens / r.seconds for r in taken),
            "tokens_per_cpu_second": statistics.median(r.tokens / r.cpu for r in taken),
        }
    for unit in ("tokens_per_second", "tokens_per_cpu_second"):
        out[f"ratio_{unit}"] = out["ours"][unit] / out["theirs"][unit]
    return out


def our_side(model: Model, folder: Path, batches: Batches, dtype: str) -> tuple[Callable[[int], Round], float]:
    trunk = attach(model, model.trunk.with_weights(getattr(torch, dtype)), LoraPlan(RANK, ALPHA), seed=0)
    objective, numbers = next_token_loss(trunk), itertools.count()

    def run(steps: int) -> Round:
        settings = TrainerSettings(steps=steps, learning_rate=RATE, dtype=dtype)  # type: ignore[arg-type]
        directory = folder / f"{dtype}-{next(numbers)}"
        cpu = time.process_time()
        progress = train(trunk, objective, batches, settings, Run(directory))
        return Round(progress.tokens, progress.seconds, time.process_time() - cpu)

    with torch.no_grad(), autocast(dtype):
        loss, learned, _ = objective(first(batches))
    return run, float(loss) / learned


def their_side(folder: Path, batches: Batches, dtype: str) -> tuple[Callable[[int], Round], float]:
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, dtype))
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")  # type: ignore[arg-type]
    adapted: Any = peft.get_peft_model(base, config)
    parameters: Sequence[Any] = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)

    def loss_of(batch: Batch) -> Any:
        ids, targets = torch.from_numpy(batch.ids), torch.from_numpy(batch.targets)
        labels = torch.full_like(targets, NOT_LEARNED)
        labels[:, 1:] = targets[:, :-1]  # transformers shifts them back
        with autocast(dtype):
            return adapted(input_ids=ids, labels=labels, use_cache=False).loss

    def run(steps: int) -> Round:
        adapted.train()
        tokens, started, cpu = 0, time.perf_counter(), time.process_time()
        for (batch, _), _ in zip(batches.iterate(), range(steps), strict=False):
            loss_of(batch).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            tokens += batch.tokens
        return Round(tokens, time.perf_counter() - started, time.process_time() - cpu)

    with torch.no_grad():
        loss = float(loss_of(first(batches)))
    return run, loss


def first(batches: Batches) -> Batch:
    return next(batches.iterate())[0]


def autocast(dtype: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


def told(dtype: str, result: dict[str, Any]) -> str:
    lines = [f"{dtype}: loss {result['loss']['ours']:.4f} ours, {result['loss']['theirs']:.4f} theirs"]
    for unit, words in (("tokens_per_second", "tokens/s"), ("tokens_per_cpu_second", "tokens per CPU second")):
        ours, theirs = result["ours"][unit], result["theirs"][unit]
        lines.append(f"  {words}: ours {ours:.1f}, transformers + peft {theirs:.1f}, ratio {ours / theirs:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
