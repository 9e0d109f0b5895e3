"""Tokenizers: the ids that transformers and sentencepiece give, from every form a tokenizer is kept in; text as a stream."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from steelyard.core.errors import DataError, ModelFileError, SteelyardError, UnsupportedError
from steelyard.model.files.gguf_file import GgufFile
from steelyard.model.tokenizer import LONG, Tokenizer
from steelyard.model.tokenizer_gguf import SPLITS
from steelyard.model.tokenizer_stream import byte_of_character

HARD = (
    "Hello| world|'ll|'LL|don't|1234567|3.14|  |   |\n|\n\n\n|\t|\r\n|🌍|👩‍👩‍👧|日本語|한국어|العربية|ß|ﬁ|é|def f(x):\n    return x**2|"
    "<|im_start|>|<|im_end|>|<|endoftext|>|<repo_name>|http://a.b/c?d=e&f|\u00a0|\u200b|\u3000|½|²|Ⅷ|_|__init__|\x00|\x7f|\ufffd|𝔘𝔫𝔦|İ|Ǆ|"
    "!!!|...|$|€|`code`|{}[]()|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|▁|Ġ|e\u0301|कि|นะ|\U0010ffff"
)
PIECES = [*re.split(r"(?<!<)\|(?!>)", HARD), "|", "<|"]


def hard_texts(count: int, seed: int, pieces: list[str] = PIECES) -> list[str]:
    """Texts put together from what trips tokenizers."""
    source = random.Random(seed)
    return ["", " ", *("".join(source.choice(pieces) for _ in range(source.randint(1, 9))) for _ in range(count))]


@pytest.fixture(scope="module")
def metadata(smollm: Path) -> Mapping[str, Any]:
    with GgufFile(smollm) as file:
        return file.metadata


@pytest.fixture(scope="module")
def tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(metadata)


@pytest.fixture(scope="module")
def reference(smollm: Path) -> Any:
    """transformers' own reading of the GGUF file."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(smollm.parent, gguf_file=smollm.name)


# --- byte-level BPE out of GGUF --------------------------------------------------------------------------------------


def test_gguf_tokens_are_those_of_transformers(tokenizer: Tokenizer, reference: Any) -> None:
    tried = 0
    for text in hard_texts(1500, seed=1):
        if re.search(r"\s\s\d|\s\s[½²Ⅷ]", text):
            continue  # see the next test
        tried += 1
        ids = reference.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids) == reference.decode(ids, clean_up_tokenization_spaces=False)
        skipped = reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids, skip_special=True) == skipped
    assert tried > 1000
    assert tokenizer.bos_id == reference.bos_token_id
    assert tokenizer.eos_ids == (reference.eos_token_id,)
    assert tokenizer.pad_id == reference.pad_token_id
    assert tokenizer.vocabulary_size == len(reference)
    assert not tokenizer.add_bos


def test_digits_stand_alone_as_in_the_published_tokenizer(tokenizer: Tokenizer, reference: Any) -> None:
    """transformers reads this file's rule `smollm` as GPT-2's; the published tokenizer.json (and llama.cpp) cut digits out first.

    They differ only where two spaces or more stand before a digit.
    """
    published = tokenizers.Tokenizer.from_str(reference.backend_tokenizer.to_str())
    published.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )  # type: ignore[assignment]
    for text in hard_texts(700, seed=2, pieces=[*PIECES, *"0123456789", " ", " ", "  "]):
        assert tokenizer.encode(text) == published.encode(text, add_special_tokens=False).ids, repr(text)


def test_special_tokens_can_be_read_as_ordinary_text(tokenizer: Tokenizer) -> None:
    text = "<|im_start|>user\n<|im_end|>"
    ids = tokenizer.encode(text, special=False)
    assert not tokenizer.special_ids & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text)[0] == tokenizer.bos_id
    assert tokenizer.encode(text)[-1] in tokenizer.eos_ids


