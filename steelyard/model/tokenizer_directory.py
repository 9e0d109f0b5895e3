"""Tokenizers out of a Hugging Face directory: tokenizer.json, or what older models have instead of it.

| files | tokenizer |
| --- | --- |
| `tokenizer.json` | as it is |
| `tokenizer.model` | SentencePiece BPE |
| `vocab.json` + `merges.txt` | byte-level BPE |
| `vocab.txt` | BERT's WordPiece |

Which tokens begin and end a text stands, in this order of trust, in tokenizer_config.json, special_tokens_map.json,
generation_config.json and config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.model.files.extent import ExtentFile
from steelyard.model.files.strict_json import read_object
from steelyard.model.tokenizer_gguf import add_tokens, byte_level, frame
from steelyard.model.tokenizer_library import library
from steelyard.model.tokenizer_sentencepiece import build as build_sentencepiece
from steelyard.model.tokenizer_sentencepiece import read_file
from steelyard.model.tokenizer_wordpiece import NAMES as WORD_PIECE_NAMES
from steelyard.model.tokenizer_wordpiece import build as build_word_piece

RESTORE = "Restore the published tokenizer files."
MOST_BYTES = 2**28
RULE_OF_CLASS = {"GPT2": "gpt-2", "Qwen2": "qwen2", "Roberta": "gpt-2", "gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
"""The splitting rule of a byte-level vocabulary, by tokenizer class or model type: vocab.json does not say."""
DROPPED = ("chat_template", "auto_map", "tokenizer_file", "name_or_path", "special_tokens_map_file")
"""What is not written again: the template has a file of its own, code is never pointed at, paths are another machine's."""


