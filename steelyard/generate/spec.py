"""What an engine is built from, as data that decode levers may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from steelyard.core.errors import UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Event
from steelyard.generate.guesses import Draft, Speculation
from steelyard.generate.host import Host, Readout
from steelyard.generate.processor import Processor
from steelyard.generate.sequences import Generation
from steelyard.generate.state_plan import StatePlan
from steelyard.kernels import native
from steelyard.model.linears.blocks import block_types
from steelyard.model.linears.streamed import readers
from steelyard.model.model import Model
from steelyard.model.sites import SiteProgram
from steelyard.model.template import ChatTemplate
from steelyard.model.tokenizer import Tokenizer


@runtime_checkable
class HostedSpeculation(Protocol):
    """Guesses that a model makes, for all sequences of a decoding step together, in batched passes over its host.

    `host` is the companion's name; None: the answering model guesses for itself.
    """

    horizon: int
    host: str | None

    @property
    def fingerprint(self) -> str: ...

    def propose_together(self, host: Host, sequences: Sequence[Generation], rooms: Sequence[int]) -> list[Draft]:
        """Guesses for each sequence (they come in the order of their slots), of at most `rooms` tokens.

        The host's memory of a sequence may lag behind; afterwards a companion may hold the guesses, the answering model may not.
        What a sequence's own code raises (its processors) must fail that sequence alone: `sequences.attempt`.
        """
        ...


class Search(Protocol):
    """Answers each request by several sequences that fork; `width` is how many, each with a slot of its own."""

    @property
    def width(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def check(self, settings: AnswerSettings) -> None:
        """Refuses settings that a search cannot honour."""
        ...

    def request(
        self, prompt: list[int], settings: AnswerSettings, on_event: Callable[[Event], None], tokenizer: Tokenizer, limit: int
    ) -> Generation: ...


@dataclass(frozen=True)
class EngineSpec:
    """Settings of an engine.

    Attributes:
        model: the model that answers.
        threads: CPU threads; None leaves PyTorch's own number.
        dtype: type of the weights in products (`float32`, `bfloat16`); None = the fastest this machine multiplies natively, and
            blocks of a model that was loaded as stored stay what they are.
        kernels: `auto` (the C++ routines where they are installed, else PyTorch's), `pytorch`, or `reference`: the readable path.
        deterministic: the same seed gives the same text whatever else runs.
        slots: sequences that run at once.
        queue: most sequences that wait for a slot before more are refused; None = any number.
        prefix_bytes: room for beginnings of texts beside the slots (`prefixes.py`); 0 = what the slots hold is all.
        context: most tokens of a sequence; None = the model's.
        prefill: tokens read in one piece.
        processors: shape logits before sampling.
        speculation: guesses tokens ahead, or None.
        template: replaces the model's chat template, or None.
        companions: other models a lever needs, by name.
        readouts: change what the model says before processors shape it.
        program: what is done at the trunk's sites in every step, or None.
        search: looks for the likeliest answer instead of drawing one, or None.
        folder: where levers may keep what they fit to the model, or None; it changes no answer.
        states: how keys, values and other states are kept; None = in plain tensors.
        graphs: whether plain decoding steps are recorded and repeated (`model/graphed.py`), which saves the time of launching their
            kernels; None = on a GPU, where model and device can. Never with `deterministic`, whose rows must not depend on their neighbours.
    """

    model: Model
    threads: int | None = None
    dtype: str | None = None
    kernels: Literal["auto", "pytorch", "reference"] = "auto"
    deterministic: bool = False
    slots: int = 8
    queue: int | None = None
    prefix_bytes: int = 0
    context: int | None = None
    prefill: int = 256
    processors: tuple[Processor, ...] = ()
    speculation: Speculation | HostedSpeculation | None = None
    template: ChatTemplate | None = None
    companions: Mapping[str, Model] = field(default_factory=dict)
    readouts: tuple[Readout, ...] = ()
    program: SiteProgram | None = None
    search: Search | None = None
    folder: Path | None = None
    states: StatePlan | None = None
    graphs: bool | None = None

    @property
    def graphed(self) -> bool:
        """Whether decoding steps are to be recorded."""
        if self.graphs is None:
            return self.model.trunk.device.type == "cuda" and not self.deterministic and self.kernels != "reference"
        return self.graphs

    @property
    def weight_type(self) -> torch.dtype:
        """The float type weights are multiplied in."""
        name = self.dtype or ("float32" if self.kernels == "reference" else native_type(self.model.trunk.device))
        types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if name not in types:
            raise UnsupportedError(f"dtype {name!r}", do=f"Known: {', '.join(types)}.")
        return types[name]

    @property
    def cache_type(self) -> torch.dtype:
        """The float type keys and values are rounded to. On a CPU products of bfloat16 weights and of blocks go with bfloat16."""
        if self.model.trunk.device.type != "cpu":
            return self.weight_type
        narrow = self.weight_type == torch.bfloat16 or (not self.dtype and block_types(self.model.trunk))
        return torch.bfloat16 if narrow else torch.float32

    @property
    def numerics(self) -> dict[str, str]:
        """Weights x activations x cache, declared once for prefill, decode, verification and scoring; and what computes them."""
        weights = str(self.weight_type).removeprefix("torch.")
        blocks = [] if self.dtype else block_types(self.model.trunk)
        stream = weights if self.model.trunk.device.type == "cuda" else "float32"
        cache = self.states.numerics if self.states else str(self.cache_type).removeprefix("torch.")
        kernels = self.kernels if self.kernels == "reference" else f"native {self.routines.name}" if self.routines else "pytorch"
        kernels += ", blocks on disk: pytorch" if readers(self.model.trunk) else ""
        kernels += ", graphs" if self.graphed else ""
        kernels += f", {place}" if (place := self.model.trunk.device.type) != "cpu" else ""
        if blocks:
            return {"weights": f"stored in {'+'.join(blocks)}", "activations": "8 bits", "cache": cache, "kernels": kernels}
        return {"weights": weights, "activations": stream, "cache": cache, "kernels": kernels}

    @property
    def routines(self) -> native.Routines | None:
        """The C++ routines this engine computes with, or None where it does without."""
        here = self.kernels == "auto" and self.model.trunk.device.type == "cpu" and self.weight_type in (torch.float32, torch.bfloat16)
        return native.routines() if here else None

    @property
    def fingerprint(self) -> str:
        """Digest of all that can change an answer."""
        template = (self.template or self.model.template) and (self.template or self.model.template).source  # type: ignore[union-attr]
        companions = {name: model.fingerprint for name, model in self.companions.items()}
        processors = [processor.fingerprint for processor in self.processors]
        speculation = self.speculation.fingerprint if self.speculation else None
        inside: list[Any] = [[readout.fingerprint for readout in self.readouts], self.program and self.program.fingerprint]
        inside += [self.search.fingerprint] if self.search else []
        parts = [self.model.fingerprint, self.numerics, self.deterministic, template, processors, speculation, companions]
        return digest([*parts, *(inside if any(inside) else []), *([self.states.fingerprint] if self.states else []), torch.__version__])


def native_type(device: torch.device) -> str:
    """bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        return "bfloat16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"
