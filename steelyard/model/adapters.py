"""Low-rank adapters in peft's file format: `adapter_config.json` and `adapter_model.safetensors`, both ways.

peft names a map by its path in the public class (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`). Families
translate: a fused public map's B is rows of several of our maps (they share its A); ours, written to a fused map, become the
blocks of one B behind stacked As. Format: https://huggingface.co/docs/peft (version 0.21 read and written).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.core.files import atomic, write_json
from steelyard.model.families.family import Entry, Family
from steelyard.model.files.safetensors_file import SafetensorsFile
from steelyard.model.linears.linear import DenseStorage, Linear
from steelyard.model.linears.lora import BRANCH, LowRank, branches, view
from steelyard.model.trunk import Trunk

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ALTERS = {
    "use_dora": False,
    "use_qalora": False,
    "use_bdlora": None,
    "lora_bias": False,
    "bias": "none",
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "velora_config": None,
    "kasa_config": None,
}
"""Settings that change what an adapter computes, with the value under which they do not."""


@dataclass(frozen=True)
class Map:
    """A public linear map: its path in the public class, and our linears that are its rows."""

    theirs: str
    entry: Entry
    ours: tuple[str, ...]


def maps(family: Family, trunk: Trunk) -> list[Map]:
    """Every public map that stands for linears of ours."""
    out = []
    for entry in family.entries(trunk.plan):
        ours = tuple(name.removesuffix(".weight") for name in entry.ours)
        linear = all(name.endswith(".weight") and _is_linear(trunk, path) for name, path in zip(entry.ours, ours, strict=True))
        if linear and entry.theirs.endswith(".weight"):
            out.append(Map(_public(family, entry), entry, ours))
    return out


def _public(family: Family, entry: Entry) -> str:
    """A map's path in the public class. Names of entries leave out a prefix that some files leave out too; the class has it."""
    inside = family.prefixes[0] if family.prefixes and entry.ours[0].startswith("blocks.") else ""
    return inside + entry.theirs.removesuffix(".weight")


def _is_linear(trunk: Trunk, path: str) -> bool:
    return isinstance(trunk.get_submodule(path), Linear)


def save_adapter(family: Family, trunk: Trunk, directory: Path, base: str) -> None:
    """Writes the trunk's low-rank branches.

    Args:
        family: names the maps.
        trunk: with branches.
        directory: receives the two files; each is written atomically.
        base: what the adapter stands on, as `base_model_name_or_path`.
    """
    held = branches(trunk)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for public in maps(family, trunk):
        present = [(index, held[path][1]) for index, path in enumerate(public.ours) if path in held]
        if not present:
            continue
        a, b = _joined(public, present, trunk)
        tensors[f"{PREFIX}{public.theirs}.lora_A.weight"], tensors[f"{PREFIX}{public.theirs}.lora_B.weight"] = a, b
        ranks[public.theirs] = a.shape[0]
        alphas[public.theirs] = present[0][1].scale * a.shape[0]  # so that alpha / rank is the scale of every part
    if len(ranks) == 0:
        raise UnsupportedError("the model has no adapter to save", do="Train one with `merge: false`.")
    rank, alpha = max(set(ranks.values()), key=list(ranks.values()).count), max(set(alphas.values()), key=list(alphas.values()).count)
    first = next(iter(held.values()))[1]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": first.dropout,
        "target_modules": _targets(list(ranks), [public.theirs for public in maps(family, trunk)]),
        "bias": "none",
        "fan_in_fan_out": any(public.entry.transposed for public in maps(family, trunk) if public.theirs in ranks),
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: _whole(value) for name, value in alphas.items() if value != alpha},
        "use_rslora": False,
        "use_dora": False,
    }
    with atomic(directory / WEIGHTS, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_json(directory / CONFIG, config)


def _joined(public: Map, present: list[tuple[int, LowRank]], trunk: Trunk) -> tuple[Tensor, Tensor]:
    """A and B of a public map. Parts of a fused map keep their own A: they are stacked, and B holds a block for each."""
    if public.entry.rows is None:
        branch = present[0][1]
        return branch.a.detach().float().cpu().clone(), branch.b.detach().float().cpu().clone()
    if len({branch.scale for _, branch in present}) > 1:
        raise UnsupportedError(f"parts of `{public.theirs}` have different scales", do="Merge the adapter instead.")
    rows = public.entry.rows()
    b = torch.zeros(sum(len(index) for index in rows), sum(branch.rank for _, branch in present))
    start = 0
    for index, branch in present:
        b[rows[index], start : start + branch.rank] = branch.b.detach().float().cpu()
        start += branch.rank
    return torch.cat([branch.a.detach().float().cpu() for _, branch in present]), b


def _targets(adapted: list[str], known: list[str]) -> list[str]:
    """Short names where they mean exactly the adapted maps, else whole paths."""
    short = sorted({name.rpartition(".")[2] for name in adapted})
    meant = [name for name in known if name.rpartition(".")[2] in short]
    return short if len(meant) == len(adapted) else adapted


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def read_config(directory: Path) -> dict[str, Any]:
    """An adapter's config, refused where it asks for more than low-rank branches.

    Raises:
        ModelFileError: not peft's LoRA, or damaged.
        UnsupportedError: a variant that computes something else.
    """
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"cannot be read: {error}", where=str(path), do="Save the adapter again.") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ModelFileError(
            f"the adapter is of type {kind!r}", where=str(path), do="Only LoRA adapters are read; merge others where they were made."
        )
    for key, plain in ALTERS.items():
        if config.get(key, plain) not in (plain, None, [], {}, False):
            raise UnsupportedError(
                f"the adapter uses `{key}` ({config[key]!r:.60})",
                where=str(path),
                do="Merge it where it was made, and load the merged model.",
            )
    return config