def test_a_long_text_is_read_as_a_short_one_is(tokenizer: Tokenizer) -> None:
    text = "".join(hard_texts(3000, seed=5))
    assert len(text) > LONG
    for special in (True, False):
        backend = tokenizer.backend if special else tokenizer._plain
        assert tokenizer.encode(text, special) == backend.encode(text, add_special_tokens=False).ids
    with pytest.raises(DataError, match="surrogate.*character 20000"):
        tokenizer.encode("a " * LONG + "\ud800")


def test_a_lone_surrogate_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"U\+D800\) at character 3"):
        tokenizer.encode("abc\ud800")
    with pytest.raises(DataError, match="surrogate"):
        tokenizer.encode("\udfff", special=False)
    with pytest.raises(DataError, match="expected text, not bytes"):
        tokenizer.encode(b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[-1], [2**32], [2**70], ["a"], [None]])
def test_what_is_no_id_is_refused(tokenizer: Tokenizer, ids: list[Any]) -> None:
    with pytest.raises(DataError, match="not token ids"):
        tokenizer.decode(ids)


def test_an_id_without_a_token_adds_nothing(tokenizer: Tokenizer) -> None:
    hello = tokenizer.encode("Hello")
    assert tokenizer.decode([*hello, 10**6]) == "Hello"
    assert tokenizer.token(10**6) is None and tokenizer.token(-1) is None


def test_a_saved_tokenizer_is_the_one_transformers_opens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for model_type in ("llama", "gpt2", None):
        folder = tmp_path / str(model_type)
        folder.mkdir()
        tokenizer.save(folder)
        if model_type:
            (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        opened = transformers.AutoTokenizer.from_pretrained(folder)
        again = Tokenizer.from_directory(folder)
        for text in hard_texts(150, seed=3):
            assert opened.encode(text) == tokenizer.encode_for_model(text) == again.encode_for_model(text), repr(text)
        assert (opened.bos_token_id, opened.eos_token_id, opened.pad_token_id) == (tokenizer.bos_id, tokenizer.eos_ids[0], tokenizer.pad_id)
        assert (again.bos_id, again.eos_ids, again.pad_id, again.add_bos) == (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id, False)
        assert again.fingerprint == tokenizer.fingerprint


ALPHABET = sorted(byte_of_character(), key=byte_of_character().__getitem__)


def byte_metadata(**changes: Any) -> dict[str, Any]:
    """A small byte-level vocabulary as GGUF has it."""
    tokens = ["<|bos|>", "<|end|>", *ALPHABET, "ab", "abc", "Ġa", "12", "123"]
    out = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
        "tokenizer.ggml.merges": ["a b", "ab c", "Ġ a", "1 2", "12 3"],
        "tokenizer.ggml.bos_token_id": 0,
    }
    out |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in out.items() if value is not ...}


def spelled(tokenizer: Tokenizer, text: str) -> list[str]:
    return [str(tokenizer.token(id)) for id in tokenizer.encode(text)]


def test_rules_cut_numbers_as_their_models_do() -> None:
    cuts = {
        rule: spelled(Tokenizer.from_gguf(byte_metadata(pre=rule)), "1234") for rule in ("gpt-2", "smollm", "qwen2", "llama-bpe", "tekken")
    }
    assert cuts == {
        "gpt-2": ["123", "4"],
        "smollm": ["1", "2", "3", "4"],
        "qwen2": ["1", "2", "3", "4"],
        "llama-bpe": ["123", "4"],
        "tekken": ["1", "2", "3", "4"],
    }


def test_every_rule_keeps_every_text() -> None:
    for rule in SPLITS:
        tokenizer = Tokenizer.from_gguf(byte_metadata(pre=rule))
        for text in hard_texts(40, seed=4):
            assert tokenizer.decode(tokenizer.encode(text)) == (text if rule != "qwen2" else normalizers.NFC().normalize_str(text)), rule


