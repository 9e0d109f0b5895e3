"""SentencePiece BPE in the `tokenizers` library: merges rebuilt from scores, and the `tokenizer.model` file format.

SentencePiece joins, again and again, the two neighbours whose joint piece has the highest score, the leftmost of equals.
`tokenizers` joins the pair of the lowest rank. Ranking every split of every piece by the piece's score makes the two agree
(a property test holds them equal). Characters without a piece become their bytes (`<0xE2>`) or the unknown piece.
Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers

from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.model.tokenizer_library import library

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
MOST_BYTES = 2**28
MOST_PIECE = 512  # characters; longer pieces exist in no published model and make the splits below quadratic


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece vocabulary, wherever it was stored.

    Attributes:
        tokens: the pieces in order of their ids; a space is `▁`, except in user-defined pieces, which are plain text.
        scores: higher joins first; one per piece.
        types: NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE, one per piece.
        add_space_prefix: a text is read as if a space stood before it.
        remove_extra_whitespaces: outer spaces go, runs of spaces become one.
        charsmap: SentencePiece's compiled Unicode normalisation; empty for none.
    """

    tokens: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    add_space_prefix: bool = True
    remove_extra_whitespaces: bool = False
    charsmap: bytes = b""


def build(pieces: Pieces, where: str) -> tokenizers.Tokenizer:
    """The tokenizer of a SentencePiece BPE vocabulary.

    Raises:
        ModelFileError: the vocabulary contradicts itself.
    """
    vocabulary = {token: id for id, token in enumerate(pieces.tokens)}
    unknown = next((token for token, kind in zip(pieces.tokens, pieces.types, strict=True) if kind == UNKNOWN), None)
    if any(math.isnan(score) for score in pieces.scores):
        raise ModelFileError("a piece's score is not a number", where=where, do="Convert or download the model again.")
    byte_fallback = all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    with library(where):
        model = models.BPE(vocab=vocabulary, merges=merges(pieces, where), unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence(list(_normalizers(pieces)))
    # What stands for the whole text loses the space it was given; `Fuse` makes the pieces one.
    strip = [decoders.Strip(" ", 1, 0)] if pieces.add_space_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return tokenizer


def merges(pieces: Pieces, where: str) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, best first.

    Of one piece's splits the shorter left half goes first. They compete only where a text repeats itself within the piece.
    """
    joinable = {
        token: score
        for token, score, kind in zip(pieces.tokens, pieces.scores, pieces.types, strict=True)
        if kind in (NORMAL, USER_DEFINED)
    }
    found: list[tuple[float, int, int, str, str]] = []
    for id, token in enumerate(pieces.tokens):
        if token not in joinable:
            continue
        if len(token) > MOST_PIECE:
            raise ModelFileError(f"piece {id} has {len(token)} characters", where=where, do="Convert or download the model again.")
        score = -joinable[token]
        for place in range(1, len(token)):
            left, right = token[:place], token[place:]
            if left in joinable and right in joinable:
                found.append((score, id, place, left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _normalizers(pieces: Pieces) -> Iterator[normalizers.Normalizer]:
    if pieces.charsmap:
        yield normalizers.Precompiled(pieces.charsmap)
    if pieces.remove_extra_whitespaces:
        yield normalizers.Replace(Regex("^ +| +$"), "")
        yield normalizers.Replace(Regex(" {2,}"), " ")
    if pieces.add_space_prefix:
        yield normalizers.Prepend(SPACE)
    yield normalizers.Replace(" ", SPACE)


@dataclass(frozen=True)
class SentencePieceFile:
    """What a `tokenizer.model` says: its pieces and the ids of its special ones (-1 for none)."""

    pieces: Pieces
    bos_id: int
    eos_id: int
    pad_id: int


def read_file(path: Path) -> SentencePieceFile:
    """Reads a SentencePiece model file.

    Raises:
        ModelFileError: truncated, damaged, or not one at all.
        UnsupportedError: not a BPE model (unigram, word, char).
    """
    where = str(path)
    if path.stat().st_size > MOST_BYTES:
        raise ModelFileError(f"{path.stat().st_size} bytes are too many for it", where=where, do="Restore the published file.")
    tokens, scores, types = [], [], []
    trainer: dict[int, int | memoryview] = {}
    normalizer: dict[int, int | memoryview] = {}
    for number, value in _fields(memoryview(path.read_bytes()), where):
        if number == 1:
            token, score, kind = _piece(value, where)
            tokens.append(token.replace(SPACE, " ") if kind == USER_DEFINED else token)
            scores.append(score)
            types.append(kind)
        elif number == 2:
            trainer = dict(_fields(_message(value, where), where))
        elif number == 3:
            normalizer = dict(_fields(_message(value, where), where))
    if not tokens:
        raise ModelFileError("it holds no pieces", where=where, do="Restore the published file.")
    kind = KINDS.get(_number(trainer, 3, 1), "unknown")
    if kind != "bpe":
        raise UnsupportedError(
            f"a SentencePiece model of kind {kind} is read only from tokenizer.json", where=where, do="Convert it with transformers."
        )
    if _number(trainer, 24, 0):
        raise UnsupportedError("a SentencePiece model with spaces at the end of words is not read here", where=where)
    charsmap = normalizer.get(2)
    pieces = Pieces(
        tokens,
        scores,
        types,
        bool(_number(normalizer, 3, 1)),
        bool(_number(normalizer, 4, 1)),
        b"" if isinstance(charsmap, int | None) else bytes(charsmap),
    )
    ids = [_signed(_number(trainer, field, default)) for field, default in ((41, 1), (42, 2), (43, -1))]
    return SentencePieceFile(pieces, *(id if 0 <= id < len(tokens) else -1 for id in ids))


def _piece(value: int | memoryview, where: str) -> tuple[str, float, int]:
    fields = dict(_fields(_message(value, where), where))
    try:
        text = bytes(_message(fields.get(1, memoryview(b"")), where)).decode("utf-8")
    except UnicodeDecodeError:
        raise _damaged(where) from None
    score = struct.unpack("<f", struct.pack("<I", _number(fields, 2, 0)))[0]
    return text, score, _number(fields, 3, NORMAL)


def _fields(data: memoryview, where: str) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protocol buffer message: (number, value), lengths checked against the bytes that are there."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place, where)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(data, place, where)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, place = _varint(data, place, where)
        if size is None or place + size > len(data):
            raise _damaged(where)
        chunk = data[place : place + size]
        place += size
        yield tag >> 3, chunk if kind == 2 else int.from_bytes(chunk, "little")


def _varint(data: memoryview, place: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise _damaged(where)


def _message(value: int | memoryview, where: str) -> memoryview:
    if isinstance(value, int):
        raise _damaged(where)
    return value


def _number(fields: Mapping[int, int | memoryview], field: int, default: int) -> int:
    value = fields.get(field, default)
    return value if isinstance(value, int) else default


def _signed(value: int) -> int:
    """A protocol buffer's int32, which stores negative numbers as 64-bit two's complement."""
    return value - 2**64 if value >= 2**63 else value


def _damaged(where: str) -> ModelFileError:
    return ModelFileError("not a SentencePiece model, or a damaged one", where=where, do="Restore the published file.")
