"""A decoder before it has weights: what `new:` in a recipe says, and the levers that shape it.

new: {mixer: {mamba: {state: 16}}, width: 256, depth: 6}      every block the same
new: {mixer: [attention, mamba, mamba], depth: 6}             layer by layer; the list repeats until the depth is reached

A part of a decoder (a mixer, a channel, a way to stack blocks, ...) is a `PartLever`: its settings are what a person chooses, `plan`
turns them into the exact plan that a trunk is built from. Parts of other packages are found like all levers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, runtime_checkable

import pydantic
import torch
from pydantic import Field

from steelyard.core import levers as registry
from steelyard.core.errors import RecipeError, SteelyardError, nearest
from steelyard.core.levers import Lever
from steelyard.core.numbers import Numbers
from steelyard.model.depth.stacked import BlockPlan
from steelyard.model.norms import NormPlan
from steelyard.model.parts import PartLever
from steelyard.model.trunk import Trunk, TrunkPlan

DEFAULTS: Mapping[str, str] = {"mixer": "attention", "channel": "gated", "stack": "stacked", "inputs": "tokens", "head": "lm"}
"""The part a plan has where it names none."""

NONE = "none"

END = "<|endoftext|>"
"""The special token that every trained tokenizer has."""
UNKNOWN = "<unk>"
"""The token for what a tokenizer does not know: those of bytes have none, whatever is asked for."""
VOCABULARY = 4096
"""Tokens that a new tokenizer learns, unless told otherwise."""


class TokenizerSettings(Numbers):
    """The tokenizer of a new model: trained on a corpus, or another model's."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bpe", "unigram", "characters", "bytes"] = Field("bpe", description="how text is cut")
    vocabulary: int | None = Field(None, ge=2, le=2**24, description="tokens, of bpe and unigram; unset: 4096")
    data: str | None = Field(None, description="what it is trained on; bytes need none")
    column: str = Field("text", description="what the texts are called in rows of JSONL, Parquet and data sets")
    bad_files: Literal["stop", "skip"] = Field("stop", description="what becomes of files that cannot be read")
    special: tuple[str, ...] = Field((), description="special tokens besides the end of text")
    model: str | None = Field(None, description="take this model's tokenizer instead")

    @property
    def least_size(self) -> int | None:
        """Tokens it will have, special ones among them, where that is known before it is learned."""
        if self.model is not None or self.kind == "characters":
            return None
        return 256 + len({END, *self.special} - {UNKNOWN}) if self.kind == "bytes" else self.vocabulary or VOCABULARY

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.model is not None and (
            self.vocabulary or self.data or self.special or {"kind", "column", "bad_files"} & self.model_fields_set
        ):
            raise ValueError("`model` names a tokenizer that is there; leave the other keys out")
        if self.kind == "bytes" and self.data is not None:
            raise ValueError("a tokenizer of kind bytes learns nothing: leave `data` out, or name another kind")
        if wrong := [name for name in self.special if not name.strip() or name != name.strip()]:
            raise ValueError(f"special tokens must be words of their own, not {wrong[0]!r:.40}")
        if len({END, *self.special}) <= len(self.special):
            raise ValueError(f"special tokens must differ from each other and from {END}: {list(self.special)!r:.80}")
        if self.model is None and self.kind != "bytes" and self.data is None:
            raise ValueError(f"a tokenizer of kind {self.kind} is trained: name its `data`")
        if self.vocabulary is not None and self.kind in ("bytes", "characters"):
            raise ValueError(f"the tokens of kind {self.kind} follow by themselves: leave `vocabulary` out")
        least = 256 + len({END, *self.special})
        if self.vocabulary is not None and self.vocabulary <= least:
            raise ValueError(f"256 bytes and the special tokens are {least} already: ask for a `vocabulary` above that, or for kind bytes")
        return self