def test_a_beginning_is_expected_where_the_rule_or_the_file_says_so(tmp_path: Path) -> None:
    assert Tokenizer.from_gguf(byte_metadata(pre="llama-bpe")).prefix_ids == (0,)
    assert Tokenizer.from_gguf(byte_metadata(pre="llama-bpe", add_bos_token=False)).prefix_ids == ()
    assert Tokenizer.from_gguf(byte_metadata(add_bos_token=True)).encode_for_model("ab")[0] == 0
    assert Tokenizer.from_gguf(byte_metadata(add_bos_token=True, bos_token_id=...)).prefix_ids == ()
    framed = Tokenizer.from_gguf(byte_metadata(add_bos_token=True, add_eos_token=True, eos_token_id=1))
    framed.save(tmp_path)
    again = Tokenizer.from_directory(tmp_path)
    assert (again.prefix_ids, again.suffix_ids, again.add_bos) == ((0,), (1,), True)
    transformers = pytest.importorskip("transformers")
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert opened.encode("abc ab") == framed.encode_for_model("abc ab") == again.encode_for_model("abc ab")


def test_all_that_ends_an_answer_is_known() -> None:
    assert Tokenizer.from_gguf(byte_metadata()).eos_ids == (1,)  # the control token <|end|> ends a turn
    assert Tokenizer.from_gguf(byte_metadata(eos_token_id=0)).eos_ids == (0, 1)
    assert Tokenizer.from_gguf(byte_metadata(eos_token_id=0, eot_token_id=5)).eos_ids == (0, 5, 1)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tokens": ...}, "tokens is missing"),
        ({"tokens": []}, "not a list of texts"),
        ({"tokens": "abc"}, "not a list"),
        ({"tokens": ["a", 3]}, "not a list of texts"),
        ({"tokens": ["a", "a"], "token_type": ...}, "there twice"),
        ({"merges": ...}, "merges is missing"),
        ({"merges": ["a b", "a z z"]}, "merge 1 is not two tokens"),
        ({"merges": ["ab"]}, "merge 0 is not two tokens"),
        ({"merges": ["b a"]}, "uses a token that does not exist"),
        ({"token_type": [1, 2]}, "token_type does not fit"),
        ({"token_type": [9] * 263}, "token_type does not fit"),
        ({"bos_token_id": 10**6}, "but there are 263 tokens"),
        ({"bos_token_id": -1}, "but there are 263 tokens"),
        ({"bos_token_id": "0"}, "but there are 263 tokens"),
        ({"add_bos_token": 1}, "not true or false"),
        ({"model": "llama"}, "scores is missing"),
        ({"model": "llama", "scores": [1.0]}, "scores does not fit"),
        ({"model": "llama", "scores": [float("nan")] * 263}, "not a number"),
    ],
)
def test_contradictory_metadata_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelFileError, match=why):
        Tokenizer.from_gguf(byte_metadata(**changes))


def test_unknown_kinds_and_rules_are_named() -> None:
    with pytest.raises(UnsupportedError, match="'rwkv'"):
        Tokenizer.from_gguf(byte_metadata(model="rwkv"))
    with pytest.raises(UnsupportedError, match="'unheard-of'"):
        Tokenizer.from_gguf(byte_metadata(pre="unheard-of"))


# --- SentencePiece ---------------------------------------------------------------------------------------------------

TRAININGS: dict[str, dict[str, Any]] = {
    "bytes": {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "bare": {
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "split_by_whitespace": False,
    },
    "unknowns": {"byte_fallback": False, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "normalised": {"byte_fallback": True, "normalization_rule_name": "nmt_nfkc"},
}


@cache
def trained(name: str) -> bytes:
    """A small SentencePiece BPE model, on text that repeats itself within its pieces."""
    sentencepiece = pytest.importorskip("sentencepiece")
    source = random.Random(0)
    words = ["the", "cat", "sat", "on", "mat", "hello", "world", "ababab", "banana", "aaaa", "print(x)", "über", "naïve", "日本", "語", "é"]
    lines = [" ".join(source.choice(words) for _ in range(source.randint(1, 12))) for _ in range(1000)]
    lines += ["".join(source.choice("ab") for _ in range(30)) for _ in range(200)] + ["    x = 1", "\t\ty  =  2"] * 40
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="bpe", vocab_size=450, minloglevel=2, num_threads=1, **TRAININGS[name]
    )
    return out.getvalue()


@cache
def peer(name: str) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=trained(name))


