"""Texts as one long row of token ids on disk, memory-mapped, so that a corpus may be larger than memory.

A file is named by what it was made from (texts, tokenizer, settings): the same corpus is tokenised once, a changed one never
taken for it. It appears whole or not at all. The format is safetensors, so other tools can read it:

| tensor | content |
| --- | --- |
| `ids` | U16 or U32 [tokens]: documents one after another, each closed by the end token |
| `starts` | I64 [documents]: where each begins |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from steelyard.core.errors import DataError
from steelyard.core.files import atomic, writing
from steelyard.core.fingerprint import digest
from steelyard.core.locks import lock
from steelyard.data.texts.document import Document
from steelyard.model.tokenizer import Tokenizer

VERSION = 1
HEADER = 4096  # bytes, fixed so that it can be written last
BATCH = 2**19  # characters encoded at once
BATCH_DOCUMENTS = 1024
KINDS = {"U16": np.dtype("<u2"), "U32": np.dtype("<u4")}


@dataclass(frozen=True, eq=False)
class TokenFile:
    """Tokens of a corpus, or a stretch of them.

    Attributes:
        path: the file.
        ids: uint16 or uint32 [tokens], memory-mapped.
        starts: int64 [documents] of the whole file: where each document begins, counted from the file's first token.
        first: where `ids` begins in the file.
        fingerprint: digest of what it was made from, and of the stretch.
        vocabulary: one more than the highest id that can occur.
        bytes_per_token: UTF-8 bytes of text per token, over the whole file.
    """

    path: Path
    ids: np.ndarray
    starts: np.ndarray
    fingerprint: str
    vocabulary: int
    bytes_per_token: float
    first: int = 0

    def __len__(self) -> int:
        """Tokens."""
        return len(self.ids)

    @property
    def documents(self) -> int:
        """Documents that begin here."""
        low, high = np.searchsorted(self.starts, np.array([self.first, self.first + len(self)], np.int64))
        return int(high - low)

    def part(self, start: int, stop: int) -> TokenFile:
        """The tokens from `start` up to `stop`."""
        if not 0 <= start <= stop <= len(self):
            raise DataError(f"no tokens {start} to {stop} among {len(self)}", where=str(self.path))
        fingerprint = digest([self.fingerprint, start, stop])
        return replace(self, ids=self.ids[start:stop], first=self.first + start, fingerprint=fingerprint)

    def split(self, share: float) -> tuple[TokenFile, TokenFile]:
        """(tokens to learn, tokens to validate on): the last `share` of them, by position, is kept aside.

        The cut may lie within a document.
        """
        if not 0 <= share < 1:
            raise DataError(f"a share of {share} cannot be kept aside", where=str(self.path), do="Give a number from 0 up to 1.")
        cut = int(len(self) * (1 - share))
        return self.part(0, cut), self.part(cut, len(self))

    @classmethod
    def open(cls, path: Path) -> TokenFile:
        """Maps a file.

        Raises:
            DataError: it is absent, cut short, or not such a file.
        """
        try:
            with path.open("rb") as file:
                fields = _header(file.read(HEADER), path.stat().st_size)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=str(path), do="Write the tokens again.") from error
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise DataError(
                f"not a file of tokens, or damaged ({error})", where=str(path), do="Delete it; it is made again from the texts."
            ) from error
        return cls(path, **fields(np.memmap(path, np.uint8, "r")))


def write_tokens(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    path: Path,
    *,
    end: bool = True,
    unknown: Literal["stop", "keep"] = "stop",
) -> TokenFile:
    """Tokenises documents into a file in the folder `path`, or opens the one that was made of the same ones before.

    Special tokens' strings in a text are read as ordinary characters, except where a document marks them. A document begins with
    the beginning-of-sequence token where the tokenizer's model expects one. Killed at any moment, it leaves no half file.

    Args:
        documents: can be gone through more than once; `Texts` knows its own fingerprint, a list's is taken of its content.
        tokenizer: its `eos_ids[0]` closes a document.
        path: a folder, made where it is absent; the file's name is the fingerprint.
        end: whether documents are closed by the end token.
        unknown: what becomes of characters the tokenizer has no token for: they stop the writing, named, or become its unknown token.

    Raises:
        DataError: no tokens, unknown characters, a marked special token that the tokenizer does not have, or no end token.
        SteelyardError: the disk is full.
    """
    if end and not tokenizer.eos_ids:
        raise DataError("the tokenizer has no end token to close documents with", do="Write without: `end=False`.")
    key = digest([VERSION, fingerprint_of(documents), tokenizer.fingerprint, end, unknown])
    target = path / f"{key}.safetensors"
    with _alone(path):
        if target.exists():
            with contextlib.suppress(DataError):  # damaged: it is made again
                return TokenFile.open(target)
        for left_over in path.glob(".*.safetensors.*.part"):  # of killed writings; nobody else writes here now
            left_over.unlink(missing_ok=True)
        with atomic(target, "wb") as file, tempfile.TemporaryFile(dir=path) as starts:
            _write(file, starts, documents, _Encoder(tokenizer, end, unknown), key)
    return TokenFile.open(target)


def fingerprint_of(documents: Iterable[Document]) -> str:
    """The documents' own fingerprint, or one of their content.

    Raises:
        DataError: they can be gone through only once, so that nothing can be found out before they are written.
    """
    known = getattr(documents, "fingerprint", None)
    if isinstance(known, str):
        return known
    if isinstance(documents, Iterator):
        raise DataError("documents that can be gone through only once", do="Give a list, or something with a `fingerprint`.")
    content = hashlib.sha256()
    for document in documents:
        content.update(repr((document.text, document.continues, document.special)).encode())
    return content.hexdigest()[:16]


@dataclass(frozen=True)
class _Encoder:
    tokenizer: Tokenizer
    end: bool
    unknown: Literal["stop", "keep"]

    def encode(self, batch: Sequence[Document]) -> list[list[int]]:
        """Each document's ids, without what begins and closes it."""
        stretches = [list(self._stretches(document)) for document in batch]
        encoded = iter(self.tokenizer.encode_batch([item for row in stretches for item in row if isinstance(item, str)], special=False))
        rows = []
        for document, row in zip(batch, stretches, strict=True):
            ids: list[int] = []
            for item in row:
                if isinstance(item, str):
                    ids += next(encoded)
                else:
                    ids.append(item)
            self._refuse_unknown(document, ids)
            rows.append(ids)
        return rows

    def _stretches(self, document: Document) -> Iterator[str | int]:
        """Ordinary text, and the ids of what is marked as special."""
        done = 0
        for start, stop in document.special:
            if start > done:
                yield document.text[done:start]
            name, done = document.text[start:stop], stop
            id = self.tokenizer.id_of(name)
            if id is None or id not in self.tokenizer.special_ids:
                raise DataError(
                    f"the tokenizer has no special token {name!r:.60}",
                    where=document.where,
                    do="Train it with that token among `special`, or use another tokenizer.",
                )
            yield id
        if done < len(document.text):
            yield document.text[done:]

    def _refuse_unknown(self, document: Document, ids: list[int]) -> None:
        name = self.tokenizer.config.get("unk_token")
        id = self.tokenizer.id_of(name) if isinstance(name, str) else None
        if id is None or self.unknown == "keep" or id not in ids:
            return
        found = [text for text in dict.fromkeys(document.text) if id in self.tokenizer.encode(text, special=False)]
        named = ", ".join(f"{text!r} (U+{ord(text):04X})" for text in found[:20])
        raise DataError(
            f"characters the tokenizer does not know: {named}" + (f" and {len(found) - 20} more" if len(found) > 20 else ""),
            where=document.where,
            do=f"Train the tokenizer on these texts, take one of bytes, or let them become {name} (`unknown: keep`).",
        )


