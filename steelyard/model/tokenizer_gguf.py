"""Tokenizers out of GGUF metadata: byte-level BPE (`gpt2`), SentencePiece BPE (`llama`) and WordPiece (`bert`).

A byte-level vocabulary is learned on text that a regular expression cut into words first; GGUF names the rule
(`tokenizer.ggml.pre`), so a name that is not known here is refused: another rule would give other tokens. The rules are
those of llama.cpp (src/llama-vocab.cpp), in the published form of each model's tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.model.tokenizer_library import library
from steelyard.model.tokenizer_sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Pieces
from steelyard.model.tokenizer_sentencepiece import build as build_sentencepiece
from steelyard.model.tokenizer_wordpiece import NAMES, lowered, spelled_out
from steelyard.model.tokenizer_wordpiece import build as build_word_piece

WHERE = "GGUF metadata"
AGAIN = "Convert or download the model again."

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}" + TAIL
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?|\p{{N}}{{1,3}}" + TAIL
)
DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")

SPLITS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jais", "exaone4", "roberta-bpe", "modern-bert"), (GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), (r"\p{N}", GPT2)),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe", "falcon3", "pixtral", "lfm2", "glm4", "chatglm-bpe"), (LLAMA3,)
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), (QWEN2,)),
    "tekken": (TEKKEN,),
    **dict.fromkeys(("gpt-4o", "llama4"), (GPT4O,)),
    "default": DEFAULT,
}
"""What cuts a text into words before pairs are merged: each rule cuts what the one before it left."""
WHOLE_WORDS = frozenset(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "tekken"))
"""Rules whose vocabularies take a word that is a token as it is, without merging."""
BEGINS_TEXT = WHOLE_WORDS
"""Rules whose models expect a beginning-of-sequence token unless the file says otherwise."""
COMPOSED = frozenset(("qwen2",))
"""Rules whose published tokenizers compose characters first (Unicode NFC); llama.cpp leaves that out."""
ENDS_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>")
"""Control tokens that end an answer even where a file names only the end of text."""

SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}
"""What the ids are where a SentencePiece file does not say."""

WORD_PIECE_IDS = {"unk": "unknown", "sep": "seperator", "cls": "cls", "pad": "padding", "mask": "mask"}
"""How keys of the format spell the special tokens of BERT; one of them not as a dictionary would."""


def read(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Tokenizer`.

    Raises:
        ModelFileError: keys are missing or disagree.
        UnsupportedError: a kind of tokenizer or a splitting rule that is not known here, by name.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _texts(metadata, "tokens")
    types = _types(metadata, len(tokens))
    if kind == "bert":
        return word_piece(metadata, tokens, types)
    if kind == "gpt2":
        rule = metadata.get("tokenizer.ggml.pre", "gpt-2")
        backend = byte_level(tokens, _merges(metadata), str(rule), WHERE)
        add_bos = rule in BEGINS_TEXT
    elif kind == "llama":
        prefix = _flag(metadata, "add_space_prefix", True)
        backend = build_sentencepiece(Pieces(tokens, _scores(metadata, len(tokens)), types, prefix), WHERE)
        add_bos = True
    else:
        raise UnsupportedError(
            f"a tokenizer of kind {kind!r:.60} is not read from GGUF",
            where=f"{WHERE}: tokenizer.ggml.model",
            do="Use the model's Hugging Face directory; from GGUF, gpt2, llama and bert are read.",
        )
    add_tokens(backend, tokens, types)
    defaults = SENTENCEPIECE_IDS if kind == "llama" else {}
    ids = {name: _id(metadata, name, len(tokens), defaults.get(name)) for name in ("bos", "eos", "eot", "unknown", "padding")}
    turns = (id for id, token in enumerate(tokens) if types[id] == CONTROL and token in ENDS_TURN)
    eos_ids = tuple(dict.fromkeys(id for id in (ids["eos"], ids["eot"], *turns) if id is not None))
    add_bos = _flag(metadata, "add_bos_token", add_bos) and ids["bos"] is not None
    add_eos = _flag(metadata, "add_eos_token", False) and ids["eos"] is not None
    names = {"bos_token": ids["bos"], "eos_token": ids["eos"], "unk_token": ids["unknown"], "pad_token": ids["padding"]}
    config = {name: tokens[id] for name, id in names.items() if id is not None}
    prefix_ids = (ids["bos"],) if add_bos and ids["bos"] is not None else ()
    suffix_ids = (ids["eos"],) if add_eos and ids["eos"] is not None else ()
    frame(backend, prefix_ids, suffix_ids)
    return {
        "backend": backend,
        "bos_id": ids["bos"],
        "eos_ids": eos_ids,
        "pad_id": ids["padding"],
        "prefix_ids": prefix_ids,
        "suffix_ids": suffix_ids,
        "config": config | {"add_bos_token": bool(prefix_ids), "add_eos_token": bool(suffix_ids), "clean_up_tokenization_spaces": False},
    }


def word_piece(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    """The fields of a `Tokenizer` over BERT's WordPiece.

    Files do not say whether texts are lower-cased (llama.cpp always does); the vocabulary tells.
    """
    ids = {name: _id(metadata, WORD_PIECE_IDS[name], len(tokens), None) for name in NAMES}
    if ids["cls"] is None:
        ids["cls"] = _id(metadata, "bos", len(tokens), None)  # older files call it so
    if ids["sep"] is None:
        ids["sep"] = _id(metadata, "eos", len(tokens), None)
    texts = spelled_out(tokens, {id for id in ids.values() if id is not None}, f"{WHERE}: tokenizer.ggml.tokens")
    names = {name: usual if (id := ids[name]) is None else texts[id] for name, usual in NAMES.items()}
    vocabulary = {text: id for id, text in enumerate(texts)}
    lowercase = lowered(texts, {text for text, kind in zip(texts, types, strict=True) if kind != NORMAL} | set(names.values()))
    backend = build_word_piece(vocabulary, names, f"{WHERE}: tokenizer.ggml.tokens", lowercase=lowercase)
    add_tokens(backend, texts, types)
    before, after = (vocabulary[names["cls"]],), (vocabulary[names["sep"]],)
    frame(backend, before, after)
    config: dict[str, Any] = {f"{name}_token": text for name, text in names.items() if text in vocabulary}
    return {
        "backend": backend,
        "pad_id": vocabulary.get(names["pad"]),
        "prefix_ids": before,
        "suffix_ids": after,
        "config": config | {"do_lower_case": lowercase, "clean_up_tokenization_spaces": False},
    }


def byte_level(tokens: Sequence[str], merges: Sequence[tuple[str, str]], rule: str, where: str) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer.

    Args:
        tokens: the vocabulary in order of ids, in GPT-2's byte alphabet.
        merges: pairs, best first.
        rule: the name of what cuts a text into words (`SPLITS`).
        where: address for errors.
    """
    if rule not in SPLITS:
        raise UnsupportedError(
            f"the rule {rule!r:.60} that cuts text into words is not known here",
            where=f"{where}: tokenizer.ggml.pre",
            do=f"Use the model's Hugging Face directory, or one of: {', '.join(SPLITS)}.",
        )
    vocabulary = {token: id for id, token in enumerate(tokens)}
    for place, (left, right) in enumerate(merges):
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise ModelFileError(f"merge {place} ({left!r:.40}, {right!r:.40}) uses a token that does not exist", where=where, do=AGAIN)
    with library(where):
        model = models.BPE(vocab=vocabulary, merges=list(merges), ignore_merges=rule in WHOLE_WORDS)
        tokenizer = tokenizers.Tokenizer(model)
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS[rule]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if rule in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def add_tokens(backend: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Declares tokens that are found whole in a text: control and unknown ones as special, user-defined ones as ordinary."""
    for special, kinds in ((True, (CONTROL, UNKNOWN)), (False, (USER_DEFINED,))):
        found = [AddedToken(token, special=special, normalized=False) for token, kind in zip(tokens, types, strict=True) if kind in kinds]
        with library(WHERE):
            backend.add_special_tokens(found) if special else backend.add_tokens(found)  # type: ignore[arg-type]


def frame(backend: tokenizers.Tokenizer, prefix_ids: Sequence[int], suffix_ids: Sequence[int]) -> None:
    """Tells the library what belongs before and after a text, so that a saved tokenizer adds it for others."""
    names = {id: str(backend.id_to_token(id)) for id in (*prefix_ids, *suffix_ids)}
    before, after = [names[id] for id in prefix_ids], [names[id] for id in suffix_ids]
    single = [*before, "$A:0", *after]
    pair = [*before, "$A:0", *after, *(f"{name}:1" for name in before), "$B:1", *(f"{name}:1" for name in after)]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, id) for id, name in names.items()]
    )


def _list(metadata: Mapping[str, Any], name: str) -> list[Any]:
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key)
    if value is None:
        raise ModelFileError(f"the key {key} is missing", where=WHERE, do=AGAIN)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ModelFileError(f"{key} is not a list", where=WHERE, do=AGAIN)
    return list(value)


def _texts(metadata: Mapping[str, Any], name: str) -> list[str]:
    values = _list(metadata, name)
    if not values or not all(isinstance(value, str) for value in values):
        raise ModelFileError(f"tokenizer.ggml.{name} is not a list of texts", where=WHERE, do=AGAIN)
    texts = [text or f"[EMPTY_{place}]" for place, text in enumerate(values)]  # llama.cpp's name for a token without text
    if name == "tokens" and len(set(texts)) < len(texts):
        seen: set[str] = set()
        twice = next(text for text in texts if text in seen or seen.add(text))
        raise ModelFileError(f"the token {twice!r:.60} is there twice", where=f"{WHERE}: tokenizer.ggml.tokens", do=AGAIN)
    return texts


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [tuple(text.split(" ")) for text in _texts(metadata, "merges")] if metadata.get("tokenizer.ggml.merges") != [] else []
    wrong = next((place for place, pair in enumerate(pairs) if len(pair) != 2), None)
    if wrong is not None:
        raise ModelFileError(f"merge {wrong} is not two tokens: {' '.join(pairs[wrong])!r:.60}", where=WHERE, do=AGAIN)
    return pairs  # type: ignore[return-value]


def _types(metadata: Mapping[str, Any], count: int) -> list[int]:
    if "tokenizer.ggml.token_type" not in metadata:
        return [NORMAL] * count
    types = _list(metadata, "token_type")
    if len(types) != count or not all(type(kind) is int and 0 <= kind <= BYTE for kind in types):
        raise ModelFileError("tokenizer.ggml.token_type does not fit the tokens", where=WHERE, do=AGAIN)
    return types


def _scores(metadata: Mapping[str, Any], count: int) -> list[float]:
    scores = _list(metadata, "scores")
    if len(scores) != count or not all(isinstance(score, (int, float)) for score in scores):
        raise ModelFileError("tokenizer.ggml.scores does not fit the tokens", where=WHERE, do=AGAIN)
    return [float(score) for score in scores]


def _flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(value, bool):
        raise ModelFileError(f"tokenizer.ggml.{name} is {value!r:.40}, not true or false", where=WHERE, do=AGAIN)
    return value


def _id(metadata: Mapping[str, Any], name: str, count: int, default: int | None) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key, default if default is not None and default < count else None)
    if value is None or value == 2**32 - 1:  # how a missing id is written as an unsigned number
        return None
    if type(value) is not int or not 0 <= value < count:
        raise ModelFileError(f"{key} is {value!r:.40}, but there are {count} tokens", where=WHERE, do=AGAIN)
    return value