@cache
def from_scores(name: str) -> Tokenizer:
    """The same vocabulary through GGUF metadata: tokens, scores, types; no merges."""
    processor = peer(name)
    ids = range(processor.get_piece_size())
    kinds = [3 if processor.is_control(i) else 2 if processor.is_unknown(i) else 6 if processor.is_byte(i) else 1 for i in ids]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
            "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.add_space_prefix": TRAININGS[name].get("add_dummy_prefix", True),
        }
    )


texts = st.one_of(
    st.text(alphabet="ab ", max_size=40),
    st.text(alphabet="ab  xthecsé語日🌍\n\t▁=1()", max_size=40),
    st.text(max_size=30),
)


@pytest.mark.parametrize("name", ["bytes", "bare", "unknowns"])
@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_merges_rebuilt_from_scores_give_sentencepieces_ids(name: str, text: str) -> None:
    tokenizer, processor = from_scores(name), peer(name)
    ids = processor.encode(text)
    assert tokenizer.encode(text) == ids
    if name != "unknowns":  # sentencepiece shows the unknown piece as a question mark of its own
        assert tokenizer.decode(ids) == processor.decode(ids)


def test_sentencepiece_defaults_are_those_of_its_files() -> None:
    tokenizer = from_scores("bytes")
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.prefix_ids, tokenizer.add_bos) == (1, (2,), (1,), True)
    assert tokenizer.encode("<s>hello</s>") == [1, *tokenizer.encode("hello"), 2]
    assert tokenizer.encode("<s>", special=False) != [1]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_lone_tokenizer_model_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained(name))
    tokenizer, processor = Tokenizer.from_directory(tmp_path), peer(name)
    pieces = ["ab", "aba", " ", "  ", "hello", "日本", "é", "e\u0301", "ﬁ", "x", "\t", "1", "=", "🌍"]
    for text in hard_texts(300, seed=5, pieces=pieces):
        assert tokenizer.encode(text) == processor.encode(text), repr(text)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id, tokenizer.add_bos) == (1, (2,), None, True)
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "llama"}')
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    again = Tokenizer.from_directory(tmp_path / "saved")
    for text in hard_texts(60, seed=6, pieces=pieces):
        assert opened.encode(text) == tokenizer.encode_for_model(text) == again.encode_for_model(text), repr(text)