def _write(file: IO[bytes], starts: IO[bytes], documents: Iterable[Document], encoder: _Encoder, key: str) -> None:
    tokenizer = encoder.tokenizer
    kind = "U16" if tokenizer.vocabulary_size <= 2**16 else "U32"
    before = [tokenizer.bos_id] if tokenizer.add_bos else []
    after = [tokenizer.eos_ids[0]] if encoder.end else []
    file.write(bytes(HEADER))
    tokens = texts = text_bytes = 0
    within = False
    for batch in _batches(documents):
        for document, ids in zip(batch, encoder.encode(batch), strict=True):
            if not within:
                starts.write(struct.pack("<q", tokens))
                texts += 1
                ids = [*before, *ids]
            within = document.continues
            if not within:
                ids = [*ids, *after]
            file.write(np.array(ids, KINDS[kind]).tobytes())
            tokens += len(ids)
            text_bytes += len(document.text.encode()) - sum(stop - start for start, stop in document.special)
    if within:
        file.write(np.array(after, KINDS[kind]).tobytes())
        tokens += len(after)
    if not tokens:
        raise DataError("there is nothing to write: no document has a token")
    used = tokens * KINDS[kind].itemsize
    gap = -used % 8  # the numbers of 8 bytes that follow lie where they can be searched without a copy
    file.write(bytes(gap))
    starts.seek(0)
    shutil.copyfileobj(starts, file, 2**20)
    tensors = {
        "ids": {"dtype": kind, "shape": [tokens], "data_offsets": [0, used]},
        "padding": {"dtype": "U8", "shape": [gap], "data_offsets": [used, used + gap]},
        "starts": {"dtype": "I64", "shape": [texts], "data_offsets": [used + gap, used + gap + 8 * texts]},
    }
    facts = {"version": VERSION, "key": key, "vocabulary": tokenizer.vocabulary_size, "text_bytes": text_bytes}
    header = json.dumps({"__metadata__": {name: str(value) for name, value in facts.items()}, **tensors}).encode()
    file.seek(0)
    file.write(struct.pack("<Q", HEADER - 8) + header.ljust(HEADER - 8))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        if not isinstance(document, Document):
            raise DataError(f"a {type(document).__name__} where a document belongs", do="Only texts can be written as tokens.")
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _header(raw: bytes, size: int) -> Any:
    """What makes the fields of a `TokenFile` out of the file's bytes.

    Raises:
        ValueError, KeyError, TypeError, struct.error: it is no such file.
    """
    if len(raw) < HEADER or struct.unpack("<Q", raw[:8])[0] != HEADER - 8:
        raise ValueError("its header is not one of ours")
    header = json.loads(raw[8:].decode("ascii"))
    facts, ids, padding, starts = (header[name] for name in ("__metadata__", "ids", "padding", "starts"))
    if facts["version"] != str(VERSION):
        raise ValueError(f"its version is {facts['version']}")
    kind, tokens, texts, gap = KINDS[ids["dtype"]], int(ids["shape"][0]), int(starts["shape"][0]), int(padding["shape"][0])
    begin = HEADER + tokens * kind.itemsize + gap
    if min(tokens - 1, texts - 1, gap) < 0 or begin % 8 or begin + 8 * texts != size:
        raise ValueError(f"it has {size} bytes, where its header says {begin + 8 * texts}")

    def fields(content: np.ndarray) -> dict[str, Any]:
        content = np.asarray(content)  # a plain view of the map: slicing it costs a fifth
        return {
            "ids": content[HEADER : HEADER + tokens * kind.itemsize].view(kind),
            "starts": content[begin:].view("<i8"),
            "fingerprint": facts["key"],
            "vocabulary": int(facts["vocabulary"]),
            "bytes_per_token": int(facts["text_bytes"]) / tokens,
        }

    return fields


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other writers out of it: two runs over the same corpus tokenise it once."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("ab")
    with handle:
        lock(handle.fileno(), wait=True)
        yield
