"""Token ids to text, one at a time: a streaming twin of the decoders in `tokenizers`, which decode only whole sequences.

A decoder is a chain of stages. Each stage takes pieces of text in order and gives on what can no longer change: bytes of
an unfinished UTF-8 character, a run of byte tokens or a piece that a later one may alter are held back. The total cost is
linear, and everything pushed and flushed, joined, equals `decode` of all ids (property-tested for every stage).
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from steelyard.core.errors import UnsupportedError

REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
CLEANUPS = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " do not", " 's", " 've", " 're")
CLEANED = {" ' ": "'", " do not": " don't"}


class Stage(Protocol):
    """One step of a decoder. Pieces are joined in the end, so an empty one says nothing."""

    def push(self, piece: str) -> list[str]:
        """Takes the next piece; gives the ones that are settled."""
        ...

    def flush(self) -> list[str]:
        """Gives what was held back; nothing is pushed after it."""
        ...


class Each:
    """A stage that changes every piece by itself. `change(piece, index)` knows whether it is the first."""

    def __init__(self, change: Callable[[str, int], str]):
        self.change, self.index = change, -1

    def push(self, piece: str) -> list[str]:
        self.index += 1
        return [self.change(piece, self.index)]

    def flush(self) -> list[str]:
        return []


@functools.cache
def byte_of_character() -> Mapping[str, int]:
    """GPT-2's alphabet: a printable character for every byte, so that tokens of bytes can be written as text."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(shifted)}


class ByteLevel:
    """Pieces in GPT-2's byte alphabet to text; a piece with other characters stands for its own UTF-8 bytes."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> list[str]:
        bytes_of = [byte_of_character().get(character) for character in piece]
        raw = piece.encode() if None in bytes_of else bytes(bytes_of)  # type: ignore[arg-type]
        return [self.decoder.decode(raw)]

    def flush(self) -> list[str]:
        return [self.decoder.decode(b"", final=True)]


class ByteFallback:
    """Runs of byte tokens (`<0xE2>`) to text; a run that is not UTF-8 as a whole gives one U+FFFD per byte."""

    def __init__(self) -> None:
        self.run = bytearray()

    def push(self, piece: str) -> list[str]:
        if match := BYTE_TOKEN.fullmatch(piece):
            self.run.append(int(match[1], 16))
            return []
        return [*self.flush(), piece]

    def flush(self) -> list[str]:
        run, self.run = bytes(self.run), bytearray()
        try:
            return [run.decode("utf-8")] if run else []
        except UnicodeDecodeError:
            return [REPLACEMENT] * len(run)


class StripStart:
    """Takes up to `count` times `character` from the start of the whole text, which arrives in pieces."""

    def __init__(self, character: str, count: int):
        self.character, self.left = character, count

    def push(self, piece: str) -> list[str]:
        while self.left and piece:
            if piece[0] != self.character:
                self.left = 0
                break
            piece, self.left = piece[1:], self.left - 1
        return [piece]

    def flush(self) -> list[str]:
        return []


class Suffix:
    """Original BPE: a suffix ends a word, so it becomes a space, except at the very end."""

    def __init__(self, suffix: str):
        self.suffix = suffix
        self.last: str | None = None

    def push(self, piece: str) -> list[str]:
        before, self.last = self.last, piece
        return [] if before is None else [before.replace(self.suffix, " ")]

    def flush(self) -> list[str]:
        return [] if self.last is None else [self.last.replace(self.suffix, "")]


class StreamDecoder:
    """Decodes one sequence of ids as they come.

    Args:
        token_of: gives the token of an id, or None for an id that has none (it adds no text).
        decoder: the decoder's description in JSON, as `tokenizers` pickles it; None joins tokens with spaces.
        skipped: ids that add no text (special tokens, where they are left out).

    Raises:
        UnsupportedError: the decoder has a stage that is not known here.
    """

    def __init__(self, token_of: Callable[[int], str | None], decoder: bytes | str | None, skipped: Collection[int] = ()):
        self.token_of, self.skipped = token_of, skipped
        self.stages = stages(json.loads(decoder) if decoder else None)

    def push(self, token: int) -> str:
        """The text that is settled by this id, possibly none."""
        piece = None if token in self.skipped else self.token_of(token)
        return "" if piece is None else _run(self.stages, [piece])

    def flush(self) -> str:
        """The rest of the text. The sequence ends here."""
        text = []
        for place, stage in enumerate(self.stages):
            text.append(_run(self.stages[place + 1 :], stage.flush()))
        return "".join(text)


def _run(stages: Sequence[Stage], pieces: list[str]) -> str:
    for stage in stages:
        pieces = [settled for piece in pieces for settled in stage.push(piece)]
    return "".join(pieces)


def stages(description: Mapping[str, Any] | None) -> list[Stage]:
    """The stages a decoder's description asks for."""
    if description is None:
        return [Each(lambda piece, index: f" {piece}" if index else piece)]
    parts = description["decoders"] if description["type"] == "Sequence" else [description]
    out: list[Stage] = []
    whole = False  # after Fuse or ByteLevel the library's next stage sees one piece, ours sees it in chunks
    for part in parts:
        kind = part["type"]
        if whole and not (kind == "Fuse" or (kind == "Strip" and part["stop"] == 0)):
            raise _unknown(part)
        if kind == "Fuse":
            whole = True
            continue
        out.append(_stage(part, whole))
        whole = whole or kind == "ByteLevel"
    return out


def _stage(part: Mapping[str, Any], whole: bool) -> Stage:
    match part:
        case {"type": "ByteLevel"}:
            return ByteLevel()
        case {"type": "ByteFallback"}:
            return ByteFallback()
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
            return Each(lambda piece, index: piece.replace(old, new))
        case {"type": "Strip", "content": str(character), "start": int(count), "stop": 0}:
            if whole:
                return StripStart(character, count)
            return Each(lambda piece, index: "".join(StripStart(character, count).push(piece)))
        case {"type": "WordPiece", "prefix": str(prefix), "cleanup": bool(cleanup)}:
            return Each(functools.partial(_word_piece, prefix=prefix, cleanup=cleanup))
        case {"type": "Metaspace", "replacement": str(mark), "prepend_scheme": str(scheme)}:
            first = "" if scheme != "never" else " "
            return Each(lambda piece, index: piece.replace(mark, " " if index else first))
        case {"type": "BPEDecoder", "suffix": str(suffix)} if suffix:
            return Suffix(suffix)
        case _:
            raise _unknown(part)


def _word_piece(piece: str, index: int, prefix: str, cleanup: bool) -> str:
    if index:
        piece = piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}"
    if cleanup:
        for old in CLEANUPS:
            piece = piece.replace(old, CLEANED.get(old, old[1:]))
    return piece


def _unknown(part: Mapping[str, Any]) -> UnsupportedError:
    return UnsupportedError(f"the tokenizer's decoder `{part['type']}` cannot be streamed here", do="Decode whole sequences with `decode`.")