def test_tokens_added_later_keep_their_ids(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained("bytes"))
    size = peer("bytes").get_piece_size()
    config = {"added_tokens_decoder": {str(size): {"content": "<|user|>", "special": True}}, "pad_token": "<|pad|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|pad|>": size + 1}))
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.encode("<|user|>") == [size]
    assert tokenizer.pad_id == size + 1
    assert tokenizer.vocabulary_size == size + 2
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|pad|>": size + 7}))
    with pytest.raises(ModelFileError, match="has id"):
        Tokenizer.from_directory(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_tokenizer_model_is_an_error_or_another_tokenizer(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(trained("bytes")[:600] + trained("bytes")[-200:])
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "tokenizer.model").write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    try:
        Tokenizer.from_directory(folder).encode("hello")
    except SteelyardError as error:
        assert error.where
    finally:
        (folder / "tokenizer.model").unlink()


def test_a_unigram_model_is_named(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    lines = iter(["the cat sat on the mat", "a bat and a rat ran at that hat"] * 50)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=out, model_type="unigram", vocab_size=20, minloglevel=2, num_threads=1
    )
    (tmp_path / "tokenizer.model").write_bytes(out.getvalue())
    with pytest.raises(UnsupportedError, match="kind unigram"):
        Tokenizer.from_directory(tmp_path)


# --- Hugging Face directories ----------------------------------------------------------------------------------------


def test_word_pieces_are_those_of_transformers(minilm: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    whole, bare = Tokenizer.from_directory(minilm), Tokenizer.from_directory(tmp_path)
    long = "words and more words " * 60  # tokenizer.json cuts at 128 and pads to 128; here nothing is cut or padded
    for text in [*hard_texts(300, seed=7), long, "[MASK] [SEP]", "Ünïcödé ÀÉ", "unaffable", "x" * 200]:
        expected = reference.encode(text, truncation=False, padding=False)
        assert whole.encode_for_model(text) == expected == bare.encode_for_model(text), repr(text)
        assert whole.encode(text) == expected[1:-1]
        assert whole.decode(expected) == reference.decode(expected, clean_up_tokenization_spaces=False)
    assert (whole.prefix_ids, whole.suffix_ids, whole.pad_id, whole.bos_id, whole.eos_ids) == ((101,), (102,), 0, None, ())
    whole.save(tmp_path / "saved")
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (
        opened("a b", padding="max_length", truncation=True).input_ids == reference("a b", padding="max_length", truncation=True).input_ids
    )
    assert json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["truncation"]["max_length"] == 128


def test_vocabulary_and_merges_are_read_by_their_class(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = {token: id for id, token in enumerate([*ALPHABET, "ab", "abc", "Ġa", "12", "123", "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nab c\nĠ a\n1 2\n12 3\n", encoding="utf-8")
    for name in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        config = {"tokenizer_class": name, "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": False}))
        reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
        tokenizer = Tokenizer.from_directory(tmp_path)
        for text in hard_texts(200, seed=8, pieces=[*PIECES, "<|endoftext|>", "abc"]):
            assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False), (name, text)
        assert tokenizer.eos_ids == (reference.eos_token_id,)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "OddTokenizer"}')
    with pytest.raises(UnsupportedError, match="class Odd"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "merges.txt").write_text("a b\na b c\n")
    with pytest.raises(ModelFileError, match="merges.txt:2"):
        Tokenizer.from_directory(tmp_path)


def small_backend() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<|eot|>": 2, "a": 3, "<unk>": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.add_special_tokens(["<s>", "</s>", "<|eot|>"])  # type: ignore[list-item]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])  # type: ignore[assignment]
    return backend


def test_special_ids_come_from_wherever_they_stand(tmp_path: Path) -> None:
    small_backend().save(str(tmp_path / "tokenizer.json"))
    bare = Tokenizer.from_directory(tmp_path)
    assert (bare.bos_id, bare.eos_ids, bare.pad_id, bare.prefix_ids) == (None, (), None, (0,))
    (tmp_path / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 4}')
    from_config = Tokenizer.from_directory(tmp_path)
    assert (from_config.bos_id, from_config.eos_ids, from_config.pad_id, from_config.add_bos) == (0, (1,), 4, True)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2], "temperature": 0.6}')
    assert Tokenizer.from_directory(tmp_path).eos_ids == (1, 2)
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|eot|>"}}')
    assert Tokenizer.from_directory(tmp_path).eos_ids == (2, 1)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "add_bos_token": false, "auto_map": {"AutoTokenizer": "x.py"}}')
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert (tokenizer.prefix_ids, tokenizer.add_bos) == ((), False)
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.from_directory(tmp_path / "saved")
    assert (again.bos_id, again.eos_ids, again.prefix_ids) == (0, (2, 1), ())
    assert "auto_map" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert json.loads((tmp_path / "saved" / "generation_config.json").read_text())["temperature"] == 0.6


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"version": "9"}'),
        ("tokenizer.json", "\x00" * 100),
        ("tokenizer_config.json", "[1]"),
        ("generation_config.json", '{"eos_token_id": "2"}'),
        ("generation_config.json", '{"eos_token_id": [1, -2]}'),
        ("config.json", '{"bos_token_id": 1.5}'),
    ],
)
def test_damaged_files_are_errors_with_an_address(tmp_path: Path, file: str, content: str) -> None:
    small_backend().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelFileError, match=file):
        Tokenizer.from_directory(tmp_path)


def test_a_panic_in_the_library_is_an_error_of_ours(tmp_path: Path) -> None:
    content = json.loads(small_backend().to_str())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match="the tokenizers library refuses it"):
        Tokenizer.from_directory(tmp_path)
    content["normalizer"] = None
    content["post_processor"]["single"][0]["SpecialToken"]["id"] = "[missing]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match="the tokenizers library refuses it"):
        Tokenizer.from_directory(tmp_path)


def test_a_directory_without_a_tokenizer_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="neither tokenizer.json, tokenizer.model"):
        Tokenizer.from_directory(tmp_path)