class DecoderPlan(Numbers):
    """What a new decoder is to be."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    width: int = Field(128, ge=1, le=2**17, description="of the residual stream")
    depth: int = Field(4, ge=1, le=1024, description="blocks")
    context: int = Field(256, ge=1, le=2**24, description="most tokens of a text")
    mixer: tuple[PartLever, ...] = Field((), description="mixes tokens; a list repeats over the layers", validate_default=True)
    channel: tuple[PartLever | None, ...] | None = Field(
        None, description="transforms each token; `none` leaves it out; unset: gated, none where the mixer stands alone"
    )
    stack: PartLever = Field("stacked", description="how blocks follow each other", validate_default=True)  # type: ignore[assignment]
    inputs: PartLever = Field("tokens", description="ids to vectors", validate_default=True)  # type: ignore[assignment]
    head: PartLever = Field("lm", description="vectors to predictions", validate_default=True)  # type: ignore[assignment]
    linears: PartLever | None = Field(None, description="how the maps inside blocks keep their weights; unset: floats")
    norm: Literal["rms", "layer"] = Field("rms", description="normalisation")
    tied: bool = Field(True, description="the head shares the token table")
    initial: float = Field(0.02, gt=0, le=1, description="standard deviation of new weights")
    vocabulary: int | None = Field(None, ge=1, le=2**24, description="rows of the token table; unset: the tokenizer's")
    tokenizer: TokenizerSettings = Field(
        TokenizerSettings.model_validate({"kind": "bytes"}), description="a kind with its data, or a model's"
    )

    @pydantic.field_validator("mixer", "channel", mode="before")
    @classmethod
    def _parts(cls, value: Any, info: pydantic.ValidationInfo) -> tuple[PartLever | None, ...] | None:
        place = str(info.field_name)
        if place == "channel" and value is None:
            return None
        entries = value if isinstance(value, list | tuple) else [value]
        return tuple(
            None if entry in (NONE, None) and place == "channel" else part_of(entry, place) for entry in entries or [DEFAULTS[place]]
        )

    @pydantic.field_validator("stack", "inputs", "head", "linears", mode="before")
    @classmethod
    def _part(cls, value: Any, info: pydantic.ValidationInfo) -> PartLever | None:
        return None if value is None else part_of(value, str(info.field_name))

    def with_part(self, part: PartLever) -> Self:
        """The plan with one part replaced, in every block."""
        return self.model_copy(update={part.place: (part,) if part.place in ("mixer", "channel") else part})

    def mixer_of(self, layer: int) -> PartLever:
        return self.mixer[layer % len(self.mixer)]

    def channel_of(self, layer: int) -> PartLever | None:
        if self.channel is None:
            return None if self.mixer_of(layer).alone else part_of(DEFAULTS["channel"], "channel")
        return self.channel[layer % len(self.channel)]

    @property
    def norm_plan(self) -> NormPlan:
        return NormPlan(self.norm, 1e-5, bias=self.norm == "layer")

    def block(self, layer: int) -> BlockPlan:
        """The exact plan of one block."""
        channel = self.channel_of(layer)
        return BlockPlan(self.mixer_of(layer).plan(self, layer), channel.plan(self, layer) if channel else None, before=self.norm_plan)

    def trunk(self, vocabulary: int, *, both_ways: bool = False) -> TrunkPlan:
        """The exact plan of the whole.

        Args:
            vocabulary: the tokenizer's tokens.
            both_ways: it is to be an encoder, whose mixers may see later tokens.

        Raises:
            RecipeError: parts that do not fit each other or the sizes.
        """
        if self.vocabulary is not None and self.vocabulary < vocabulary:
            raise RecipeError(
                f"`vocabulary` is {self.vocabulary}, but the tokenizer has {vocabulary} tokens", do="Raise it, or leave it out."
            )
        if not both_ways and (seeing := next((part.name for part in self.mixer if not part.causal), None)):
            raise RecipeError(
                f"`{seeing}` mixes every token with later ones, so what it predicted it would have seen: a decoder cannot use it",
                do=f"Use `performer`, `linear_attention` or `sparse_attention`; `{seeing}` is for the encoder of an encoder-decoder.",
            )
        for place, listed in (("mixer", self.mixer), ("channel", self.channel or ())):
            if len(listed) > self.depth:
                raise RecipeError(
                    f"`{place}` lists {len(listed)} parts for {self.depth} blocks, so the last would be in none",
                    do=f"Raise `depth` to {len(listed)}, or shorten the list; a shorter one repeats.",
                )
        sized = self.model_copy(update={"vocabulary": self.vocabulary or vocabulary})
        trunk = TrunkPlan(
            self.width,
            sized.inputs.plan(sized, 0),
            sized.stack.plan(sized, 0),
            {"lm": sized.head.plan(sized, 0)},
            self.norm_plan,
            self.context,
            sized.linears.plan(sized, 0) if sized.linears else None,
        )
        return sized.inputs.around(sized, trunk) if isinstance(sized.inputs, Joining) else trunk

    def check(self) -> Trunk:
        """The whole, built without memory, so that what does not fit is told before anything is spent.

        Raises:
            RecipeError: see `trunk`.
        """
        with torch.device("meta"):
            return self.trunk(self.tokenizer.least_size or min(self.vocabulary or 512, 512)).build()

    def written(self) -> dict[str, Any]:
        """The plan as a recipe would say it, every default filled in."""
        out: dict[str, Any] = {}
        for key in type(self).model_fields:
            value = getattr(self, key)
            if isinstance(value, tuple):
                out[key] = [NONE if part is None else {part.name: part.settings} for part in value]
            elif isinstance(value, PartLever):
                out[key] = {value.name: value.settings}
            elif isinstance(value, TokenizerSettings):
                out[key] = value.model_dump(mode="json", exclude_defaults=True) or {"kind": "bpe"}
            elif value is not None:
                out[key] = value
        return out


@runtime_checkable
class Joining(Protocol):
    """Inputs that take tokens together before the blocks see them."""

    def around(self, decoder: DecoderPlan, trunk: TrunkPlan) -> TrunkPlan:
        """The plan of the whole, changed to that end."""
        ...


def part_of(entry: Any, place: str) -> PartLever:
    """The part a recipe's entry stands for.

    Raises:
        ValueError: there is no such part, or it belongs elsewhere; pydantic names the key.
    """
    if isinstance(entry, PartLever):
        part: Lever = entry
    else:
        name = next(iter(entry)) if isinstance(entry, Mapping) and len(entry) == 1 else entry
        if isinstance(name, str) and name not in registry.names():
            raise ValueError(f"no {place} is called `{name:.60}`. {nearest(name, known(place))}")
        try:
            part = registry.parse(entry)
        except SteelyardError as error:
            raise ValueError(f"{error.what}. {error.do or ''}".strip()) from None
    if not isinstance(part, PartLever) or part.place != place:
        raise ValueError(f"`{part.name}` is no {place}. Known: {', '.join(known(place))}.")
    return part


def known(place: str) -> list[str]:
    """The names of all parts for a place."""
    return sorted(name for name, kind in registry.all_levers().items() if issubclass(kind, PartLever) and kind.place == place)


def initialize(trunk: Trunk, plan: DecoderPlan, seed: int) -> Trunk:
    """Draws a new trunk's matrices: normal with the plan's deviation, smaller by sqrt(2 depth) where a part writes into the residual
    stream (GPT-2, section 2.3), and what parts say of themselves (`reset(generator)`).

    The same seed gives the same weights whatever else is drawn in the process.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    residual = ("output", "down")
    own: set[int] = set()
    with torch.no_grad():
        for module in trunk.modules():
            if hasattr(module, "reset"):
                own |= {id(parameter) for parameter in module.reset(generator) or ()}  # type: ignore[operator]
        for name, parameter in trunk.named_parameters():
            if parameter.dim() >= 2 and id(parameter) not in own:
                small = any(f".{last}." in name for last in residual)
                deviation = plan.initial / (2 * plan.depth) ** 0.5 if small else plan.initial
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    return trunk
