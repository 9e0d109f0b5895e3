"""A model: trunk, tokenizer, chat template and config, as one thing that can be asked, rendered for and saved."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import Message
from steelyard.model.families.family import Family
from steelyard.model.step import Step
from steelyard.model.trunk import Trunk

if TYPE_CHECKING:
    from steelyard.model.template import ChatTemplate
    from steelyard.model.tokenizer import Tokenizer


@dataclass(eq=False)
class Model:
    """Weights + tokenizer + chat template + config.

    Attributes:
        trunk: the network.
        family: how its tensors are called in public.
        config: config.json's content.
        tokenizer: text to ids and back.
        template: conversations to text, or None for models without one.
        name: what a person calls it.
        record: `steelyard.json`'s content: parents, recipe, measurements.
    """

    trunk: Trunk
    family: Family
    config: Mapping[str, Any]
    tokenizer: Tokenizer | None = None
    template: ChatTemplate | None = None
    name: str = "model"
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def context_length(self) -> int:
        """Most tokens a text may have."""
        return self.trunk.plan.context

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of every weight's bytes, the plan, tokenizer and template. Computed once: a changed model is a new Model."""
        hasher = hashlib.sha256()
        for name, tensor in sorted(self.trunk.state_dict().items()):
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.detach().cpu().contiguous().view(torch.uint8).reshape(-1).numpy())
        template = self.template.source if self.template else None
        tokenizer = self.tokenizer.fingerprint if self.tokenizer else None
        return digest([hasher.hexdigest(), repr(self.trunk.plan), tokenizer, template])

    def logits(self, ids: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """Logits of every next token.

        Args:
            ids: int64 [batch, time].

        Returns:
            float32 [batch, time, vocabulary].

        Raises:
            ContextLengthError: more tokens than the context.
        """
        if "lm" not in self.trunk.heads:
            raise UnsupportedError(f"{self.name} is an encoder and has no language-model head", do="Use .embed(texts).")
        ids = torch.as_tensor(ids, dtype=torch.int64, device=self.trunk.device)
        if ids.dim() != 2 or ids.numel() == 0:
            raise SteelyardError(f"ids of shape {tuple(ids.shape)}", do="Give int64 [batch, time] with at least one token.")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.trunk.plan.inputs.vocabulary:
            raise SteelyardError(f"token ids from {low} to {high}, but the vocabulary has {self.trunk.plan.inputs.vocabulary}")
        self.check_length(ids.shape[1])
        with torch.inference_mode():
            return self.trunk.logits(ids)

    def embed(self, texts: Sequence[str], batch: int = 32) -> Tensor:
        """Unit vectors float32 [n, width] of texts, for encoders (MiniLM). A text longer than the context is refused."""
        if "pool" not in self.trunk.heads or self.tokenizer is None:
            raise UnsupportedError(f"{self.name} has no pooling head", do="Use an encoder such as all-minilm-l6-v2.")
        encoded = [self.tokenizer.encode_for_model(text) for text in texts]
        for ids in encoded:
            self.check_length(len(ids))
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(encoded), batch):
                rows = encoded[start : start + batch]
                time = max(len(row) for row in rows)
                ids = torch.tensor([row + [0] * (time - len(row)) for row in rows], device=self.trunk.device)
                step = Step((), (0,) * len(rows), tuple(len(row) for row in rows), time, self.trunk.device)
                vectors.append(self.trunk.heads["pool"](self.trunk(ids, step), step))
        return torch.cat(vectors) if vectors else torch.zeros(0, self.trunk.plan.width)

    def render(self, messages: Sequence[Message | Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any) -> str:
        """A conversation as the text the model was trained to read."""
        if self.template is None:
            raise UnsupportedError(f"{self.name} has no chat template", do="Give plain text, or use an instruction-tuned model.")
        plain = [message.as_dict() if isinstance(message, Message) else dict(message) for message in messages]
        return self.template.render(plain, add_generation_prompt=add_generation_prompt, **variables)

    def check_length(self, tokens: int, more: int = 0) -> None:
        """Refuses what does not fit into the context; nothing is ever cut."""
        if tokens + more > self.context_length:
            wanted = f"{tokens} tokens" + (f" and {more} to generate" if more else "")
            raise ContextLengthError(
                f"{wanted}, but {self.name} reads at most {self.context_length}",
                do="Shorten the text or use a model with a longer context.",
            )

    def with_trunk(self, trunk: Trunk, **changes: Any) -> Model:
        """The same model with another trunk (quantized, trained, cast)."""
        return replace(self, trunk=trunk, **changes)

    def cast(self, dtype: torch.dtype) -> Model:
        """The same model with its matrices in another float type."""
        return self.with_trunk(self.trunk.with_weights(dtype))

    def save(self, directory: str | Path) -> Path:
        """Writes a directory that `transformers` opens wherever it has the class."""
        from steelyard.model.save import save

        return save(self, Path(directory))
