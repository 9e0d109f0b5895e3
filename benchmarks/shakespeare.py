"""The recipe `shakespeare` beside nanoGPT's own setting for CPUs, one after the other on the same text and the same cores.

    python benchmarks/shakespeare.py --nanogpt FOLDER --text tinyshakespeare.txt [--rounds 1] [--processor STEPS]

FOLDER is a clone of github.com/karpathy/nanoGPT, kept outside this one. nanoGPT trains 4 layers of width 128 on windows of 64 for 2,000
steps, as its README says for CPUs (validation loss 1.88 there). Ours is `steelyard make recipes/shakespeare.yaml`, start and all. Told
are the seconds by the clock until each reaches 1.88 on the text's last tenth, and the loss when nanoGPT's whole time has passed. Both
look at their own validation losses meanwhile; at the end both models are measured alike, on windows of 64. The last line is JSON.

On a machine that does other work too the clock says little: with `--processor STEPS` each side has one thread, ours takes that many steps
instead of seconds, and what is told are seconds of processor time (Linux).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steelyard.core.hardware import describe, versions
from steelyard.model.load import load

ROOT = Path(__file__).resolve().parents[1]
GOAL = 1.88
WINDOW = 64
EVERY = {"nanogpt": 100, "steelyard": 50}
"""Steps between validations: 4 to 5 seconds either side."""
THEIRS = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 --batch_size=12 "
    f"--n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0 --eval_interval={EVERY['nanogpt']} "
    "--always_save_checkpoint=True"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processor", type=int, metavar="STEPS", help="count processor seconds; our side takes so many steps")
    options = parser.parse_args()
    if options.processor:
        options.threads = 1
    rounds = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            theirs = nanogpt(options, Path(folder))
            ours = steelyard(options, Path(folder), theirs["seconds"])
        rounds.append({"nanogpt": theirs, "steelyard": ours})
        print(f"round {number + 1}: {json.dumps(rounds[-1])}", flush=True)

    def middle(side: str, key: str) -> float:
        return statistics.median(one[side][key] for one in rounds)

    print(f"\n| n {len(rounds)} | nanoGPT | Steelyard |\n| --- | --- | --- |")
    for key, words in (
        ("reached", f"seconds until {GOAL}"),
        ("seconds", "seconds in all"),
        ("loss", "last loss of its own"),
        ("alike", "windows of 64"),
    ):
        print(f"| {words} | {middle('nanogpt', key):.3g} | {middle('steelyard', key):.3g} |")
    told = {"rounds": rounds, "goal": GOAL, "machine": describe(), "versions": versions()}
    print(json.dumps(told))


def environment(options: argparse.Namespace) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(options.threads), "CUDA_VISIBLE_DEVICES": ""}


def used(options: argparse.Namespace, running: subprocess.Popen[Any], begun: float) -> float:
    """Seconds since a program began: by the clock, or those that the processor worked for it."""
    if not options.processor:
        return time.perf_counter() - begun
    fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ended(options: argparse.Namespace, running: subprocess.Popen[Any], begun: float) -> float:
    """The same, once it has ended."""
    if running.stdout is not None:
        running.stdout.read()
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)  # its counters stay until it is waited for
    seconds = used(options, running, begun)
    running.wait()
    return seconds


def nanogpt(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Runs nanoGPT in a copy; when each validation loss was printed, and its last one."""
    place = folder / "nanogpt"
    shutil.copytree(options.nanogpt, place, ignore=shutil.ignore_patterns(".git", "assets"))
    characters = prepare(options.text, place / "data" / "shakespeare_char")
    begun, losses = time.perf_counter(), []
    command = [sys.executable, "-u", "train.py", *THEIRS.split(), f"--out_dir={folder / 'theirs'}"]
    running = subprocess.Popen(command, cwd=place, env=environment(options), stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if found := re.search(r"val loss ([\d.]+)", line):
            losses.append((used(options, running, begun), float(found[1])))
    seconds = ended(options, running, begun)
    if running.returncode:
        raise SystemExit("nanoGPT failed; run its command by hand to see why")
    sys.path.insert(0, str(place))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]  # of the copy

    saved = torch.load(folder / "theirs" / "ckpt.pt", map_location="cpu", weights_only=False)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    alike = measured(lambda ids, targets: model(ids, targets)[1], characters, options.text)
    return {"reached": reached(losses), "seconds": seconds, "loss": losses[-1][1], "alike": alike}