def read(folder: Path) -> dict[str, Any]:
    """The fields of a `Tokenizer`.

    Raises:
        ModelFileError: the files are missing, damaged or disagree.
        UnsupportedError: a kind of tokenizer that is not read here.
    """
    config = _optional(folder / "tokenizer_config.json")
    model_config = _optional(folder / "config.json")
    generation = _optional(folder / "generation_config.json")
    special = {**_optional(folder / "special_tokens_map.json"), **config}
    shape: dict[str, Any] = {}
    rebuilt = not (folder / "tokenizer.json").exists()
    if rebuilt:
        backend, special = _build(folder, special, model_config)
    else:
        backend, shape = _load(folder / "tokenizer.json")
    names = {name: _content(special.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    ids = {name: None if text is None else backend.token_to_id(text) for name, text in names.items()}
    numbers = {name: _ids(name, generation, model_config, folder) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    bos_id = ids["bos_token"] if ids["bos_token"] is not None else next(iter(numbers["bos_token_id"]), None)
    pad_id = ids["pad_token"] if ids["pad_token"] is not None else next(iter(numbers["pad_token_id"]), None)
    eos_ids = tuple(dict.fromkeys(id for id in (ids["eos_token"], *numbers["eos_token_id"]) if id is not None))
    before, after = _frame(backend, config, bos_id, ids["eos_token"], str(folder))
    kept = {key: value for key, value in config.items() if key not in DROPPED}
    if rebuilt:  # its class would build the tokenizer its own way from files that are not written again
        kept |= {name: text for name, text in names.items() if text is not None} | {"tokenizer_class": "PreTrainedTokenizerFast"}
        kept.pop("added_tokens_decoder", None)
    return {
        "backend": backend,
        "bos_id": bos_id,
        "eos_ids": eos_ids,
        "pad_id": pad_id,
        "prefix_ids": before,
        "suffix_ids": after,
        "config": kept,
        "generation": generation,
        "shape": shape,
    }


def _load(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A tokenizer.json, and its truncation and padding, which here are off: a text is read whole or refused."""
    where = str(path)
    content = _bytes(path)
    with library(where, ValueError):
        backend = tokenizers.Tokenizer.from_buffer(content)
    if backend.truncation is None and backend.padding is None:
        return backend, {}
    text = json.loads(content.decode("utf-8"))
    shape = {key: text.get(key) for key in ("truncation", "padding")}
    backend.no_truncation()
    backend.no_padding()
    return backend, shape


def _build(folder: Path, special: Mapping[str, Any], model_config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A tokenizer out of older files, and the special tokens it has."""
    special = dict(special)
    if (path := folder / "tokenizer.model").exists():
        file = read_file(path)
        backend = build_sentencepiece(file.pieces, str(path))
        add_tokens(backend, file.pieces.tokens, file.pieces.types)
        _add_more(backend, folder, special)
        for name, id in (("bos_token", file.bos_id), ("eos_token", file.eos_id), ("pad_token", file.pad_id)):
            if id >= 0:
                special.setdefault(name, file.pieces.tokens[id])
        begins = special.get("add_bos_token", True) and file.bos_id >= 0
        frame(backend, [file.bos_id] if begins else [], [])
        return backend, special
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        backend = _read_byte_level(folder, special, model_config)
        _add_more(backend, folder, special)
        return backend, special
    if (path := folder / "vocab.txt").exists():
        return _read_word_piece(path, special), special
    raise ModelFileError(
        "there is no tokenizer: neither tokenizer.json, tokenizer.model, vocab.json with merges.txt, nor vocab.txt",
        where=str(folder),
        do="Copy the tokenizer's files beside the weights.",
    )


def _read_byte_level(folder: Path, special: Mapping[str, Any], model_config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    name = str(special.get("tokenizer_class") or model_config.get("model_type") or "gpt2").removesuffix("Fast").removesuffix("Tokenizer")
    if name not in RULE_OF_CLASS:
        raise UnsupportedError(
            f"how a tokenizer of class {name} cuts text into words is not known from vocab.json and merges.txt alone",
            where=str(folder),
            do="Save its tokenizer.json with transformers and put it beside them.",
        )
    vocabulary = read_object(folder / "vocab.json")
    if not vocabulary or sorted(value for value in vocabulary.values() if type(value) is int) != list(range(len(vocabulary))):
        raise ModelFileError("not a vocabulary: its ids are not 0, 1, 2, ...", where=str(folder / "vocab.json"), do=RESTORE)
    merges = []
    for number, line in enumerate(_lines(folder / "merges.txt"), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise ModelFileError(f"not two tokens: {line!r:.60}", where=f"{folder / 'merges.txt'}:{number}", do=RESTORE)
        merges.append((pair[0], pair[1]))
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    backend = byte_level(tokens, merges, RULE_OF_CLASS[name], str(folder / "merges.txt"))
    if special.get("add_prefix_space") and RULE_OF_CLASS[name] == "gpt-2":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    frame(backend, [], [])
    return backend


def _read_word_piece(path: Path, special: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's tokenizer out of its list of tokens, one a line."""
    tokens = _lines(path)
    while tokens and not tokens[-1]:
        tokens.pop()
    vocabulary = {token: id for id, token in enumerate(tokens)}
    names = {name: _content(special.get(f"{name}_token")) or usual for name, usual in WORD_PIECE_NAMES.items()}
    backend = build_word_piece(
        vocabulary,
        names,
        str(path),
        lowercase=bool(special.get("do_lower_case", True)),
        chinese=bool(special.get("tokenize_chinese_chars", True)),
        strip_accents=special.get("strip_accents"),
    )
    with library(str(path)):
        frame(backend, [vocabulary[names["cls"]]], [vocabulary[names["sep"]]])
    return backend


def _add_more(backend: tokenizers.Tokenizer, folder: Path, special: Mapping[str, Any]) -> None:
    """Tokens that were added after the vocabulary was learned (added_tokens.json, `added_tokens_decoder`), at their own ids."""
    more: dict[int, AddedToken] = {}
    for text, id in _optional(folder / "added_tokens.json").items():
        if type(id) is int:
            more[id] = AddedToken(text, special=False, normalized=False)
    for id, entry in (special.get("added_tokens_decoder") or {}).items():
        if str(id).isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            flags = {flag: bool(entry.get(flag, False)) for flag in ("special", "normalized", "lstrip", "rstrip", "single_word")}
            more[int(id)] = AddedToken(entry["content"], **flags)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        if (text := _content(special.get(name))) is not None and (id := backend.token_to_id(text)) is not None:
            more.setdefault(id, AddedToken(text, special=True, normalized=False))
    for id, token in sorted(more.items()):
        with library(str(folder)):
            backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])  # type: ignore[arg-type]
        if backend.token_to_id(token.content) != id:
            raise ModelFileError(
                f"the added token {token.content!r:.60} has id {id}, where the vocabulary has {backend.token_to_id(token.content)}",
                where=str(folder),
                do=RESTORE,
            )


def _frame(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], bos_id: int | None, eos_id: int | None, where: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is read before and after a text: as the tokenizer adds it, unless the config says otherwise about its first or last token."""
    with library(where):
        probe = backend.encode("a", add_special_tokens=True)
        added = list(probe.special_tokens_mask)
    start = added.index(0) if 0 in added else len(added)
    end = added[::-1].index(0) if 0 in added else 0
    before, after = list(probe.ids[:start]), list(probe.ids[len(added) - end :])
    for flag, id, side in (("add_bos_token", bos_id, before), ("add_eos_token", eos_id, after)):
        if isinstance(config.get(flag), bool) and id is not None:
            if config[flag] and id not in side:
                side.insert(0 if side is before else len(side), id)
            elif not config[flag] and id in side:
                side.remove(id)
    return tuple(before), tuple(after)


def _ids(name: str, generation: Mapping[str, Any], model_config: Mapping[str, Any], folder: Path) -> list[int]:
    """Special token ids where configs give numbers; generation_config.json wins over config.json."""
    file = "generation_config.json" if generation.get(name) is not None else "config.json"
    value = generation.get(name) if generation.get(name) is not None else model_config.get(name)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(id) is int and 0 <= id < 2**31 for id in values):
        raise ModelFileError(f"{name} is {value!r:.60}, not token ids", where=str(folder / file), do=RESTORE)
    return values


def _content(value: Any) -> str | None:
    """A special token's text, which stands bare or as an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _bytes(path: Path) -> bytes:
    """A regular file's content, of a size that a tokenizer may have."""
    with ExtentFile(path) as file:
        if file.size > MOST_BYTES:
            raise ModelFileError(f"{file.size} bytes are too many for it", where=str(path), do=RESTORE)
        return file.read(0, file.size)


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _lines(path: Path) -> list[str]:
    """Lines as they are: only a line feed ends one, since tokens may hold any other separator."""
    try:
        text = _bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"not UTF-8 ({error.reason} at byte {error.start})", where=str(path), do=RESTORE) from None
    return [line.removesuffix("\r") for line in text.split("\n")]