def test_fingerprints_tell_tokenizers_apart() -> None:
    same = Tokenizer.from_gguf(byte_metadata()).fingerprint
    assert Tokenizer.from_gguf(byte_metadata()).fingerprint == same
    for changes in ({"pre": "qwen2"}, {"eos_token_id": 0}, {"add_bos_token": True}, {"merges": ["a b", "ab c", "Ġ a", "1 2"]}):
        assert Tokenizer.from_gguf(byte_metadata(**changes)).fingerprint != same


# --- the stream ------------------------------------------------------------------------------------------------------


def streamed(tokenizer: Tokenizer, ids: list[int], skip_special: bool = False) -> list[str]:
    stream = tokenizer.stream_decoder(skip_special)
    return [*(stream.push(id) for id in ids), stream.flush()]


@cache
def byte_level() -> Tokenizer:
    return Tokenizer.from_gguf(
        byte_metadata(tokens=["<|bos|>", "<|end|>", *ALPHABET, "ab", "abc", "Ġa", "12", "123", "<｜x y｜>"], token_type=...)
    )


def chain(decoder: Any, tokens: list[str]) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel({token: id for id, token in enumerate(tokens)}, unk_token=tokens[0]))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens([tokens[-1]])
    return Tokenizer(backend)


@cache
def streams() -> dict[str, Tokenizer]:
    mixed = [
        "▁",
        "▁▁",
        "▁a",
        "b▁c",
        "##d",
        "e</w>",
        "</w>",
        "##",
        ".",
        "n't",
        "'",
        "?",
        " ",
        "é",
        "<0xE2>",
        "<0x82>",
        "<0xAC>",
        "<0xFF>",
        "x",
        "<s>",
    ]
    llama = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return {
        "byte level": byte_level(),
        "sentencepiece": from_scores("bytes"),
        "llama": chain(decoders.Sequence([*llama, decoders.Strip(" ", 1, 0)]), mixed),
        "two stripped": chain(decoders.Sequence([*llama, decoders.Strip(" ", 2, 0)]), mixed),
        "gemma": chain(decoders.Sequence(llama), mixed),
        "strip each": chain(decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)]), mixed),
        "word piece": chain(decoders.WordPiece(), mixed),
        "word piece as it is": chain(decoders.WordPiece(cleanup=False), mixed),
        "metaspace": chain(decoders.Metaspace(), mixed),
        "metaspace never": chain(decoders.Metaspace(prepend_scheme="never"), mixed),
        "suffix": chain(decoders.BPEDecoder(), mixed),
        "none": chain(None, mixed),
    }


@pytest.mark.parametrize(
    "name", ["byte level", "sentencepiece", *[name for name in streams() if name not in ("byte level", "sentencepiece")]]
)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_stream_joined_is_the_whole_decoded(name: str, data: st.DataObject) -> None:
    tokenizer = streams()[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size + 1), max_size=40))
    skip = data.draw(st.booleans())
    assert "".join(streamed(tokenizer, ids, skip)) == tokenizer.decode(ids, skip_special=skip)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_real_vocabularies_stream_exactly(tokenizer: Tokenizer, minilm: Path, data: st.DataObject) -> None:
    for one in (tokenizer, minilm_tokenizer(minilm)):
        ids = data.draw(st.lists(st.integers(0, one.vocabulary_size - 1), max_size=30))
        assert "".join(streamed(one, ids)) == one.decode(ids)


@cache
def minilm_tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_directory(path)


def test_text_comes_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Hello 🌍!")
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == "Hello 🌍!"
    assert pieces[0] == "Hello" and pieces[-1] == ""
    assert not any("\ufffd" in piece for piece in pieces)
    half = ids[:-2]  # ends inside the globe's four bytes
    assert "".join(streamed(tokenizer, half)) == tokenizer.decode(half)
    assert "\ufffd" in streamed(tokenizer, half)[-1]


def test_a_decoder_that_cannot_be_streamed_is_named() -> None:
    for decoder in (decoders.CTC(), decoders.Strip(" ", 0, 1), decoders.Replace(Regex("a+"), "b")):
        with pytest.raises(UnsupportedError, match="cannot be streamed"):
            chain(decoder, ["a", "b"]).stream_decoder()
