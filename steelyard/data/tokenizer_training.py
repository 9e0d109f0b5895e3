"""Tokenizers learned from texts, saved as the tokenizer.json that other tools open.

| kind | tokens | an unknown character |
| --- | --- | --- |
| `bpe` | bytes, and pairs merged in the order of how often they occur (arXiv:1508.07909) | none: every text is bytes |
| `unigram` | bytes, and pieces chosen by the likelihood of the texts (arXiv:1804.10959) | none |
| `characters` | the characters that occur, in code-point order | becomes `<unk>`; writing training tokens stops at it, see `write_tokens` |
| `bytes` | the 256 bytes, each by its value | none |

Texts are cut into words by GPT-2's rule first (`bpe`, `unigram`). Nothing is normalised: what is encoded is decoded again,
byte for byte (a `characters` tokenizer's texts, where it knows every character). Special tokens follow the vocabulary, `<unk>` and
`<|endoftext|>` first; in texts to learn from, their strings are ordinary characters. Equal texts give equal tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from steelyard.core.errors import DataError, ModelFileError
from steelyard.model.tokenizer import Tokenizer
from steelyard.model.tokenizer_library import library
from steelyard.model.tokenizer_stream import byte_of_character

Kind = Literal["bpe", "unigram", "characters", "bytes"]
END = "<|endoftext|>"
UNKNOWN = "<unk>"
LARGEST = 2**24
"""Most tokens of a vocabulary; more is a slip of the pen."""


def train_tokenizer(kind: Kind, texts: Iterable[str], vocabulary: int | None = None, special: Sequence[str] = ()) -> Tokenizer:
    """Learns a tokenizer.

    Args:
        kind: see the table above.
        texts: what to learn from; gone through once, never held whole. `bytes` reads none of it.
        vocabulary: tokens in all, special ones included; must be given for bpe and unigram, and otherwise follows by itself.
        special: further special tokens (`<|endoftext|>` is always one; `characters` also have `<unk>`).

    Raises:
        DataError: a vocabulary that cannot be had from these texts, no text, or special tokens that are none.
    """
    if kind not in get_args(Kind):
        raise DataError(f"no kind of tokenizer is called `{kind}`", do=f"Known: {', '.join(get_args(Kind))}.")
    names = _special(special)
    if kind == "bytes":
        backend = _bytes()
    elif kind == "characters":
        backend = _characters(texts)
    else:
        backend = _learned(kind, texts, vocabulary, len(names))
    size = backend.get_vocab_size() + len(names)
    marked = [UNKNOWN, *names] if kind == "characters" else names
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in marked])
    if backend.get_vocab_size() != size:
        clashing = [name for name in names if (backend.token_to_id(name) or 0) < size - len(names)]
        raise DataError(f"special tokens that are tokens already: {', '.join(clashing)}", do="Write them otherwise, as in `<|name|>`.")
    if vocabulary is not None and vocabulary != size:
        fixed = kind in ("bytes", "characters")
        raise DataError(
            f"a vocabulary of {vocabulary} tokens, where `{kind}` and these texts give {size} ({len(names)} of them special)",
            do="Leave `vocabulary` out." if fixed else f"Give more text, or ask for at most {size}.",
        )
    config = {"clean_up_tokenization_spaces": False} | ({"unk_token": UNKNOWN} if kind == "characters" else {})
    return Tokenizer(backend, eos_ids=(size - len(names),), config=config)


def _special(special: Sequence[str]) -> list[str]:
    if isinstance(special, str) or any(not isinstance(name, str) or not name.strip() or name != name.strip() for name in special):
        raise DataError(f"special tokens must be words of their own: {special!r:.80}", do='Give a list such as ["<|fim_prefix|>"].')
    return [name for name in dict.fromkeys((END, *special)) if name != UNKNOWN]


def _bytes() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(vocab=dict(byte_of_character()), merges=[]))
    _byte_level(backend, words=False)
    return backend


def _characters(texts: Iterable[str]) -> tokenizers.Tokenizer:
    found: set[str] = set()
    for text in _Counted(texts):
        found.update(text)
    if not found:
        raise _no_text()
    # A vocabulary holds its own unknown token, so that comes before the other special ones.
    known = {character: id for id, character in enumerate(sorted(found))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=known | {UNKNOWN: len(known)}, merges=[], unk_token=UNKNOWN))
    backend.decoder = decoders.Fuse()
    return backend


def _learned(kind: str, texts: Iterable[str], vocabulary: int | None, special: int) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocabulary is None:
        raise DataError(f"`{kind}` needs the number of tokens to learn", do="Set `vocabulary`, for example 4096.")
    least = len(alphabet) + special
    if not least < vocabulary <= LARGEST:
        raise DataError(
            f"a vocabulary of {vocabulary} tokens, where the {len(alphabet)} bytes and {special} special tokens are {least} already"
            if vocabulary <= least
            else f"a vocabulary of {vocabulary} tokens is more than the {LARGEST} that are learned here",
            do=f"Ask for more than {least}, or use the kind `bytes`." if vocabulary <= least else "Ask for fewer.",
        )
    wanted = vocabulary - special
    empty = models.BPE() if kind == "bpe" else models.Unigram()
    trainer = (trainers.BpeTrainer if kind == "bpe" else trainers.UnigramTrainer)(
        vocab_size=wanted, initial_alphabet=alphabet, show_progress=False
    )
    backend = tokenizers.Tokenizer(empty)
    _byte_level(backend, words=True)
    seen = _Counted(texts)
    try:
        with library("the texts to learn from"):
            backend.train_from_iterator(seen, trainer)
    except ModelFileError as error:
        raise DataError(f"no tokenizer can be learned: {error.what}", do="Give more text, or ask for fewer tokens.") from error
    if not seen.characters:
        raise _no_text()
    if kind == "unigram":
        backend.model = _steadied(backend)
    return backend


def _byte_level(backend: tokenizers.Tokenizer, *, words: bool) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    backend.decoder = decoders.ByteLevel()


class _Counted:
    """Texts on their way to the library, counted; one that is none is refused by name."""

    def __init__(self, texts: Iterable[str]):
        self.texts, self.characters, self.number = iter(texts), 0, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = next(self.texts)
        self.number += 1
        try:
            text.encode("utf-8")
        except (AttributeError, UnicodeEncodeError):
            what = "half a surrogate pair in it" if isinstance(text, str) else f"{type(text).__name__} instead of text"
            raise DataError(
                what, where=f"text {self.number} to learn a tokenizer from", do="Give texts that can be written as UTF-8."
            ) from None
        self.characters += len(text)
        return text


def _steadied(backend: tokenizers.Tokenizer) -> models.Unigram:
    """The pieces in one order and with one score each.

    The library adds up likelihoods in an order that changes from run to run (the last digits differ) and ranks the bytes that never
    occurred by chance, a ten-thousandth apart above the lowest score. Measured: the pieces themselves stay the same.
    """
    pieces = [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]
    lowest = min(score for _, score in pieces)
    unseen = lowest + 1e-4 * (len(byte_of_character()) + 1)
    steady = [(piece, round(lowest if len(piece) == 1 and score <= unseen else score, 6)) for piece, score in pieces]
    return models.Unigram(sorted(steady, key=lambda item: (-item[1], item[0])), unk_id=None, byte_fallback=False)


def _no_text() -> DataError:
    return DataError("there is no text to learn a tokenizer from", do="Name texts that are not empty.")
