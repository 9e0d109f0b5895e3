"""BERT's WordPiece tokenizer (arXiv:1810.04805): cleaned, lower-cased, cut at spaces and punctuation, longest piece first.

Vocabularies are kept in two spellings. BERT's own marks what continues a word (`##ing`); GGUF's marks what begins one, with
llama.cpp's "phantom space" (`▁run`, `ing`), and leaves names in brackets (`[CLS]`) as they are. `spelled_out` goes back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from steelyard.core.errors import ModelFileError
from steelyard.model.tokenizer_library import library

PHANTOM, CONTINUES = "▁", "##"
NAMES = {name: f"[{name.upper()}]" for name in ("unk", "sep", "cls", "pad", "mask")}
"""The special tokens, as every BERT but a few calls them."""
LONGEST_WORD = 100  # characters; a longer word is unknown as a whole


def build(
    vocabulary: Mapping[str, int],
    names: Mapping[str, str],
    where: str,
    *,
    lowercase: bool = True,
    chinese: bool = True,
    strip_accents: bool | None = None,
) -> tokenizers.Tokenizer:
    """The tokenizer of a WordPiece vocabulary in BERT's own spelling; what stands around a text is not yet said.

    Args:
        vocabulary: token -> id.
        names: `unk`, `sep`, `cls`, `pad` and `mask` -> the token; the last two may be missing from the vocabulary.
        where: address for errors.
        lowercase: whether texts are lower-cased.
        chinese: whether every Chinese character is a word.
        strip_accents: whether accents go; None: where texts are lower-cased.

    Raises:
        ModelFileError: special tokens that no text can be read without are missing.
    """
    if missing := [names[name] for name in ("unk", "sep", "cls") if names[name] not in vocabulary]:
        raise ModelFileError(f"{', '.join(missing)} are not in it", where=where, do="Restore the published tokenizer files.")
    with library(where):
        model = models.WordPiece(vocab=dict(vocabulary), unk_token=names["unk"], max_input_chars_per_word=LONGEST_WORD)
        backend = tokenizers.Tokenizer(model)
        backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, handle_chinese_chars=chinese, strip_accents=strip_accents)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in names.values() if text in vocabulary])  # type: ignore[arg-type]
    return backend


def spelled_out(tokens: Sequence[str], whole: Collection[int], where: str) -> list[str]:
    """GGUF's spelling of a vocabulary in BERT's own.

    Args:
        tokens: with phantom spaces, in the order of their ids.
        whole: ids of tokens that no mark was put on, besides those in brackets.
        where: address for errors.

    Raises:
        ModelFileError: no token begins a word, so this is another spelling, or two tokens become one.
    """
    if not any(token.startswith(PHANTOM) for token in tokens):
        raise ModelFileError(
            f"no token begins with {PHANTOM!r}, which marks the beginning of a word", where=where, do="Convert the model to GGUF again."
        )
    out: dict[str, int] = {}
    for id, token in enumerate(tokens):
        if token.startswith(PHANTOM) and len(token) > 1:
            text = token.removeprefix(PHANTOM)
        elif id in whole or (token.startswith("[") and token.endswith("]")):
            text = token
        else:
            text = CONTINUES + token
        if out.setdefault(text, id) != id:
            raise ModelFileError(
                f"the tokens {out[text]} and {id} are both {text!r:.60}", where=where, do="Convert the model to GGUF again."
            )
    return list(out)


def lowered(tokens: Collection[str], special: Collection[str]) -> bool:
    """Whether a vocabulary was learned from lower-cased text, for files that do not say: then it holds no capital letter."""
    return all(token == token.lower() for token in tokens if token not in special and not (token.startswith("[") and token.endswith("]")))
