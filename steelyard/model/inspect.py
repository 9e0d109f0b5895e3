"""What a model is, from its files alone, and with `check` whether they can be trusted."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import Message
from steelyard.model import adapters
from steelyard.model.encoder_decoder import EncoderDecoder
from steelyard.model.families.config import Config
from steelyard.model.families.family import Family, find, find_gguf
from steelyard.model.families.steelyard import PLAN
from steelyard.model.files.check import RECORD, finite_problem, verify_digests
from steelyard.model.files.directory import open_directory
from steelyard.model.files.gguf_file import GgufFile
from steelyard.model.files.safetensors_file import SafetensorsFile
from steelyard.model.files.source import TensorSource
from steelyard.model.files.strict_json import read_object
from steelyard.model.load import TOKENIZER_FILES, gguf_config, holds_adapter, load, read_config

OURS = "steelyard"
"""The family of models that no public class knows."""
SAMPLE = (Message("user", "What is the capital of France?"),)
SHOWN = ("parents", "arm", "steps", "serve", "training", "seed", "measurements", "versions")
"""What of `steelyard.json` says how a model came to be."""


def inspect(path: str | Path, check: bool = False) -> dict[str, Any]:
    """A description of the model at a path (a directory, an adapter's directory, or a .gguf file).

    Args:
        path: where it lies; nothing is downloaded.
        check: also read every weight, render a conversation, encode and decode a text, and compare digests where the
            directory carries them.

    Returns:
        Plain data: `family`, `architecture`, `parameters`, `bytes`, `tensors`, `stored_as`, `context`, `width`, `depth`,
        `vocabulary`, `tokenizer`, `heads`, `opens_in`, and `made_from` where we made it; of an adapter `base`, `rank` and
        `adapts` instead. `ignored` names what the files ask for and nothing here does. With `check` also `problems`, empty when
        all is well.

    Raises:
        ModelFileError: where the files do not even say what they are.
    """
    path = Path(path)
    if path.is_dir() and holds_adapter(path):
        found = _describe_adapter(path)
    else:
        family, config, source = _open(path)
        try:
            found = _describe(path, family, config, source)
        finally:
            source.close()
    if path.is_dir() and (path / RECORD).exists():
        record = read_object(path / RECORD)
        if made := {key: record[key] for key in SHOWN if key in record}:
            found["made_from"] = made
    return found | {"problems": problems(path)} if check else found


def _describe_adapter(path: Path) -> dict[str, Any]:
    config = adapters.read_config(path)
    with SafetensorsFile(path / adapters.WEIGHTS) as source:
        stored = Counter(source.stored_type(name) for name in source.names())
        parameters = sum(math.prod(source.shape(name)) for name in source.names())
        tensors = len(source.names())
    return {
        "path": str(path),
        "family": "adapter",
        "base": config.get("base_model_name_or_path"),
        "rank": config.get("r"),
        "adapts": config.get("target_modules"),
        "parameters": parameters,
        "bytes": (path / adapters.WEIGHTS).stat().st_size,
        "tensors": tensors,
        "stored_as": dict(stored.most_common()),
        "tokenizer": tokenizer_of(path),
        "opens_in": "peft",
    }


def tokenizer_of(path: Path) -> str:
    """Where the tokenizer is, by the files' names alone."""
    if path.is_file():
        return "in the file"
    return next((name for name in TOKENIZER_FILES if (path / name).exists()), "none")


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
    return (
        {
            "path": str(path),
            "family": family.name,
            "architecture": family.architecture,
            "parameters": sum(numbers_in(name, source.shape(name)) for name in names),
            "bytes": sum(file.stat().st_size for file in files),
            "tensors": len(names),
            "stored_as": dict(stored.most_common()),
            "context": plan.context,
            "width": plan.width,
            "depth": len(getattr(plan.depth, "blocks", ())) or config.get("plan", {}).get("depth"),
            "vocabulary": plan.inputs.vocabulary,
            "tokenizer": tokenizer_of(path),
            "heads": sorted(plan.heads),
            "opens_in": "transformers, GGUF tools" if path.is_file() else "Steelyard only" if family.name == OURS else "transformers",
        }
        | ({"plan": config[PLAN]} if family.name == OURS else {})
        | ({"ignored": ["auto_map: code that comes with a model is never run"]} if config.get("auto_map") else {})
    )


def numbers_in(name: str, shape: tuple[int, ...]) -> int:
    """Weights that a tensor holds: what lies beside packed ones (scales, shapes) is none, and an int32 packs eight of 4 bits."""
    if name.endswith(("_scale", "_shape")):
        return 0
    return math.prod(shape) * (8 if name.endswith(".weight_packed") else 1)


def problems(path: Path) -> list[str]:
    """Everything that keeps the model from being used as it is, or from being what was saved, one sentence each."""
    found: list[str] = []
    for look in (_digest_problems, _weight_problems, _use_problems):
        try:
            found += [problem for problem in look(path) if problem not in found]
        except SteelyardError as error:
            told = str(error).replace("\n  ", ". ")
            found = [problem for problem in found if problem not in told] + [told]  # the same again, but with what to do about it
    return found


def _digest_problems(path: Path) -> list[str]:
    return verify_digests(path) if path.is_dir() else []


def _weight_problems(path: Path) -> list[str]:
    """Every tensor read once: those that hold numbers which are none, or cannot be read."""
    source = SafetensorsFile(path / adapters.WEIGHTS) if path.is_dir() and holds_adapter(path) else _open(path)[2]
    found = []
    try:
        for name in source.names():
            try:
                problem = finite_problem(name, source.read(name))
            except SteelyardError as error:
                problem = str(error).replace("\n  ", ". ")
            found += [problem] if problem else []
    finally:
        source.close()
    return found


def _use_problems(path: Path) -> list[str]:
    """The model opened and used as an engine uses it: a text read, a conversation rendered, logits or a vector computed."""
    model = load(path)
    rows = model.trunk.plan.inputs.vocabulary
    ids, found = [1 % rows, 2 % rows, 3 % rows], []
    if (tokenizer := model.tokenizer) is not None:
        ids = [id for id in tokenizer.encode_for_model(SAMPLE[0].content) if id < rows] or ids
        # Models of pictures are published without those towers, yet with the special tokens for them: those alone do no harm.
        spare = [id for id in range(rows, tokenizer.vocabulary_size) if id not in tokenizer.special_ids]
        if spare:
            text = tokenizer.token(spare[0])
            found.append(
                f"{len(spare)} tokens of the tokenizer have no row in the model, which has {rows}; the first is {text!r} ({spare[0]})"
            )
        missing = [id for id in tokenizer.eos_ids if id >= rows]
        if missing:
            found.append(f"the token that ends an answer ({missing[0]}) has no row in the model, which has {rows}")
    if model.template is not None:
        model.render(SAMPLE)
    both: Any = model.trunk
    if isinstance(both, EncoderDecoder):
        text = torch.tensor([ids[: model.context_length]])
        with torch.inference_mode():
            out = both(text, [text.shape[1]], text)
    else:
        out = model.logits([ids]) if "lm" in model.trunk.heads else model.vectors([ids])
    if not bool(torch.isfinite(out).all()):
        found.append("a short text gives results that are not finite")
    return found
