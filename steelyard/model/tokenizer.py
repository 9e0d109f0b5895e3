"""Text to token ids and back, over the `tokenizers` library, from a Hugging Face directory or from GGUF metadata.

`encode` adds nothing: what a model reads before and after a text (a beginning-of-sequence token, `[CLS]` and `[SEP]`) is
`prefix_ids` and `suffix_ids`, and `encode_for_model` adds it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from steelyard.core.errors import DataError
from steelyard.core.files import write_json, write_text
from steelyard.core.fingerprint import digest
from steelyard.model import tokenizer_directory, tokenizer_gguf
from steelyard.model.tokenizer_library import library
from steelyard.model.tokenizer_stream import StreamDecoder

LONG = 10_000
"""Characters from which a text is read by the library's way for many texts: its way for one stops all other threads meanwhile."""


@dataclass(eq=False)
class Tokenizer:
    """A model's tokenizer.

    Attributes:
        backend: the library's tokenizer, without truncation and padding.
        bos_id: the token a text begins with, or None.
        eos_ids: the tokens that end an answer, the tokenizer's own end-of-sequence token first.
        pad_id: the token that fills rows, or None.
        prefix_ids: what the model reads before every text.
        suffix_ids: what it reads after every text.
        config: tokenizer_config.json's content, without the chat template.
        generation: generation_config.json's content.
        shape: truncation and padding as tokenizer.json had them; kept for saving only.
    """

    backend: tokenizers.Tokenizer
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_directory(cls, path: str | Path) -> Tokenizer:
        """Reads tokenizer.json, or builds it from tokenizer.model, vocab.json + merges.txt or vocab.txt.

        Raises:
            ModelFileError: the files are missing, damaged or disagree.
            UnsupportedError: a kind of tokenizer that is not read here.
        """
        return cls(**tokenizer_directory.read(Path(path)))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Builds it from a GGUF file's metadata (`tokenizer.ggml.*`).

        Raises:
            ModelFileError: keys are missing or disagree.
            UnsupportedError: a kind of tokenizer or a splitting rule that is not known here, by name.
        """
        return cls(**tokenizer_gguf.read(metadata))

    @property
    def add_bos(self) -> bool:
        """Whether the model expects every text to begin with `bos_id`."""
        return self.bos_id is not None and self.bos_id in self.prefix_ids

    @functools.cached_property
    def vocabulary_size(self) -> int:
        """One more than the highest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens (turn markers, end of text, padding)."""
        return frozenset(id for id, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of everything that decides ids: vocabulary, rules and special tokens."""
        ids = [self.bos_id, self.eos_ids, self.pad_id, self.prefix_ids, self.suffix_ids]
        return digest([self.backend.to_str(), ids])

    @functools.cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """A second backend that reads special tokens' strings as ordinary text; a switch on a shared one would race."""
        plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text. Nothing is added, nothing is cut.

        Args:
            text: any text that can be written as UTF-8.
            special: True turns the strings of special tokens into their ids; False reads them as ordinary text.

        Raises:
            DataError: the text holds half of a surrogate pair, which no UTF-8 text can.
        """
        backend = self.backend if special else self._plain
        try:
            with library("the tokenizer"):
                if len(text) > LONG:
                    return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
                return backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise _not_text(text) from None

    def encode_batch(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """`encode` of every text, on all cores.

        Raises:
            DataError: a text holds half of a surrogate pair.
        """
        backend = self.backend if special else self._plain
        try:
            with library("the tokenizer"):
                return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError:
            return [self.encode(text, special) for text in texts]  # names the text's bad character

    def encode_for_model(self, text: str) -> list[int]:
        """Token ids as the model was trained to read a text: with what belongs before and after it."""
        return [*self.prefix_ids, *self.encode(text), *self.suffix_ids]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of token ids; an id without a token adds nothing.

        Args:
            ids: token ids.
            skip_special: leave special tokens out.

        Raises:
            DataError: something that is not a token id at all.
        """
        try:
            with library("the tokenizer"):
                return self.backend.decode([int(id) for id in ids], skip_special_tokens=skip_special)
        except (OverflowError, TypeError, ValueError) as error:
            raise DataError(f"not token ids ({error})", do="Token ids are numbers from 0 on.") from None

    def token(self, id: int) -> str | None:
        """The token of an id as the vocabulary spells it, or None."""
        return self.backend.id_to_token(id) if 0 <= id < 2**32 else None

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        return self.backend.token_to_id(token)

    def stream_decoder(self, skip_special: bool = False) -> StreamDecoder:
        """A decoder for one sequence whose ids come one at a time; all it gives, joined, equals `decode`."""
        decoder = self.backend.decoder
        description = None if decoder is None else decoder.__getstate__()  # type: ignore[attr-defined]
        return StreamDecoder(self.token, description, self.special_ids if skip_special else ())

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json (and generation_config.json for the end tokens), as `transformers` reads them."""
        folder = Path(directory)
        text = self.backend.to_str()
        if self.shape:
            text = json.dumps(json.loads(text) | self.shape, ensure_ascii=False)
        write_text(folder / "tokenizer.json", text)
        names = {"bos_token": self.bos_id, "eos_token": next(iter(self.eos_ids), None), "pad_token": self.pad_id}
        known = {name: self.token(id) for name, id in names.items() if id is not None}
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | known | dict(self.config)
        write_json(folder / "tokenizer_config.json", config)
        if self.eos_ids or self.generation:
            ids = {"bos_token_id": self.bos_id, "eos_token_id": list(self.eos_ids) or None, "pad_token_id": self.pad_id}
            generation = {name: id for name, id in ids.items() if id is not None} | dict(self.generation)
            write_json(folder / "generation_config.json", generation)


def _not_text(text: object) -> DataError:
    if not isinstance(text, str):
        return DataError(f"expected text, not {type(text).__name__}", do="Give a string.")
    place = next((place for place, character in enumerate(text) if "\ud800" <= character <= "\udfff"), 0)
    return DataError(
        f"the text holds half of a surrogate pair (U+{ord(text[place]):04X}) at character {place}",
        do="Read the text with its right encoding, or drop that character.",
    )
