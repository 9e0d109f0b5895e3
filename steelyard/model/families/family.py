"""What a public model family is to us: a plan from its config, and where each of its tensors stands in our trunk.

Their tensors and ours differ only by name, by a transpose, and by the order of rows (fused maps are rows of several of
ours; some formats permute the rows of queries and keys). So one list of entries serves loading and saving, weights,
biases and the per-row scales of packed weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steelyard.core.errors import ModelFileError
from steelyard.model.families.config import Config
from steelyard.model.families.gguf import Description
from steelyard.model.trunk import TrunkPlan


@dataclass(frozen=True)
class Entry:
    """One of their tensors.

    Attributes:
        theirs: its name in the file.
        ours: the parameters it holds (`blocks.0.mixer.query.weight`), one or, where maps are fused, several.
        rows: for each of ours, which of their rows it takes (after the transpose), int64; None = all, in order.
        transposed: theirs is [in, out].
        optional: files may leave it out.
        shift: what the file adds to ours (GGUF stores Gemma's norms as weight + 1).
        repeated: files may hold it though ours stands elsewhere already (a tied head): it must be the same, and is never written.
    """

    theirs: str
    ours: tuple[str, ...]
    rows: Callable[[], Sequence[Tensor]] | None = None
    transposed: bool = False
    optional: bool = False
    shift: float = 0.0
    repeated: bool = False

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Their tensor -> ours."""
        if self.transposed and tensor.dim() == 2:
            tensor = tensor.t().contiguous()
        if self.shift:
            tensor = tensor - self.shift
        if self.rows is None:
            return [tensor]
        return [tensor.index_select(0, index) for index in self.rows()]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Ours -> their tensor."""
        if self.rows is None:
            (tensor,) = tensors
        else:
            indexes = self.rows()
            tensor = tensors[0].new_empty(sum(len(index) for index in indexes), *tensors[0].shape[1:])
            for index, part in zip(indexes, tensors, strict=True):
                tensor[index] = part
        if self.shift:
            tensor = tensor + self.shift
        if self.transposed and tensor.dim() == 2:
            tensor = tensor.t()
        return tensor.contiguous()


@dataclass(frozen=True)
class Family:
    """A public family.

    Attributes:
        name: `model_type` in config.json.
        architecture: the class `transformers` opens it with.
        plan: config -> trunk plan.
        entries: trunk plan -> tensors of a Hugging Face directory.
        prefixes: written before every name by some checkpoints and left out by others (`transformer.`).
        ignored: patterns of tensors that are no weights of ours (buffers, heads we do not use).
        aliases: other names some versions give a tensor -> the name in `entries`.
        gguf: the architecture's name in GGUF files; None where the family has no GGUF form here.
        gguf_config: what such a file says -> config.json's values.
        gguf_entries: trunk plan -> tensors of such a file.
        gguf_ignored: patterns of its tensors that are settings, read by `gguf_config`.
        describe: what config.json would say of a trunk made here, so that other tools open it; None where the family cannot be
            said of it. It may say so of too many: `families.steelyard.public` reads every description back.
    """

    name: str
    architecture: str
    plan: Callable[[Config], TrunkPlan]
    entries: Callable[[TrunkPlan], list[Entry]]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    gguf: str | None = None
    gguf_config: Callable[[Description], dict[str, Any]] | None = None
    gguf_entries: Callable[[TrunkPlan], list[Entry]] | None = None
    gguf_ignored: tuple[str, ...] = ()
    describe: Callable[[TrunkPlan], dict[str, Any] | None] | None = None


# model_type -> the file that knows it. A file is imported when its family is met.
FILES = {
    "llama": "llama",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "bert": "bert",
    "bitnet": "bitnet",
    "mamba": "mamba",
    "falcon_mamba": "mamba",
    "mamba2": "mamba2",
    "recurrent_gemma": "recurrent_gemma",
    "rwkv": "rwkv",
    "steelyard": "steelyard",
}

GGUF_FILES = {
    "llama": "llama",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "bert": "bert",
}
"""GGUF architecture -> the file that knows it."""


def find(model_type: Any, where: str) -> Family:
    """The family of a config's `model_type`.

    Raises:
        ModelFileError: when nobody here knows it.
    """
    if not isinstance(model_type, str) or model_type not in FILES:
        raise ModelFileError(f"unknown model_type {model_type!r}", where=where, do=f"Known: {', '.join(sorted(FILES))}.")
    return _load(FILES[model_type], model_type)


def find_gguf(architecture: Any, where: str) -> Family:
    """The family of a GGUF file's `general.architecture`."""
    if not isinstance(architecture, str) or architecture not in GGUF_FILES:
        raise ModelFileError(f"unknown GGUF architecture {architecture!r}", where=where, do=f"Known: {', '.join(sorted(GGUF_FILES))}.")
    module = importlib.import_module(f"steelyard.model.families.{GGUF_FILES[architecture]}")
    return next(family for family in module.FAMILIES if family.gguf == architecture)


def _load(file: str, model_type: str) -> Family:
    module = importlib.import_module(f"steelyard.model.families.{file}")
    return next(family for family in module.FAMILIES if family.name == model_type)
