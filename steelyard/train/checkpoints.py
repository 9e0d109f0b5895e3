"""Checkpoints: everything a training needs to go on to the same bits, written so that a crash leaves the ones before.

A checkpoint is a folder `step-00000010` with `trained.safetensors` (the trained parameters), `optimizer.safetensors` (their
moments) and `state.json` (step, place in the data, counters, digests). Frozen weights are not in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from steelyard.core.errors import SteelyardError
from steelyard.core.files import write_json
from steelyard.core.fingerprint import digest, file_digest

TRAINED, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` steps: trained parameters by name, optimizer tensors by name, and counters."""

    step: int
    trained: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(
    directory: Path, step: int, trained: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any], keep: int
) -> Path:
    """Writes a checkpoint beside its final place and moves it there whole; then removes all but the last `keep`.

    Raises:
        SteelyardError: the disk is full; earlier checkpoints are untouched.
    """
    final = directory / f"step-{step:08d}"
    if final.exists():
        return final
    partial = directory / f".{final.name}.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob(".step-*.part"):  # of a run that was killed while writing
            shutil.rmtree(left)
        partial.mkdir()
        digests = {}
        for name, tensors in ((TRAINED, trained), (OPTIMIZER, optimizer)):
            standing = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            safetensors.torch.save_file(standing, partial / name)
            with (partial / name).open("rb") as file:
                os.fsync(file.fileno())
            digests[name] = file_digest(partial / name)
        content = {**state, "step": step, "digests": digests}
        write_json(partial / STATE, {**content, "digest": digest(content)})
        os.replace(partial, final)
    except (OSError, safetensors.SafetensorError) as error:
        # The library reports a full disk as an error of its own, so the reason is in its words.
        raise SteelyardError(
            f"the checkpoint could not be written: {error}",
            where=str(final),
            do="Free some space (or choose another folder) and run the same command again; checkpoints saved before are whole.",
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(partial)
    for old in steps_saved(directory)[:-keep]:
        shutil.rmtree(old)
    return final


def steps_saved(directory: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(directory.glob("step-*"))


def load_latest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint, or None where there is none.

    Raises:
        SteelyardError: it was damaged after it was written. An older one is never taken unsaid.
    """
    saved = steps_saved(directory)
    if not saved:
        return None
    latest = saved[-1]
    try:
        state = json.loads((latest / STATE).read_text(encoding="utf-8"))
        if digest({key: value for key, value in state.items() if key != "digest"}) != state["digest"]:
            raise ValueError(f"{STATE} holds other values than were written")
        for name, expected in state["digests"].items():
            if file_digest(latest / name) != expected:
                raise ValueError(f"{name} has other bytes than were written")
        trained, optimizer = (safetensors.torch.load_file(latest / name) for name in (TRAINED, OPTIMIZER))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        earlier = f"goes on from {saved[-2].name}" if len(saved) > 1 else "starts again"
        raise SteelyardError(
            f"the checkpoint is damaged: {error}", where=str(latest), do=f"Delete this folder; training then {earlier}."
        ) from error
    return Checkpoint(state["step"], trained, optimizer, state)
