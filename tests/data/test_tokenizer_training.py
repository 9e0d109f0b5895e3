"""Learned tokenizers: equal texts give equal ones, every text comes back, and other tools read the same ids from what is saved."""

import inspect
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import DataError
from steelyard.data.tokenizer_training import train_tokenizer
from steelyard.model.tokenizer import Tokenizer

TEXTS = [
    "The cat sat on the mat; the dog sat on the log.\n\nThe end.",
    "def add(a, b):\n    return a + b  # 12345\n",
    "Die Straße führt über 3 Brücken. 日本語も。 " * 3,
]
SIZES = {"bpe": 600, "unigram": 600, "characters": None, "bytes": None}
SPECIAL = ["<|fim_prefix|>", "<|fim_suffix|>"]
MORE = [*TEXTS, inspect.getsource(os)]
TRAINED = {kind: train_tokenizer(kind, MORE if size else TEXTS, size, SPECIAL) for kind, size in SIZES.items()}
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
known_text = st.text(st.sampled_from(sorted(set("".join(TEXTS)))), max_size=60)


@settings(deadline=None)
@given(any_text, st.booleans())
@pytest.mark.parametrize("kind", ["bpe", "unigram", "bytes"])
def test_every_text_comes_back_from_bytes(kind, text, special):
    tokenizer = TRAINED[kind]
    ids = tokenizer.encode(text, special=special)
    assert tokenizer.decode(ids) == text
    assert all(0 <= id < tokenizer.vocabulary_size for id in ids)


@settings(deadline=None)
@given(known_text)
def test_texts_of_known_characters_come_back_one_token_a_character(text):
    tokenizer = TRAINED["characters"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and len(ids) == len(text)


@settings(deadline=None, max_examples=30)
@given(any_text)
@pytest.mark.parametrize("kind", SIZES)
def test_ids_that_come_one_at_a_time_decode_to_the_same(kind, text):
    tokenizer = TRAINED[kind]
    ids = tokenizer.encode(text)
    decoder = tokenizer.stream_decoder()
    assert "".join(decoder.push(id) for id in ids) + decoder.flush() == tokenizer.decode(ids)


@settings(deadline=None, max_examples=20)
@given(st.lists(any_text, max_size=5), st.booleans())
@pytest.mark.parametrize("kind", SIZES)
def test_texts_together_have_the_ids_they_have_alone(kind, texts, special):
    tokenizer = TRAINED[kind]
    assert tokenizer.encode_batch(texts, special) == [tokenizer.encode(text, special) for text in texts]


@pytest.mark.parametrize("kind", SIZES)
def test_what_is_saved_has_the_same_ids_here_and_in_transformers(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = TRAINED[kind]
    tokenizer.save(tmp_path)
    theirs, again = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_directory(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert theirs.eos_token_id == tokenizer.eos_ids[0] and theirs.eos_token == "<|endoftext|>"
    assert len(theirs) == tokenizer.vocabulary_size
    for text in [*TEXTS, "", " ", "new: é\0\t  \r\n x 😀", "<|fim_prefix|>a<|endoftext|> b<|fim_suffix|>"]:
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == again.encode(text) == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", SIZES)
def test_special_tokens_come_last_with_the_end_before_the_others(kind):
    tokenizer = TRAINED[kind]
    end = tokenizer.eos_ids[0]
    assert [tokenizer.id_of(name) for name in ["<|endoftext|>", *SPECIAL]] == [end, end + 1, end + 2]
    assert tokenizer.vocabulary_size == end + 3
    assert tokenizer.encode("<|fim_suffix|>") == [end + 2]
    assert end + 2 not in tokenizer.encode("<|fim_suffix|>", special=False)


def test_bytes_are_their_own_ids_and_characters_are_in_code_point_order():
    assert TRAINED["bytes"].encode("a\xff\0") == [97, 0xC3, 0xBF, 0]
    assert TRAINED["characters"].encode("".join(sorted(set("".join(TEXTS))))) == list(range(len(set("".join(TEXTS)))))


def test_an_unknown_character_becomes_the_unknown_token():
    tokenizer = TRAINED["characters"]
    assert tokenizer.encode("c€t")[1] == tokenizer.id_of("<unk>") == len(set("".join(TEXTS)))


def test_equal_texts_give_equal_tokenizers_in_other_processes():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_tokenizer_training import TRAINED;"
        "print([TRAINED[kind].fingerprint for kind in TRAINED])"
    )
    for threads in ("1", "2"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        out = subprocess.run(
            [sys.executable, "-c", program, os.path.dirname(__file__)], env=environment, check=True, capture_output=True, text=True
        )
        assert out.stdout.strip() == str([tokenizer.fingerprint for tokenizer in TRAINED.values()])


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_pieces_are_learned_so_that_texts_get_shorter(kind):
    assert len(TRAINED[kind].encode(MORE[-1])) < 0.5 * len(MORE[-1])


@pytest.mark.parametrize(
    ("kind", "texts", "vocabulary", "special", "says"),
    [
        ("bpe", ["ab"], 100, [], "the 256 bytes and 1 special tokens are 257 already"),
        ("unigram", ["ab"], 257, [], "257 already"),
        ("bpe", ["ab abc abc"], 50_000, [], "give 260"),
        ("unigram", ["ab abc abc"], 50_000, [], "give 25"),
        ("bpe", ["ab"], 10**12, [], "more than the"),
        ("bpe", ["ab"], None, [], "needs the number of tokens"),
        ("characters", ["abc"], 4, [], "give 5"),
        ("characters", ["abc"], 50, [], "give 5"),
        ("bytes", [], 256, [], "give 257"),
        ("bpe", [], 300, [], "no text"),
        ("unigram", ["", ""], 300, [], "no text"),
        ("characters", [""], None, [], "no text"),
        ("bpe", ["good", "a\ud800"], 300, [], "text 2"),
        ("characters", ["a\ud800"], None, [], "text 1"),
        ("unigram", [b"bytes"], 300, [], "bytes instead of text"),
        ("words", ["a"], 300, [], "no kind of tokenizer"),
        ("characters", ["abc"], None, ["a"], "tokens already: a"),
        ("bytes", [], None, [" x"], "words of their own"),
        ("bytes", [], None, [""], "words of their own"),
        ("bytes", [], None, "<|x|>", "words of their own"),
    ],
)
def test_tokenizers_that_cannot_be_had_are_refused(kind, texts, vocabulary, special, says):
    with pytest.raises(DataError, match=says):
        train_tokenizer(kind, texts, vocabulary, special)


def test_a_failure_of_the_source_is_the_failure_of_the_training():
    def source():
        yield "some text"
        raise DataError("the file changed after it had been checked")

    for kind, size in SIZES.items():
        if kind != "bytes":
            with pytest.raises(DataError, match="changed"):
                train_tokenizer(kind, source(), size)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_one_gigantic_line_and_null_bytes_can_be_learned_from(kind):
    tokenizer = train_tokenizer(kind, ["ab\0cd" * 20_000, *MORE], 400)
    assert tokenizer.decode(tokenizer.encode("ab\0cd\0")) == "ab\0cd\0"