def load_adapter(family: Family, trunk: Trunk, directory: Path) -> Trunk:
    """A view of the trunk with the adapter's branches; the trunk given stays as it is.

    Raises:
        ModelFileError: files that are damaged or do not fit the model.
    """
    config = read_config(directory)
    with SafetensorsFile(directory / WEIGHTS) as file:
        tensors = {_short(name): file.read(name).float() for name in file.names()}
    out = view(trunk)
    for public in maps(family, trunk):
        names = [f"{_without(family, public.theirs)}.lora_{part}.weight" for part in "AB"]
        a, b = (tensors.pop(_found(tensors, family, name), None) for name in names)
        if a is None and b is None:
            continue
        where = f"{directory / WEIGHTS}: {public.theirs}"
        if a is None or b is None:
            raise ModelFileError("only one of lora_A and lora_B is there", where=where, do="Save the adapter again.")
        _attach(out, public, a, b, _scale(config, public.theirs, a.shape[0], where), float(config.get("lora_dropout") or 0.0), where)
    if tensors:
        raise ModelFileError(
            f"{len(tensors)} tensors fit nothing in the model, among them `{next(iter(tensors))[:120]}`",
            where=str(directory / WEIGHTS),
            do=f"The adapter is for another model: its base is {config.get('base_model_name_or_path')!r}.",
        )
    if not branches(out):
        raise ModelFileError("the adapter holds nothing", where=str(directory / WEIGHTS), do="Save the adapter again.")
    return out


def _attach(trunk: Trunk, public: Map, a: Tensor, b: Tensor, scale: float, dropout: float, where: str) -> None:
    linears: list[Any] = [trunk.get_submodule(path) for path in public.ours]
    outputs, inputs = sum(linear.outputs for linear in linears), linears[0].inputs
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != inputs or b.shape[0] != outputs or a.shape[0] != b.shape[1] or a.shape[0] == 0:
        shapes = f"lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)}"
        raise ModelFileError(f"{shapes} do not fit a map from {inputs} to {outputs}", where=where, do="The adapter is for another model.")
    if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
        raise ModelFileError("the adapter holds values that are not numbers", where=where, do="Train it again with a lower learning rate.")
    parts = [b] if public.entry.rows is None else [b.index_select(0, rows) for rows in public.entry.rows()]
    for path, linear, rows in zip(public.ours, linears, parts, strict=True):
        put(trunk, path, LowRank(inputs, linear.outputs, a.shape[0], scale * a.shape[0], dropout))
        branch = linear.branches[BRANCH]
        branch.a, branch.b = nn.Parameter(a.clone()), nn.Parameter(rows.clone())


def put(trunk: Trunk, path: str, branch: LowRank) -> None:
    """Sets a branch on the linear at `path`.

    Raises:
        UnsupportedError: the linear has one already, or its weights are packed or shared.
    """
    linear: Any = trunk.get_submodule(path)
    if BRANCH in linear.branches:
        raise UnsupportedError(f"`{path}` has an adapter already", do="Merge it first (`merge: true`).")
    if not isinstance(linear.storage, DenseStorage):
        raise UnsupportedError(f"the weights of `{path}` are packed ({linear.storage.kind})", do="Adapt the model before it is quantized.")
    if linear.storage.weight is trunk.inputs.weight:
        raise UnsupportedError(f"`{path}` shares its weights with the token table", do="Adapt other maps.")
    linear.branches[BRANCH] = branch


def _short(name: str) -> str:
    """A tensor's name without peft's own prefix and adapter name."""
    return re.sub(r"\.lora_(A|B)\.default\.weight$", r".lora_\1.weight", name.removeprefix(PREFIX))


def _without(family: Family, name: str) -> str:
    for prefix in family.prefixes:
        name = name.removeprefix(prefix)
    return name


def _found(tensors: Mapping[str, Tensor], family: Family, name: str) -> str:
    return next((key for key in tensors if _without(family, key) == name), name)


def _scale(config: Mapping[str, Any], module: str, rank: int, where: str) -> float:
    """alpha / rank as peft finds it: the first pattern that matches, else the default."""
    alpha = config.get("lora_alpha", 8)
    pattern = config.get("alpha_pattern") or {}
    for key, value in pattern.items() if isinstance(pattern, Mapping) else ():
        if _matches(key, module, where):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelFileError(f"`lora_alpha` is {alpha!r}", where=where, do="It must be a number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matches(key: str, module: str, where: str) -> bool:
    """Whether a pattern's key means a module. Keys are paths; those that are regular expressions are not run (they may hang)."""
    if re.fullmatch(r"[\w.]+", key) is None:
        raise UnsupportedError(f"the pattern {key!r:.80} is a regular expression", where=where, do="Write module names into the pattern.")
    return module == key or module.endswith("." + key)
