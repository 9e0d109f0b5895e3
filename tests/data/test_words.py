"""Text as comparable words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.data.words import Vocabulary, normalise, sentences, words


@pytest.mark.parametrize(
    ("written", "also"),
    [
        ("The Hague", "hague"),
        ("São Tomé", "sao tome"),
        ("Washington, D.C.", "washington dc"),
        ("Łódź", "lodz"),
        ("N'Djamena", "ndjamena"),
        ("Nuku’alofa", "nukualofa"),
        ("ＰＡＲＩＳ", "paris"),
        ("China's", "china"),
        ("STRASSE", "straße"),
    ],
)
def test_spellings_of_one_name_compare_equal(written: str, also: str) -> None:
    assert normalise(written) == normalise(also)


def test_the_country_us_is_not_the_word_us() -> None:
    assert words("the US and U.S. tell us") == ("usa", "and", "usa", "tell", "us")


def test_vowel_signs_of_other_scripts_stay() -> None:
    assert normalise("दिल्ली") != normalise("दल्ल")


@given(st.text(max_size=200))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert words(" ".join(words(text))) == tuple(word for word in words(text) if word not in ("the", "a", "an"))


@given(st.text(max_size=200))
def test_sentences_lose_only_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_initials_and_abbreviations_end_no_sentence() -> None:
    text = "St. John's lies in Canada. Washington, D.C. is a city! J. S. Bach wrote it."
    assert sentences(text) == ["St. John's lies in Canada.", "Washington, D.C. is a city!", "J. S. Bach wrote it."]


def test_the_longest_name_is_found() -> None:
    found = Vocabulary(["Guinea", "Equatorial Guinea", "Papua New Guinea"]).find(words("Equatorial Guinea and Guinea"))
    assert [mention.name for mention in found] == ["equatorial guinea", "guinea"]
