"""What a model is, from its files alone, and with `check` whether they can be trusted."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import Message
from steelyard.model.families.config import Config
from steelyard.model.families.family import Family, find, find_gguf
from steelyard.model.files.check import has_digests, verify_digests
from steelyard.model.files.directory import open_directory
from steelyard.model.files.gguf_file import GgufFile
from steelyard.model.files.source import TensorSource
from steelyard.model.load import gguf_config, load, read_config

SAMPLE = (Message("user", "What is the capital of France?"),)


def inspect(path: str | Path, check: bool = False) -> dict[str, Any]:
    """A description of the model at a path (a directory or a .gguf file).

    Args:
        path: where it lies; nothing is downloaded.
        check: also read every weight, render a conversation, encode and decode a text, and compare digests where the
            directory carries them.

    Returns:
        Plain data: `family`, `architecture`, `parameters`, `bytes`, `tensors`, `stored_as`, `context`, `width`, `depth`,
        `vocabulary`, `opens_in`; with `check` also `problems`, empty when all is well.

    Raises:
        ModelFileError: where the files do not even say what they are.
    """
    path = Path(path)
    family, config, source = _open(path)
    try:
        found = _describe(path, family, config, source)
    finally:
        source.close()
    return found | {"problems": problems(path)} if check else found


def _open(path: Path) -> tuple[Family, dict[str, Any], TensorSource]:
    if path.is_file():
        source = GgufFile(path)
        family = find_gguf(source.metadata.get("general.architecture"), str(path))
        return family, gguf_config(family, source, path), source
    config = read_config(path)
    return find(config.get("model_type"), str(path / "config.json")), config, open_directory(path)


def _describe(path: Path, family: Family, config: dict[str, Any], source: TensorSource) -> dict[str, Any]:
    plan = family.plan(Config(config, str(path)))
    names = source.names()
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in (".safetensors", ".gguf")]
    stored = Counter(str(source.stored_type(name)) for name in names) if hasattr(source, "stored_type") else Counter()  # type: ignore[attr-defined]
    return {
        "path": str(path),
        "family": family.name,
        "architecture": family.architecture,
        "parameters": sum(math.prod(source.shape(name)) for name in names if not name.endswith("_scale")),
        "bytes": sum(file.stat().st_size for file in files),
        "tensors": len(names),
        "stored_as": dict(stored.most_common()),
        "context": plan.context,
        "width": plan.width,
        "depth": len(plan.depth.blocks),
        "vocabulary": plan.inputs.vocabulary,
        "heads": sorted(plan.heads),
        "opens_in": "transformers, GGUF tools" if path.is_file() else "transformers",
    }


def problems(path: Path) -> list[str]:
    """Everything that keeps the model from being used as it is, one sentence each."""
    found = verify_digests(path) if path.is_dir() and has_digests(path) else []
    try:
        model = load(path)
        ids = [1, 2, 3]
        if model.tokenizer is not None:
            ids = model.tokenizer.encode("The quick brown fox.") or ids
            if model.tokenizer.vocabulary_size > model.trunk.plan.inputs.vocabulary:
                found.append(
                    f"the tokenizer has {model.tokenizer.vocabulary_size} tokens, the model only {model.trunk.plan.inputs.vocabulary}"
                )
        if model.template is not None:
            model.render(SAMPLE)
        if "lm" in model.trunk.heads:
            logits = model.logits([[min(token, model.trunk.plan.inputs.vocabulary - 1) for token in ids]])
            if not bool(torch.isfinite(logits).all()):
                found.append("a short text gives logits that are not finite")
    except SteelyardError as error:
        found.append(str(error).replace("\n  ", " "))
    return found
