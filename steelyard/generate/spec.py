"""What an engine is built from, as data that decode levers may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from steelyard.core.errors import UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.generate.processors.processor import Processor
from steelyard.kernels import native
from steelyard.model.linears.blocks import block_types
from steelyard.model.model import Model
from steelyard.model.sites import SiteProgram
from steelyard.model.state import Storage
from steelyard.model.template import ChatTemplate

if TYPE_CHECKING:
    from steelyard.generate.host import Passage


class SpeculationSession(Protocol):
    """Guesses for one sequence."""

    def propose(self, most: int) -> list[int]:
        """At most `most` tokens that may come next."""
        ...

    def advance(self, tokens: list[int]) -> None:
        """These tokens have really come."""
        ...


class Speculation(Protocol):
    """Makes guesses that the engine verifies in one pass. `horizon` is the longest guess."""

    horizon: int

    @property
    def fingerprint(self) -> str: ...

    def start(self, tokens: list[int]) -> SpeculationSession: ...


class Readout(Protocol):
    """Changes what the model itself says, before any processor, in answers and in scores alike.

    `sites` are places of the answering model that it reads (`model/sites.py`), `beside` companions that read the same tokens.
    """

    sites: frozenset[str]
    beside: frozenset[str]

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, logits: Tensor, passage: Passage) -> Tensor:
        """float32 [n, vocabulary] -> the same shape; row by row, and not in place."""
        ...


class StatePlan(Protocol):
    """How an engine keeps what its models remember, where not in plain tensors. `numerics` says so in a few words."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def numerics(self) -> str: ...

    def storage(self, dtype: torch.dtype, device: torch.device, horizon: int) -> Storage:
        """Storage from which every part's memory is made; `horizon` tokens one must be able to go back."""
        ...


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
        context: most tokens of a sequence; None = the model's.
        prefill: tokens read in one piece.
        processors: shape logits before sampling.
        speculation: guesses tokens ahead, or None.
        template: replaces the model's chat template, or None.
        companions: other models a lever needs, by name.
        readouts: change what the model says before processors shape it.
        program: what is done at the trunk's sites in every step, or None.
        states: how keys, values and other states are kept; None = in plain tensors.
    """

    model: Model
    threads: int | None = None
    dtype: str | None = None
    kernels: Literal["auto", "pytorch", "reference"] = "auto"
    deterministic: bool = False
    slots: int = 8
    context: int | None = None
    prefill: int = 256
    processors: tuple[Processor, ...] = ()
    speculation: Speculation | None = None
    template: ChatTemplate | None = None
    companions: Mapping[str, Model] = field(default_factory=dict)
    readouts: tuple[Readout, ...] = ()
    program: SiteProgram | None = None
    states: StatePlan | None = None

    @property
    def weight_type(self) -> torch.dtype:
        """The float type weights are multiplied in."""
        name = self.dtype or ("float32" if self.kernels == "reference" else native_type(self.model.trunk.device))
        types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if name not in types:
            raise UnsupportedError(f"dtype {name!r}", do=f"Known: {', '.join(types)}.")
        return types[name]

    @property
    def numerics(self) -> dict[str, str]:
        """Weights x activations x cache, declared once for prefill, decode, verification and scoring; and what computes them."""
        weights = str(self.weight_type).removeprefix("torch.")
        blocks = [] if self.dtype else block_types(self.model.trunk)
        stream = weights if self.model.trunk.device.type == "cuda" else "float32"
        cache = self.states.numerics if self.states else stream
        kernels = self.kernels if self.kernels == "reference" else f"native {self.routines.name}" if self.routines else "pytorch"
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
        inside = [[readout.fingerprint for readout in self.readouts], self.program and self.program.fingerprint]
        parts = [self.model.fingerprint, self.numerics, self.deterministic, template, processors, speculation, companions]
        return digest([*parts, *(inside if any(inside) else []), *([self.states.fingerprint] if self.states else []), torch.__version__])


def native_type(device: torch.device) -> str:
    """bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        return "bfloat16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"
