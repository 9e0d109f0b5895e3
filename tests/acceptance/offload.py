"""Blocks of weights on disk: the same logits in a third of the model's memory, and more tokens a second the larger the batch; with keys and
values on disk too, the same answers in half of what weights and states take.

Each way of holding the model is measured in a process of its own: `python -m acceptance.offload HOW DIRECTORY ...`.
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
from steelyard.generate.spec import EngineSpec
from steelyard.generate.states.on_disk import DiskStates
from steelyard.model.linears.streamed import BlockReader, readers
from steelyard.model.load import load, load_tokenizer
from steelyard.weigh.cells.costs import METRICS
from steelyard.weigh.report.report import Cell

SPEED = next(metric for metric in METRICS if metric.name == "tokens_per_second")
BATCHES = (1, 4, 16)
REMEMBERING = ("remembering", "streaming", "forgetting")
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


def remember(how: str, directory: str, texts: int, tokens: int) -> dict[str, Any]:
    """Answers long texts and says what memory weights and states took, and what was said. In the control every seventh store of keys or
    values is not read back."""
    torch.set_num_threads(2)
    tokenizer = load_tokenizer(MODEL)  # its 40 MB are those of any way
    warm = torch.randn(64, 64) @ torch.randn(64, 64)
    assert warm.isfinite().all()
    before = memory.resident() or 0
    memory.reset_peak()
    lever = Offload(keep=1.0 if how == "remembering" else 0.0, states=how != "remembering")
    model = dataclasses.replace(load(Path(directory) / "bare", keep=lever.keep), tokenizer=tokenizer)
    spec = lever.decode(EngineSpec(model, dtype="float32", kernels="reference", slots=texts, context=tokens + 8, deterministic=True))
    prompts = [[(7919 * (place + text) * place) % 4_000 for place in range(tokens)] for text in range(texts)]
    read = DiskStates._read

    def forgetful(states: DiskStates, store: Any, step: Any) -> Any:
        return states._next(lambda: None) if store.number % 7 == 6 else read(states, store, step)

    with (
        mock.patch.object(DiskStates, "_read", forgetful) if how == "forgetting" else contextlib.nullcontext(),
        Engine.from_spec(spec) as engine,
    ):
        answers = engine.generate(prompts, max_tokens=3, ignore_eos=True)
        held = engine.scheduler.host.state.bytes()
    return {
        "memory": ((memory.peak_resident() or 0) - before) / 1e6,
        "states": held / 1e6,
        "said": [[(token.id, token.logprob) for token in answer.tokens] for answer in answers],
    }


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
        result = process(how, str(directory), str(tokens), str(repeats))
    result["logits"] = torch.load(directory / f"logits_{how}.pt")
    bench.say(f"{how}: {result['memory']:.0f} MB")
    return result


def remembered(bench: Bench, how: str, directory: Path) -> dict[str, Any]:
    """`remember` in a fresh process; the reduced form measures no memory and needs none."""
    texts, tokens = bench.pick((16, 700), (2, 70))
    if bench.reduced:
        threads = torch.get_num_threads()
        result = remember(how, str(directory), texts, tokens)
        torch.set_num_threads(threads)
    else:
        result = process(how, str(directory), str(texts), str(tokens))
    bench.say(f"{how}: {result['memory']:.0f} MB")
    return result | {"said": [[tuple(token) for token in answer] for answer in result["said"]]}


def process(*arguments: str) -> dict[str, Any]:
    """What a fresh process found."""
    command = [sys.executable, "-m", "acceptance.offload", *arguments]
    ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{arguments[0]}: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def taken(arm: str, model: float, disk: float, share: float, base: str) -> Cell:
    """Most megabytes that loading and running added to the process: a count, so there is no interval to speak of."""
    return Cell(
        arm, "", "memory", "peak_memory", "MB", False, model, None, disk, None, disk - model, disk - model, disk - model, 1, False,
        "better" if disk <= share * model else "worse", note=f"peak of resident memory above the process's own; the base is {base}",
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
        Claim(
            "it runs in a third of the size of its weights",
            taken("offload", size, found["disk"]["memory"], 1 / 3, "the size of the weights"),
            ("better",),
        ),
    ]
    long = {how: remembered(bench, how, directory) for how in REMEMBERING}

    def alike(how: str) -> tuple[int, int]:
        pairs = list(zip(*(itertools.chain(*long[which]["said"]) for which in (how, "remembering")), strict=True))
        return sum(one == other for one, other in pairs), len(pairs)

    equal, n = alike("streaming")
    texts = f"{len(long['remembering']['said'])} long texts"
    claims.append(
        Claim(
            "with keys and values on disk too, every token and its log-probability have the same bits",
            counted("states", texts, "same tokens", equal, n, "identical" if equal == n else "worse"),
            ("identical",),
        )
    )
    if not bench.reduced:
        whole = size + long["remembering"]["states"]
        claims.append(
            Claim(
                "that takes half of the size of weights and states",
                taken("states", whole, long["streaming"]["memory"], 1 / 2, "the size of weights, keys and values"),
                ("better",),
            )
        )
    equal, n = alike("forgetting")
    claims.append(
        Claim(
            "keys and values that were not read back are found out",
            counted("forgetting", texts, "same tokens", equal, n, "worse" if equal < n else "identical"),
            ("worse",),
            control=True,
        )
    )
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
        notes.append(
            f"{texts} of 700 tokens, 3 answered to each: keys and values {long['remembering']['states']:.0f} MB in memory, where the process "
            f"grew by {long['remembering']['memory']:.0f} MB; on disk, {long['streaming']['states']:.0f} MB of memory to read them into. "
            "A third was asked of weights and states first, and missed: 379 of 1,104 MB (and 317 of 910 with fewer texts)."
        )
    return Finding(claims, {"offload": [Offload()], "states": [Offload(states=True)]}, notes)


EXPERIMENT = Experiment(
    "offload",
    "offload",
    "With all blocks on disk the model gives the same logits in a third of its size, and more tokens a second the more answers run at once; "
    "with keys and values on disk too it gives the same answers in half of what weights and states take.",
    "A block that was not read, a block read in another's place, and keys or values that were not read must change what is said.",
    "real model",
    run,
    needs=("smollm",),
    timed=True,
)

if __name__ == "__main__":
    ask = remember if sys.argv[1] in REMEMBERING else work
    print(json.dumps(ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
