"""Preference pairs are read as people write them, and a row that is none says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import DataError
from steelyard.core.protocols import Message
from steelyard.data.formats import UnusableRow
from steelyard.data.preferences import read_preferences, to_preference

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_texts_and_messages_give_the_same_pair() -> None:
    plain = to_preference({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})
    turns = to_preference({"prompt": ASKED[1:], "chosen": said("4"), "rejected": said("5"), "source": "choice"})
    assert plain == turns and plain.prompt == (Message("user", "2 + 2?"),) and plain.strength is None
    assert to_preference({"prompt": ASKED, "chosen": said("4"), "rejected": "5", "strength": 3}).strength == 3


def test_earlier_answers_of_the_prompt_are_kept() -> None:
    prompt = [*ASKED, *said("4"), {"role": "user", "content": "Sure?"}]
    read = to_preference({"prompt": prompt, "chosen": said("Yes"), "rejected": said("No")})
    assert [message.role for message in read.prompt] == ["system", "user", "assistant", "user"] and read.chosen == "Yes"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "`prompt`, `chosen`, `rejected` missing"),
        ({"prompt": "a", "chosen": "b"}, "`rejected` missing"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the same"),
        ({"prompt": "a", "chosen": " ", "rejected": "b"}, "empty answer"),
        ({"prompt": "a", "chosen": 7, "rejected": "b"}, "a number, not a list of turns"),
        ({"prompt": [], "chosen": said("b"), "rejected": said("c")}, "empty"),
        ({"prompt": ASKED, "chosen": said("b") + said("c"), "rejected": said("c")}, "not one answer"),
        ({"prompt": ASKED, "chosen": ASKED[1:], "rejected": said("c")}, "no assistant turn"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "strength": 4}, "1, 2, 3 or null"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "strength": True}, "1, 2, 3 or null"),
        ({"prompt": "a", "chosen": "b", "rejected": "\ud800"}, "surrogate"),
    ],
)
def test_a_row_that_is_no_pair_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow, match=reason):
        to_preference(row)


def test_a_file_gives_its_pairs_and_names_its_bad_rows(tmp_path: Path) -> None:
    good = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    (tmp_path / "pairs.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{good}\n\n[]\n{good}\n".encode() + b"\xff\n")
    read = read_preferences(tmp_path / "pairs.jsonl")
    assert [pair.where.rsplit(":", 1)[1] for pair in read.pairs] == ["1", "4"]
    assert [(bad.line, bad.reason.split(",")[0]) for bad in read.bad] == [(3, "a list"), (5, "not UTF-8 (byte 1 of the line)")]
    with pytest.raises(DataError, match="cannot be read"):
        read_preferences(tmp_path / "none.jsonl")


parts = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(parts, parts, parts, parts)
def test_any_row_is_a_pair_or_says_why_not(prompt: Any, chosen: Any, rejected: Any, strength: Any) -> None:
    try:
        read = to_preference({"prompt": prompt, "chosen": chosen, "rejected": rejected, "strength": strength})
        assert read.chosen != read.rejected
    except UnusableRow as problem:
        assert str(problem)
