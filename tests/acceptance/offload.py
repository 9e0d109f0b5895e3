"""Blocks of weights on disk: the same logits in a third of the model's memory, and more tokens a second the larger the batch.

Each way of holding the model is measured in a process of its own: `python -m acceptance.offload HOW DIRECTORY`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared, counted, untrained
from steelyard.core.meters import memory
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.offload import Offload
from steelyard.model.linears.streamed import BlockReader, readers
from steelyard.model.load import load
from steelyard.weigh.cells.costs import METRICS
from steelyard.weigh.report.report import Cell

SPEED = next(metric for metric in METRICS if metric.name == "tokens_per_second")
BATCHES = (1, 4, 16)
IDS = [(7919 * place * place) % 4_000 for place in range(31)]
SMALL = {
    "vocab_size": 4_000,
    "hidden_size": 256,
    "intermediate_size": 2_048,
    "num_hidden_layers": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
"""Of the reduced form's random model: 4 MB of token table, 118 MB of blocks."""


def stale(reader: BlockReader, read: Any, block: int, buffer: int) -> None:
    """The control that forgets to read: every seventh block's memory still holds the block before last."""
    if block % 7 != 6:
        read(reader, block, buffer)


def off_by_one(reader: BlockReader, read: Any, block: int, buffer: int) -> None:
    """The control that reads the block after the one asked for."""
    read(reader, (block + 1) % len(reader.blocks), buffer)


def work(how: str, directory: str, tokens: int, repeats: int) -> dict[str, Any]:
    """Loads a model one way and says what memory its weights took, what it said, and how fast it answered."""
    faults = {"stale": stale, "off_by_one": off_by_one}
    keep, path, read = 1.0 if how == "memory" else 0.0, Path(directory), BlockReader._read
    torch.set_num_threads(2)
    warm = torch.randn(64, 64) @ torch.randn(64, 64)  # matrix libraries bring memory of their own
    assert warm.isfinite().all()
    before = memory.resident() or 0
    memory.reset_peak()
    model = load(path / "bare", keep=keep)
    faulty = mock.patch.object(BlockReader, "_read", lambda reader, *where: faults[how](reader, read, *where))
    with faulty if how in faults else contextlib.nullcontext():
        logits = model.logits([IDS])
    out: dict[str, Any] = {
        "memory": ((memory.peak_resident() or 0) - before) / 1e6,
        "direct": all(reader.file.direct for reader in readers(model.trunk)),
    }
    torch.save(logits, path / f"logits_{how}.pt")
    if not repeats or how in faults:
        return out
    settings = AnswerSettings(max_tokens=tokens, ignore_eos=True)
    with Engine(load(path / "whole", keep=keep), dtype="float32", kernels="reference", slots=max(BATCHES), context=256) as engine:
        for batch in BATCHES:
            out[f"batch {batch}"] = timed = []
            for repeat in range(repeats):
                answers = engine.generate([f"{number} {repeat} and" for number in range(batch)], settings=settings)
                first = max(a.timing.first_token for a in answers if a.timing.first_token is not None)
                last = max(a.timing.finished for a in answers if a.timing.finished is not None)
                timed.append((float(batch * (tokens - 1)), last - first))
    return out


def done(bench: Bench, how: str, directory: Path) -> dict[str, Any]:
    """`work` in a fresh process; the reduced form needs one only where memory is measured."""
    tokens, repeats = bench.pick(9, 3), bench.pick(5, 0)
    if bench.reduced and how != "disk":
        threads = torch.get_num_threads()
        result = work(how, str(directory), tokens, repeats)
        torch.set_num_threads(threads)
    else:
        command = [sys.executable, "-m", "acceptance.offload", how, str(directory), str(tokens), str(repeats)]
        ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(f"{how}: {ended.stderr[-2000:]}")
        result = json.loads(ended.stdout.splitlines()[-1])
    result["logits"] = torch.load(directory / f"logits_{how}.pt")
    bench.say(f"{how}: {result['memory']:.0f} MB")
    return result


def taken(model: float, disk: float, share: float) -> Cell:
    """Most megabytes that loading and running added to the process: a count, so there is no interval to speak of."""
    return Cell(
        "offload", "", "memory", "peak_memory", "MB", False, model, None, disk, None, disk - model, disk - model, disk - model, 1, False,
        "better" if disk <= share * model else "worse", note="peak of resident memory above the process's own; the base is the size of the weights",
    )  # fmt: skip


def run(bench: Bench) -> Finding:
    directory = bench.directory
    model = untrained(load(MODEL), **SMALL) if bench.reduced else load(MODEL)
    size = model.trunk.weight_bytes() / 1e6
    # In the type it is run in: reading blocks of a GGUF file takes more memory for a moment than the floats they become. Memory is
    # that of the weights: a tokenizer of 49,152 words takes 40 MB of its own.
    if not bench.reduced:
        model.save(directory / "whole")
    dataclasses.replace(model, tokenizer=None, template=None).save(directory / "bare")
    del model
    faults = {"stale": "memory that was not read anew", "off_by_one": "the next block's weights"}
    if bench.reduced:
        del faults["stale"]
    found = {how: done(bench, how, directory) for how in ("memory", "disk", *faults)}

    def same(how: str) -> tuple[int, int]:
        rows = (found[how]["logits"] == found["memory"]["logits"]).flatten(0, 1).all(-1)
        return int(rows.sum()), len(rows)

    equal, n = same("disk")
    claims = [
        Claim(
            "every logit has the same bits as in memory",
            counted("offload", "31 tokens", "same logits", equal, n, "identical" if equal == n else "worse"),
            ("identical",),
        ),
        Claim("it runs in a third of the size of its weights", taken(size, found["disk"]["memory"], 1 / 3), ("better",)),
    ]
    for fewer, more in itertools.pairwise(BATCHES) if not bench.reduced else ():
        pairs = [[(tokens, seconds) for tokens, seconds in found["disk"][f"batch {batch}"]] for batch in (fewer, more)]
        claims.append(
            Claim(
                f"{more} answers at once give more tokens a second than {fewer}", compared(f"batch {more}", "", SPEED, *pairs), ("better",)
            )
        )
    for how, words in faults.items():
        equal, n = same(how)
        claims.append(
            Claim(
                f"{words} are found out",
                counted(how, "31 tokens", "same logits", equal, n, "worse" if equal < n else "identical"),
                ("worse",),
                control=True,
            )
        )
    notes = [
        f"Weights of {size:.0f} MB in float32, kernels=reference; in memory the process grew by {found['memory']['memory']:.0f} MB. Reads "
        + ("passed the page cache by (O_DIRECT)." if found["disk"]["direct"] else "gave their pages back (no O_DIRECT on this disk).")
    ]
    if not bench.reduced:
        rate = {how: [sum(n for n, _ in found[how][f"batch {b}"]) / sum(s for _, s in found[how][f"batch {b}"]) for b in BATCHES] for how in ("memory", "disk")}  # fmt: skip
        told = {how: ", ".join(f"{value:.1f}" for value in values) for how, values in rate.items()}
        notes.append(
            f"Tokens a second with {', '.join(map(str, BATCHES))} answers at once: {told['disk']} from disk, {told['memory']} in memory."
        )
    return Finding(claims, {"offload": [Offload()]}, notes)


EXPERIMENT = Experiment(
    "offload",
    "offload",
    "With all blocks on disk the model gives the same logits in a third of its size, and more tokens a second the more answers run at once.",
    "A block that was not read, and a block read in another's place, must change the logits.",
    "real model",
    run,
    needs=("smollm",),
    timed=True,
)

if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
