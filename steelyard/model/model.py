"""A model: trunk, tokenizer, chat template and config, as one thing that can be asked, rendered for and saved."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import Message
from steelyard.model.families.family import Family
from steelyard.model.linears.blocks import BlockStorage
from steelyard.model.linears.native import NativeStorage
from steelyard.model.linears.packed import PackedStorage
from steelyard.model.save import save
from steelyard.model.step import Step
from steelyard.model.template import ChatTemplate
from steelyard.model.tokenizer import Tokenizer
from steelyard.model.trunk import Trunk


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
        stored: parameter -> the 16-bit type its file kept it in (`stored_types`); where none is said, float32.
    """

    trunk: Trunk
    family: Family
    config: Mapping[str, Any]
    tokenizer: Tokenizer | None = None
    template: ChatTemplate | None = None
    name: str = "model"
    record: dict[str, Any] = field(default_factory=dict)
    stored: Mapping[str, torch.dtype] = field(default_factory=dict)

    @property
    def context_length(self) -> int:
        """Most tokens a text may have."""
        return self.trunk.plan.context

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of all weights, how they are multiplied, plan, tokenizer and template. Computed once: a changed model is a new Model."""
        hasher = hashlib.sha256()
        tensors = self.trunk.state_dict()
        ordered = {
            f"{name}.data": module
            for name, module in self.trunk.named_modules(remove_duplicate=False)
            if isinstance(module, BlockStorage) and module.order is not None
        }
        for name in sorted([*tensors, *ordered]):
            tensor = ordered[name].ordered() if name in ordered else tensors[name]  # a copy, so one after the other
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.detach().cpu().contiguous().view(torch.uint8).reshape(-1).numpy().data)
        # What no tensor tells: in how many digits activations are rounded, how much a branch weighs.
        for name, module in self.trunk.named_modules():
            hasher.update(f"{name} {module.extra_repr()}".encode())
            if isinstance(module, NativeStorage | PackedStorage):  # weights as an engine keeps them
                hasher.update(module.content())
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
            if self.config.get("is_encoder_decoder"):
                raise UnsupportedError(f"{self.name} reads one text and writes another", do="Call `.trunk(sources, lengths, targets)`.")
            raise UnsupportedError(f"{self.name} is an encoder and has no language-model head", do="Use .embed(texts).")
        try:
            given = torch.as_tensor(ids)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise SteelyardError(f"no token ids: {error}", do="Give int64 [batch, time], rows of one length.") from None
        if given.dim() != 2 or given.numel() == 0 or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            what = f"{given.dtype} of shape {tuple(given.shape)} as token ids"
            raise SteelyardError(what, do="Give int64 [batch, time] with at least one token.")
        ids = given.to(self.trunk.device, torch.int64)
        self.check_ids((int(ids.min()), int(ids.max())))
        self.check_length(ids.shape[1])
        with torch.inference_mode():
            return self.trunk.logits(ids)

    def embed(self, texts: Sequence[str], batch: int = 32, truncate: bool = False) -> Tensor:
        """One vector for each text, for encoders (MiniLM), as sentence-transformers gives it.

        Args:
            texts: what to encode.
            batch: texts encoded at once.
            truncate: cut a text longer than the context, as sentence-transformers does, instead of refusing it.

        Returns:
            float32 [n, width], of unit length unless the model's directory says otherwise.

        Raises:
            ContextLengthError: a text has more tokens than the context, and `truncate` is False.
            UnsupportedError: not an encoder.
        """
        if "pool" not in self.trunk.heads or self.tokenizer is None:
            raise UnsupportedError(f"{self.name} has no pooling head", do="Use an encoder such as all-minilm-l6-v2.")
        if isinstance(texts, str):
            raise SteelyardError("texts is one text, not a list of them", do="Give a list: embed([text]).")
        return self.vectors([self._encode_whole(text, truncate) for text in texts], batch)

    def vectors(self, encoded: Sequence[Sequence[int]], batch: int = 32) -> Tensor:
        """One vector float32 [n, width] for each list of token ids; nothing is added to them."""
        vectors = torch.zeros(len(encoded), self.trunk.plan.width)
        # Texts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                places = order[start : start + batch]
                rows = [encoded[place] for place in places]
                time = max(1, max(len(row) for row in rows))
                ids = torch.tensor([[*row, *[0] * (time - len(row))] for row in rows], device=self.trunk.device)
                step = Step((), (0,) * len(rows), tuple(max(1, len(row)) for row in rows), time, self.trunk.device)
                vectors[places] = self.trunk.heads["pool"](self.trunk(ids, step), step).cpu()
        return vectors

    def _encode_whole(self, text: str, truncate: bool) -> list[int]:
        """A text's ids with what belongs before and after it; where it is cut, those stay."""
        assert self.tokenizer is not None
        ids = self.tokenizer.encode_for_model(text)
        if truncate and len(ids) > self.context_length:
            after = len(self.tokenizer.suffix_ids)
            ids = ids[: self.context_length - after] + ids[len(ids) - after :]
        self.check_length(len(ids))
        self.check_ids(ids)
        return ids

    def render(self, messages: Sequence[Message | Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any) -> str:
        """A conversation as the text the model was trained to read."""
        if self.template is None:
            raise UnsupportedError(f"{self.name} has no chat template", do="Give plain text, or use an instruction-tuned model.")
        plain = [message.as_dict() if isinstance(message, Message) else dict(message) for message in messages]
        return self.template.render(plain, add_generation_prompt=add_generation_prompt, **variables)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Refuses token ids that the model has no row for."""
        rows = self.trunk.plan.inputs.vocabulary
        if bad := sorted({id for id in ids if not 0 <= id < rows}):
            raise SteelyardError(
                f"the token ids {', '.join(map(str, bad[:5]))} do not exist: the model has {rows}, from 0 on",
                where=self.name,
                do="Use the tokenizer that belongs to the model.",
            )

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
        """Writes a directory that `transformers` opens wherever it has the class.

        Weights that are what they were when they were read keep the type of their file (bfloat16, float16); others are written in
        the type they have in memory.
        """
        return save(self, Path(directory))
