"""Fill in the middle: every text can be put together again, the same ones are turned every time, and borders are kept."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core import recipe
from steelyard.core.errors import DataError, RecipeError
from steelyard.core.levers import parse
from steelyard.core.protocols import Message
from steelyard.data.fim import TOKENS, Fim, question, restored, turned
from steelyard.data.formats import Example, Turn
from steelyard.data.texts.document import Document
from steelyard.data.token_file import write_tokens
from steelyard.data.tokenizer_training import train_tokenizer

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
streams = st.lists(st.builds(Document, texts, st.just(""), st.booleans()), min_size=1, max_size=8)


def joined(documents):
    """Whole texts: pieces that go on put together."""
    whole, within = [], False
    for document in documents:
        if within:
            whole[-1] += document.text
        else:
            whole.append(document.text)
        within = document.continues
    return whole


@given(texts, st.integers(0, 999), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_turned_text_can_be_put_together_again(text, seed, spm):
    document = turned(Document(text), random.Random(seed), spm)
    assert restored(document) == text
    assert [document.text[start:end] for start, end in document.special] == list(TOKENS)


@settings(deadline=None)
@given(streams, st.sampled_from([0.3, 0.7, 1.0]), st.sampled_from([None, 3, 10]), st.integers(0, 5))
def test_no_character_is_lost_and_nothing_reaches_over_a_border(documents, rate, piece, seed):
    stream = Fim(rate=rate, piece=piece, seed=seed).data(documents)
    found = list(stream)
    assert found == list(stream), "going through it twice gives the same texts"
    assert "".join(map(restored, found)) == "".join(document.text for document in documents)
    for document, following in zip(found, found[1:], strict=False):
        assert not document.special or not document.continues
        assert not document.continues or not following.special
    if piece is None and rate < 1:
        assert [restored(document) for document in found] == [document.text for document in documents]


@given(streams)
def test_a_rate_of_zero_changes_nothing(documents):
    assert Fim(rate=0).data(documents) is documents


def test_cuts_are_at_lines_where_there_are_some_and_whole_texts_stay_whole_when_left_alone():
    document = Document("first line\nsecond line\nthird line\n")
    cut = list(Fim(rate=1e-9, piece=25).data([document]))
    assert [part.text for part in cut] == ["first line\nsecond line\n", "third line\n"]
    assert joined(cut) == [document.text]


def test_rate_and_forms_come_as_often_as_asked():
    documents = [Document(f"the text of number {number}") for number in range(2000)]
    found = list(Fim(rate=0.4, spm=0.25).data(documents))
    moved = [document for document in found if document.special]
    suffix_first = [document for document in moved if document.special[0][1] == document.special[1][0]]
    assert 0.36 < len(moved) / len(found) < 0.44
    assert 0.2 < len(suffix_first) / len(moved) < 0.36  # a prefix may also be empty by chance


def test_what_is_drawn_depends_on_seed_and_number_alone():
    documents = [Document("the same text again") for _ in range(50)]
    first = list(Fim(seed=1).data(documents))
    assert first == list(Fim(seed=1).data(documents)) != list(Fim(seed=2).data(documents))
    assert first[10:] != list(Fim(seed=1).data(documents[10:]))
    changed = [replace(documents[0], text="another"), *documents[1:]]
    assert list(Fim(seed=1).data(changed))[1:] == first[1:]


def test_the_fingerprint_follows_texts_and_settings():
    documents = [Document("one"), Document("two")]
    prints = {
        Fim().data(documents).fingerprint,
        Fim(seed=1).data(documents).fingerprint,
        Fim(spm=0.1).data(documents).fingerprint,
        Fim().data(documents[:1]).fingerprint,
    }
    assert len(prints) == 4


def test_the_marks_become_the_tokenizer_s_special_tokens_and_strings_like_them_do_not(tmp_path):
    tokenizer = train_tokenizer("bytes", [], special=TOKENS)
    text = "a<|fim_middle|>b"
    tokens = write_tokens(Fim(rate=1).data([Document(text)]), tokenizer, tmp_path)
    marks = [tokenizer.id_of(name) for name in TOKENS]
    assert [id for id in tokens.ids.tolist() if id >= 256] == [*marks, tokenizer.eos_ids[0]]
    assert len(tokens) == len(text) + 4
    with pytest.raises(DataError, match="no special token '<|fim_prefix|>'"):
        write_tokens(Fim(rate=1).data([Document(text)]), train_tokenizer("bytes", []), tmp_path)


def test_a_question_is_what_a_turned_text_says_before_its_middle():
    prefix, middle, suffix = "def add(a, b):\n    return ", "a + b", "\n"
    for suffix_first in (False, True):
        asked = question(prefix, suffix, suffix_first=suffix_first)
        document = next(
            document
            for seed in range(10_000)
            if (document := turned(Document(prefix + middle + suffix), random.Random(seed), suffix_first)).text == asked + middle
        )
        assert restored(document) == prefix + middle + suffix


def test_conversations_and_texts_that_are_turned_already_are_refused():
    example = Example((Turn(Message("user", "hi"), False), Turn(Message("assistant", "hello"), True)))
    for rate in (0.0, 0.5):
        with pytest.raises(DataError, match="given Examples"):
            Fim(rate=rate).data((example,))
    with pytest.raises(DataError, match="given Examples"):
        list(Fim().data(iter([example])))
    twice = Fim(rate=1).data(Fim(rate=1).data([Document("text")]))
    with pytest.raises(DataError, match="special tokens in it"):
        list(twice)


@pytest.mark.parametrize("settings", [{"rate": 1.5}, {"rate": float("nan")}, {"piece": 0}, {"tokens": ["a", "a", "b"]}, {"middle": 1}])
def test_settings_that_make_no_sense_are_refused_when_read(settings):
    with pytest.raises(RecipeError):
        parse({"fim": settings}, where="recipe")


def test_a_tokenizer_that_will_not_have_the_marks_is_refused_when_the_recipe_is_read():
    steps = [{"fim": {}}, {"pretrain": {"data": "python", "steps": 1}}]
    with pytest.raises(RecipeError, match=r"<\|fim_middle\|>, which the new model's tokenizer will not have[\s\S]*`special:"):
        recipe.from_mapping({"new": {"tokenizer": {"special": TOKENS[:2], "kind": "bytes"}}, "steps": steps})
    assert recipe.from_mapping({"new": {"tokenizer": {"special": TOKENS, "kind": "bytes"}}, "steps": steps})
    assert recipe.from_mapping({"new": {}, "steps": [{"fim": {"rate": 0}}, steps[1]]})


def test_recipes_find_the_lever_and_its_main_setting():
    assert parse({"fim": 0.9}, where="recipe") == Fim(rate=0.9)
    assert Fim.hooks() == ("data",) and Fim.stages() == ("weights",)
