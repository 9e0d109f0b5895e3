"""What each token writes, in bytes: what a grammar over text needs to know about a tokenizer.

Byte-level BPE spells every byte as a character; SentencePiece writes `▁` for a space and `<0xE2>` for a byte, and takes the
space away from the very first token of a text. That is why there are two tables: one for an answer's first token, one for all
others. Special tokens, and ids without a token, write nothing that a grammar could ask for.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import UnsupportedError
from steelyard.generate.constraints.masks import unpacked
from steelyard.generate.constraints.tokens import BYTES, table
from steelyard.model.tokenizer import Tokenizer
from steelyard.model.tokenizer_stream import BYTE_TOKEN, byte_of_character


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer as llguidance sees it.

    Attributes:
        size: ids from 0 on that a mask speaks of: the rows of the model's table, or more where the tokenizer has more.
        matching: tokens as they write anywhere but at the start. After them come 256 more, one for each byte, which no mask ever
            offers: they spell what a first token wrote where that differs.
        opening: tokens as they write at the start of a text.
        first: id -> bytes at the start, for the tokens whose bytes differ there; empty for byte-level tokenizers.
        ends: the ids that end an answer.
    """

    size: int
    matching: llguidance.LLTokenizer
    opening: llguidance.LLTokenizer
    first: Mapping[int, bytes]
    ends: tuple[int, ...]

    def spelled(self, token: int, start: bool) -> list[int]:
        """The ids of `matching` that write what a token writes."""
        changed = self.first.get(token) if start else None
        return [token] if changed is None else [self.size + byte for byte in changed]

    def allowed(self, words: NDArray[np.int32]) -> NDArray[np.bool_]:
        """bool [size] from a mask of 32 tokens a word."""
        return unpacked(words, self.size)

    def any(self, words: NDArray[np.int32]) -> bool:
        """Whether a mask allows any token of the model's."""
        whole, rest = divmod(self.size, 32)
        return bool(words[:whole].any()) or bool(rest and int(words[whole]) & ((1 << rest) - 1))

    def new_mask(self) -> NDArray[np.int32]:
        """Room for one mask."""
        return np.zeros((self.size + BYTES + 31) // 32, dtype=np.int32)


_known: weakref.WeakKeyDictionary[Tokenizer, dict[int, Vocabulary]] = weakref.WeakKeyDictionary()


def vocabulary(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer whose model has `rows` rows of logits. Made once.

    Raises:
        UnsupportedError: the tokenizer has no end token, or its decoder is of a kind whose tokens have no bytes of their own.
    """
    made = _known.setdefault(tokenizer, {})
    if rows not in made:
        made[rows] = _build(tokenizer, rows)
    return made[rows]


def token_bytes(tokenizer: Tokenizer, size: int, start: bool) -> list[bytes | None]:
    """What each id below `size` writes at the start of a text or further on; None for special tokens and ids without a token.

    Raises:
        UnsupportedError: the decoder makes text of tokens in a way that gives them no bytes of their own.
    """
    silent = {*tokenizer.special_ids, *tokenizer.eos_ids, tokenizer.bos_id}
    decoder = tokenizer.backend.decoder
    parts = [] if decoder is None else _parts(json.loads(decoder.__getstate__()))  # type: ignore[attr-defined]
    if not any(part["type"] in ("ByteLevel", "ByteFallback", "Metaspace") for part in parts):
        kinds = " + ".join(part["type"] for part in parts) or "none"
        raise UnsupportedError(
            f"a constraint cannot read this tokenizer's tokens (decoder: {kinds})",
            do="Use a model with a byte-level BPE or SentencePiece tokenizer.",
        )
    pieces = [None if id in silent else tokenizer.token(id) for id in range(size)]
    return [None if piece is None else _written(piece, parts, start) for piece in pieces]


def _build(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    if not tokenizer.eos_ids:
        raise UnsupportedError("a constraint needs a model with an end token: without one no answer could end", do="Use another model.")
    size = max(rows, tokenizer.vocabulary_size)
    later, opening = (token_bytes(tokenizer, size, start) for start in (False, True))
    first = {id: new for id, (new, old) in enumerate(zip(opening, later, strict=True)) if new is not None and new != old}
    spelling = [bytes([byte]) for byte in range(BYTES)]
    matching = table([*later, *spelling], tokenizer.eos_ids)
    starting = table([*opening, *spelling], tokenizer.eos_ids) if first else matching
    return Vocabulary(size, matching, starting, first, tokenizer.eos_ids)


def _parts(description: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return description["decoders"] if description["type"] == "Sequence" else [description]


def _written(piece: str, parts: Sequence[Mapping[str, Any]], start: bool) -> bytes:
    """A token's bytes: the stages of `model/tokenizer_stream.py`, for one token by itself."""
    written, whole = piece.encode("utf-8"), False
    for part in parts:
        match part:
            case {"type": "ByteLevel"}:
                spelled = [byte_of_character().get(character) for character in piece]
                written = piece.encode() if None in spelled else bytes(spelled)  # type: ignore[arg-type]
                whole = True
            case {"type": "ByteFallback"}:
                if byte := BYTE_TOKEN.fullmatch(written.decode("utf-8")):
                    return _stripped(bytes([int(byte[1], 16)]), parts) if start else bytes([int(byte[1], 16)])
            case {"type": "Fuse"}:
                whole = True
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                written = written.replace(old.encode(), new.encode())
            case {"type": "Metaspace", "replacement": str(mark), "prepend_scheme": str(scheme)}:
                written = written.replace(mark.encode(), b"" if start and scheme != "never" else b" ")
            case {"type": "Strip", "content": str(character), "start": int(count), "stop": 0}:
                if start or not whole:
                    written = _without(written, character.encode(), count)
            case _:
                raise UnsupportedError(
                    f"a constraint cannot read this tokenizer's tokens (decoder: {part['type']})", do="Use another model."
                )
    return written


def _stripped(written: bytes, parts: Sequence[Mapping[str, Any]]) -> bytes:
    """A byte token that is a text's first one, after whatever strips the text's start."""
    for part in parts:
        if part["type"] == "Strip":
            written = _without(written, part["content"].encode(), part["start"])
    return written


def _without(written: bytes, character: bytes, count: int) -> bytes:
    for _ in range(count):
        written = written.removeprefix(character)
    return written
