"""An encoder-decoder before it has weights: what `new:` in a recipe says where its `kind` is `encoder_decoder`.

new: {kind: encoder_decoder, width: 64, depth: 2, mixer: lstm}                                    both trunks alike
new: {kind: encoder_decoder, width: 64, encoder: {depth: 4}, decoder: {depth: 2}, cross: {heads: 4}}

What is said beside `encoder` and `decoder` holds for both. Both read and write one tokenizer's tokens, and a text's border is its end
of text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic
import torch
from pydantic import Field

from steelyard.core.errors import RecipeError
from steelyard.model.encoder_decoder import EncoderDecoder, EncoderDecoderPlan, two_trunks
from steelyard.model.inputs.tokens import TokensLever
from steelyard.model.mixers.cross_attention import CrossAttentionLever
from steelyard.model.new import DecoderPlan, TokenizerSettings
from steelyard.model.parts import PartLever

KIND = "encoder_decoder"
OWN = ("kind", "encoder", "decoder", "cross", "tokenizer")
SHARED = tuple(key for key in DecoderPlan.model_fields if key not in ("tokenizer", "vocabulary", "stack", "head", "linears"))
"""What may be said of both trunks at once, or of one."""


class NewEncoderDecoder(pydantic.BaseModel):
    """What a new encoder-decoder is to be."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    kind: Literal["encoder_decoder"] = Field(KIND, description="that it is one")
    encoder: DecoderPlan = Field(description="the trunk that reads; its attention sees the whole source")
    decoder: DecoderPlan = Field(description="the trunk that writes; cross-attention follows each of its mixers")
    cross: CrossAttentionLever = Field(CrossAttentionLever(), description="how the decoder looks at the source")  # type: ignore[call-arg]
    tokenizer: TokenizerSettings = Field(
        TokenizerSettings.model_validate({"kind": "bytes"}), description="of both: a kind with its data, or a model's"
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _for_both(cls, value: Any) -> Any:
        """What is said beside `encoder` and `decoder` put into both."""
        if not isinstance(value, Mapping):
            return value
        both = {key: item for key, item in value.items() if key in SHARED}
        out = {key: item for key, item in value.items() if key not in SHARED}
        for side in ("encoder", "decoder"):
            own = out.get(side) or {}
            if isinstance(own, Mapping):
                if wrong := [key for key in own if key not in SHARED]:
                    raise ValueError(f"`{side}` has no key `{wrong[0]:.60}`; it may say {', '.join(SHARED)}")
                out[side] = both | dict(own)
        return out

    @pydantic.model_validator(mode="after")
    def _plain(self) -> NewEncoderDecoder:
        for side in (self.encoder, self.decoder):
            if not isinstance(side.inputs, TokensLever):
                raise ValueError(f"`inputs` is {side.inputs.name}, but an encoder-decoder reads tokens one by one")
        return self

    def with_part(self, part: PartLever) -> NewEncoderDecoder:
        """The plan with one part replaced in both trunks; cross-attention in its own place."""
        if isinstance(part, CrossAttentionLever):
            return self.model_copy(update={"cross": part})
        if part.place not in SHARED:
            raise RecipeError(f"`{part.name}` is a {part.place}, which an encoder-decoder does not take", do="Leave it out.")
        return self.model_copy(update={side: getattr(self, side).with_part(part) for side in ("encoder", "decoder")})

    def plan(self, vocabulary: int, border: int) -> EncoderDecoderPlan:
        """The exact plan of the whole.

        Args:
            vocabulary: the tokenizer's tokens.
            border: the token around targets.

        Raises:
            RecipeError: parts that do not fit each other or the sizes.
        """
        return two_trunks(self.encoder, self.decoder, self.cross, (vocabulary, vocabulary), border)

    def check(self) -> EncoderDecoder:
        """The whole, built without memory, so that what does not fit is told before anything is spent.

        Raises:
            RecipeError: see `plan`.
        """
        with torch.device("meta"):
            return self.plan(512, 0).build()

    def written(self) -> dict[str, Any]:
        """The plan as a recipe would say it, every default filled in."""
        sides = {
            side: {key: item for key, item in getattr(self, side).written().items() if key in SHARED} for side in ("encoder", "decoder")
        }
        tokenizer = self.tokenizer.model_dump(mode="json", exclude_defaults=True) or {"kind": "bpe"}
        return {"kind": KIND, **sides, "cross": self.cross.settings, "tokenizer": tokenizer}