def prepare(text: Path, folder: Path) -> dict[str, int]:
    """What nanoGPT's prepare.py writes, from a file that is there already."""
    whole = text.read_text(encoding="utf-8")
    characters = {character: number for number, character in enumerate(sorted(set(whole)))}
    ids = np.array([characters[character] for character in whole], np.uint16)
    cut = int(len(whole) * 0.9)
    ids[:cut].tofile(folder / "train.bin")
    ids[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(characters), "stoi": characters, "itos": {number: character for character, number in characters.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return characters


def steelyard(options: argparse.Namespace, folder: Path, whole: float) -> dict[str, float]:
    """Runs `steelyard make` for about as long as nanoGPT took; when each validation loss was written, and its last one."""
    place = folder / "ours"
    place.mkdir()
    command = [
        *(sys.executable, "-m", "steelyard.cli.main", "make", str(ROOT / "recipes" / "shakespeare.yaml"), "-o", "bard"),
        *(f"new.tokenizer.data={options.text.resolve()}", f"steps.pretrain.data={options.text.resolve()}"),
        *(f"steps.pretrain.validate_every={EVERY['steelyard']}", "steps.pretrain.sample_every=null"),
    ]
    if options.processor:
        command += ["steps.pretrain.seconds=null", f"steps.pretrain.steps={options.processor}"]
    else:
        command += [f"steps.pretrain.seconds={0.8 * whole:.0f}"]
    settings = environment(options) | {"STEELYARD_HOME": str(folder / "home")}
    begun, losses = time.perf_counter(), []
    running = subprocess.Popen(command, cwd=place, env=settings, stdout=subprocess.DEVNULL)
    seen = 0
    while os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.05)
        for file in place.glob("runs/shakespeare/make/*/metrics.jsonl"):
            lines = file.read_text(encoding="utf-8").splitlines()
            for line in lines[seen:]:
                if "validation_loss" in line and line.endswith("}"):
                    losses.append((used(options, running, begun), json.loads(line)["validation_loss"]))
            seen = len(lines)
    seconds = ended(options, running, begun)
    if running.returncode:
        raise SystemExit("steelyard failed; run its command by hand to see why")
    model = load(place / "bard")
    tokenizer = model.tokenizer
    assert tokenizer is not None

    def loss(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model.logits(ids).flatten(0, 1), targets.flatten())

    found = {character: tokenizer.encode(character)[0] for character in sorted(set(options.text.read_text(encoding="utf-8")))}
    return {"reached": reached(losses), "seconds": seconds, "loss": losses[-1][1], "alike": measured(loss, found, options.text)}


def reached(losses: list[tuple[float, float]]) -> float:
    """When the goal was first seen, in seconds; infinity if never."""
    return next((seconds for seconds, loss in losses if loss <= GOAL), math.inf)


def measured(loss, characters: dict[str, int], text: Path) -> float:
    """Mean loss on the text's last tenth, in windows of 64 side by side."""
    whole = text.read_text(encoding="utf-8")
    ids = torch.tensor([characters[character] for character in whole[int(len(whole) * 0.9) :]])
    rows = (len(ids) - 1) // WINDOW
    inputs, targets = ids[: rows * WINDOW].view(rows, WINDOW), ids[1 : rows * WINDOW + 1].view(rows, WINDOW)
    with torch.no_grad():
        losses = [float(loss(a, b)) * len(a) for a, b in zip(inputs.split(128), targets.split(128), strict=True)]
    return sum(losses) / rows


if __name__ == "__main__":
    main()
