"""Fill in the middle: a text is cut in three and its middle moved to the end, so that a model that reads from left to right learns to
write what belongs between two stretches.

    PSM   <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle
    SPM   <|fim_prefix|> <|fim_suffix|> suffix <|fim_middle|> prefix middle

Both cuts are uniform over the places between characters. In SPM prefix and middle are one stretch of text, tokenised together (the paper
tokenises them apart, which at asking would need the cut to be known). The end of text closes the middle: where it ends is learned
too. Source: M. Bavarian et al., Efficient Training of Language Models to Fill in the Middle, arXiv:2207.14255, section 3; rate 0.5 and
both forms equally often are its recommendation, and StarCoder's (arXiv:2305.06161). Cost: three tokens for each text that is turned.
What is drawn depends on (seed, number of the document), and nothing reaches over a document's border.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field, model_validator

from steelyard.core.errors import DataError, RecipeError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.seeds import derive
from steelyard.data.texts.document import Document, pieces
from steelyard.data.token_file import fingerprint_of

TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


class Fim(Lever):
    """Moves the middle of texts to their end before a model is pretrained on them."""

    name: ClassVar[str] = "fim"
    idea: ClassVar[str] = (
        "Cut texts in three and move the middle to the end, marked by special tokens. A model that only reads from left to right "
        "learns from it to fill in what is missing between two stretches, at no loss elsewhere."
    )
    equation: ClassVar[str] = "prefix middle suffix -> <pre> prefix <suf> suffix <mid> middle, or <pre> <suf> suffix <mid> prefix middle"
    paper: ClassVar[str] = "arXiv:2207.14255, arXiv:2305.06161"
    cost: ClassVar[str] = "Three tokens for each text that is turned."
    main: ClassVar[str | None] = "rate"
    identity: ClassVar[Any] = {"rate": 0.0}
    maturity: ClassVar[Any] = "stable"
    evidence: ClassVar[Any] = "mechanism"

    rate: float = Field(0.5, ge=0, le=1, allow_inf_nan=False, description="share of the texts whose middle is moved; 0 turns it off")
    spm: float = Field(0.5, ge=0, le=1, allow_inf_nan=False, description="share of these whose suffix comes first (SPM)")
    piece: int | None = Field(
        None,
        ge=3,
        description="cut longer documents first, into texts of at most so many characters (about a window); unset: whole documents",
    )
    seed: int = Field(0, description="of what is turned and where it is cut")
    tokens: tuple[str, str, str] = Field(
        TOKENS, description="special tokens before prefix, suffix and middle; the tokenizer must have them"
    )

    @model_validator(mode="after")
    def _three_tokens(self) -> Fim:
        if len(set(self.tokens)) != 3 or not all(self.tokens):
            raise ValueError("`tokens` must be three different words")
        return self

    def fits(self, plan: Any) -> None:
        """Refuses a new model's tokenizer that is to be learned without the special tokens."""
        tokenizer = plan.tokenizer
        if self.rate and tokenizer.model is None and (missing := [token for token in self.tokens if token not in tokenizer.special]):
            raise RecipeError(
                f"`fim` marks stretches with {', '.join(missing)}, which the new model's tokenizer will not have",
                do=f"Say `special: {json.dumps(list(self.tokens))}` below `tokenizer`.",
            )

    def data(self, stream: Iterable[Document]) -> Iterable[Document]:
        """The documents with some of them turned.

        Raises:
            DataError: the stream is not of texts (a supervised training's conversations have no middle to move).
        """
        if isinstance(stream, Sequence) and stream:
            _text(stream[0])
        return Turned(stream, self) if self.rate else stream


@dataclass(frozen=True)
class Turned:
    """Documents, some with their middle at the end. As often to be gone through as those it is made from."""

    documents: Iterable[Document]
    fim: Fim

    @property
    def fingerprint(self) -> str:
        """Digest of the documents and of all that decides how they are turned."""
        return digest([fingerprint_of(self.documents), self.fim.fingerprint])

    def __iter__(self) -> Iterator[Document]:
        for number, document in enumerate(self._cut()):
            if self._chosen(number):
                yield turned(document, self._draw(number), self.fim.spm, self.fim.tokens)
            else:
                # A text that goes on is closed before a stretch that is turned: that one stands by itself.
                yield replace(document, continues=document.continues and not self._chosen(number + 1))

    def _cut(self) -> Iterator[Document]:
        for document in map(_text, self.documents):
            if self.fim.piece is None or len(document.text) <= self.fim.piece:
                yield document
                continue
            parts = list(pieces(iter([document.text]), document.where, self.fim.piece))
            yield from (*parts[:-1], replace(parts[-1], continues=document.continues))

    def _draw(self, number: int) -> random.Random:
        return random.Random(derive(self.fim.seed, "fim", "cut", number))

    def _chosen(self, number: int) -> bool:
        return random.Random(derive(self.fim.seed, "fim", "rate", number)).random() < self.fim.rate


def turned(document: Document, draw: random.Random, spm: float = 0.5, tokens: tuple[str, str, str] = TOKENS) -> Document:
    """A document with its middle at the end; nothing follows it any more.

    Args:
        document: without special tokens in it.
        draw: decides the form and the cuts.
        spm: share of documents in the form SPM.
        tokens: before prefix, suffix and middle.
    """
    text = document.text
    suffix_first = draw.random() < spm
    begin, end = sorted(draw.randint(0, len(text)) for _ in range(2))
    stretches = ("", text[end:], text[:end]) if suffix_first else (text[:begin], text[end:], text[begin:end])
    written, special = "", []
    for token, stretch in zip(tokens, stretches, strict=True):
        special.append((len(written), len(written) + len(token)))
        written += token + stretch
    return Document(written, document.where, special=tuple(special))


def restored(document: Document) -> str:
    """The text that a document was before its middle was moved (of both forms; one that was not turned is its own)."""
    if not document.special:
        return document.text
    (_, prefix), (prefix_end, suffix), (suffix_end, middle) = document.special
    return document.text[prefix:prefix_end] + document.text[middle:] + document.text[suffix:suffix_end]


def question(prefix: str, suffix: str, *, suffix_first: bool = True, tokens: tuple[str, str, str] = TOKENS) -> str:
    """What to let a model go on with so that it writes what belongs between `prefix` and `suffix`.

    With the suffix first (SPM) the prefix stands last, and the model goes on with it as with any text.
    """
    before, between, after = tokens
    return f"{before}{between}{suffix}{after}{prefix}" if suffix_first else f"{before}{prefix}{between}{suffix}{after}"


def _text(item: Any) -> Document:
    if not isinstance(item, Document):
        raise DataError(
            f"`fim` moves the middle of plain texts, but was given {type(item).__name__}s",
            do="Put it before `pretrain`; conversations that `sft` learns from stay as they are.",
        )
    if item.special:
        raise DataError("`fim` was given a text with special tokens in it", where=item.where, do="Use it once, and first.")
    return item
