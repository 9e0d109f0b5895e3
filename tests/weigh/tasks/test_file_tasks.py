"""The tasks over a user's own file: bad rows are all named, good ones scored as promised."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import DataError
from steelyard.core.protocols import Score
from steelyard.core.recipe import task_for
from steelyard.weigh.tasks import registry, rows
from steelyard.weigh.tasks.bits_per_byte import cut
from steelyard.weigh.tasks.task import Ask, Choose, Output, Read, Task

GOOD_CHAT = {"messages": [{"role": "user", "content": "Capital of France?"}], "expected": "Paris"}
GOOD_CHOICE = {"question": "2 + 2?", "choices": ["3", "4", "5"], "answer": 1}


def write(path: Path, lines: list[Any]) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def task(name: str, path: Path, **more: Any) -> Task:
    return registry.make(name, {"path": str(path), **more})


def user(check: Any) -> dict[str, Any]:
    return {"messages": GOOD_CHAT["messages"], "check": check}


BAD_CHAT = [
    (b"{oops", "not JSON"),
    (b"\xff\xfe{}", "not UTF-8"),
    (b"[1]", "not a JSON object"),
    (b'{"a": NaN}', "NaN is not JSON"),
    (b'{"messages": 1, "messages": 2}', "appears twice"),
    ({}, "lacks `messages`"),
    ({"messages": [], "expected": "x"}, "at least one message"),
    ({"messages": [{"role": "user"}], "expected": "x"}, "lacks a `role` or a `content`"),
    ({"messages": [{"role": "robot", "content": "x"}], "expected": "x"}, "unknown role `robot`"),
    ({"messages": [{"role": "user", "content": "x", "images": []}], "expected": "x"}, "unknown key `images`"),
    ({"messages": [{"role": "assistant", "content": "x"}], "expected": "x"}, "not the user's"),
    ({"messages": [{"role": "user", "content": " "}], "expected": "x"}, "last message is empty"),
    ({"messages": GOOD_CHAT["messages"]}, "lacks `expected` or `answer` or `check`"),
    ({**GOOD_CHAT, "check": {"number": 1}}, "both `expected` and `check`"),
    ({**GOOD_CHAT, "expected": 3}, "`expected` is not a text"),
    ({**GOOD_CHAT, "expected": []}, "`expected` is not a text"),
    ({**GOOD_CHAT, "answers": "x"}, "unknown key `answers`"),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}], "expected": "x"}', "surrogate"),
    ({**GOOD_CHAT, "prompt": "x"}, "both `messages` and `prompt`"),
    ({"prompt": "x", "expected": "y", "answer": "y"}, "both `expected` and `answer`"),
    ({"prompt": 3, "answer": "y"}, "`prompt` is not a text"),
    ({"prompt": " ", "answer": "y"}, "`prompt` is empty"),
    ({"prompt": "x", "answer": 3}, "`expected` is not a text"),
    (user({}), "one key"),
    (user({"contians": "x"}), "unknown kind `contians`"),
    (user({"regex": "("}), "not a regular expression"),
    (user({"regex": "(a+)+$"}), "longer than anyone will wait"),
    (user({"number": "many"}), "no single number"),
    (user({"number": True}), "not a number"),
    (user({"json_schema": {"$ref": "#"}}), "not supported"),
]


@pytest.mark.parametrize(("row", "told"), BAD_CHAT)
def test_a_bad_chat_row_is_named_with_its_line_and_reason(tmp_path: Path, row: Any, told: str) -> None:
    path = write(tmp_path / "mine.jsonl", [GOOD_CHAT, row])
    with pytest.raises(DataError) as caught:
        task("chat", path).samples(0)
    assert "line 2" in str(caught.value) and told in str(caught.value)


def test_prompt_and_answer_are_short_for_one_message_and_what_is_expected(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [{"prompt": "Capital of France?", "answer": ["Paris", "Lutetia"]}])
    (sample,) = task("chat", path).samples(0)
    assert isinstance(sample.request, Ask) and [(m.role, m.content) for m in sample.request.conversation] == [
        ("user", "Capital of France?")
    ]
    assert task("chat", path).score(sample, Output(text="Paris.", reason="stop")) == {"right": 1.0, "finished": 1.0}
    assert task_for(path) == "chat"


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [GOOD_CHAT, {}, GOOD_CHAT, b"{", {}, b"", GOOD_CHAT])
    with pytest.raises(DataError) as caught:
        task("chat", path).samples(0)
    assert "3 of 6 rows" in str(caught.value) and "lines 2, 5: lacks" in str(caught.value) and "line 4: not JSON" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**GOOD_CHOICE, "answer": 3}, "counted from 0 to 2"),
        ({**GOOD_CHOICE, "answer": -1}, "`answer` is -1"),
        ({**GOOD_CHOICE, "answer": "4"}, "not a whole number"),
        ({**GOOD_CHOICE, "answer": True}, "not a whole number"),
        ({**GOOD_CHOICE, "choices": ["4"]}, "at least two"),
        ({**GOOD_CHOICE, "choices": ["4", ""]}, "at least two texts"),
        ({**GOOD_CHOICE, "choices": ["4", "4"]}, "same text twice"),
        ({**GOOD_CHOICE, "question": ""}, "`question` is empty"),
    ],
)
def test_a_bad_choices_row_is_explained(tmp_path: Path, row: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        task("choices", write(tmp_path / "mine.jsonl", [row])).samples(0)


def test_a_missing_empty_or_enormous_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        task("chat", tmp_path / "none.jsonl").samples(0)
    with pytest.raises(DataError, match="folder"):
        task("chat", tmp_path).samples(0)
    with pytest.raises(DataError, match="empty"):
        task("chat", write(tmp_path / "empty.jsonl", [b"\n \n"])).samples(0)
    monkeypatch.setattr(rows, "LARGEST_FILE", 10)
    with pytest.raises(DataError, match="the most is"):
        task("chat", write(tmp_path / "large.jsonl", [GOOD_CHAT])).samples(0)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD_CHAT).encode() + b"\r\n\r\n" + json.dumps(GOOD_CHAT).encode() + b"\r\n")
    samples = task("chat", path).samples(0)
    assert len(samples) == 2
    assert len({sample.id for sample in samples}) == 2 and len({sample.cluster for sample in samples}) == 1


def test_a_rows_id_does_not_depend_on_where_it_stands(tmp_path: Path) -> None:
    other = {**GOOD_CHAT, "expected": "Lyon"}
    first = task("chat", write(tmp_path / "a.jsonl", [GOOD_CHAT, other])).samples(0)
    second = task("chat", write(tmp_path / "b.jsonl", [other, GOOD_CHAT])).samples(0)
    assert [sample.id for sample in first] == [sample.id for sample in reversed(second)]


def test_a_limit_takes_the_same_rows_for_the_same_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [{**GOOD_CHAT, "expected": str(i)} for i in range(50)])
    first, again, other = (task("chat", path, limit=10).samples(seed) for seed in (1, 1, 2))
    assert len(first) == 10 and first == again and first != other


@pytest.mark.parametrize(
    ("check", "text", "right"),
    [
        ({"expected": "Paris"}, "The capital of France is PARIS.", True),
        ({"expected": "Paris"}, "Parisian", False),
        ({"expected": ["Kyiv", "Kiev"]}, "It is Kiev", True),
        ({"expected": "→"}, "a → b", True),
        ({"contains": ["red", "Blue"]}, "blue and red", True),
        ({"contains": ["red", "blue"]}, "red", False),
        ({"contains": "two  words"}, "two\nwords", True),
        ({"regex": r"\b\d{4}\b"}, "in 1969", True),
        ({"regex": r"^\d+$"}, "in 1969", False),
        ({"number": 42}, "6 * 7 = 42.0", True),
        ({"number": "1,000"}, "1000", True),
        ({"number": 42}, "41", False),
        ({"json_schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', True),
        ({"json_schema": {"type": "object", "required": ["a"]}}, 'Yes: {"a": 1}', False),
        ({"json_schema": {"type": "object", "required": ["a"]}}, "{}", False),
    ],
)
def test_checks_mean_what_the_table_says(tmp_path: Path, check: dict, text: str, right: bool) -> None:
    row = {**GOOD_CHAT, "expected": check["expected"]} if "expected" in check else user(check)
    chat = task("chat", write(tmp_path / "mine.jsonl", [row]))
    (sample,) = chat.samples(0)
    assert chat.score(sample, Output(text=text, reason="stop")) == {"right": float(right), "finished": 1.0}


def test_a_pattern_that_hangs_on_an_answer_has_not_been_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.weigh.tasks.chat.probably_endless", lambda pattern: False)
    monkeypatch.setattr("steelyard.data.checks.patterns.search_within.__defaults__", (0.2,))
    chat = task("chat", write(tmp_path / "mine.jsonl", [user({"regex": "(x+x+)+y"})]))
    (sample,) = chat.samples(0)
    assert chat.score(sample, Output(text="x" * 100))["right"] == 0.0


def test_an_answer_cut_at_the_limit_is_not_finished(tmp_path: Path) -> None:
    chat = task("chat", write(tmp_path / "mine.jsonl", [GOOD_CHAT]))
    (sample,) = chat.samples(0)
    assert chat.score(sample, Output(text="Paris", reason="length"))["finished"] == 0.0


def choose(logprobs: list[float], tmp_path: Path, row: dict = GOOD_CHOICE) -> dict[str, Any]:
    choices = task("choices", write(tmp_path / "mine.jsonl", [row]))
    (sample,) = choices.samples(0)
    assert isinstance(sample.request, Choose)
    scores = tuple(Score(p, False, 1, len(c)) for p, c in zip(logprobs, sample.request.continuations, strict=True))
    return dict(choices.score(sample, Output(scores=scores)))


def test_the_likeliest_choice_is_the_answer_and_length_can_be_taken_out(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": ["a", "abcdefgh"], "answer": 1}
    found = choose([-2.0, -4.0], tmp_path, row)
    assert found["acc"] == 0.0 and found["acc_norm"] == 1.0
    assert found["right_logprob"] == pytest.approx(-math.log(1 + math.exp(2)))
    share = 1 / (1 + math.exp(2))
    assert found["brier"] == pytest.approx(2 * (1 - share) ** 2)


def test_choices_without_usable_probabilities_have_no_value(tmp_path: Path) -> None:
    assert set(choose([math.nan, -1.0, -1.0], tmp_path).values()) == {None}
    assert choose([-5000.0, -5001.0, -9000.0], tmp_path)["right_logprob"] == pytest.approx(-1 - math.log(1 + math.exp(-1)))


def test_the_floor_of_choices_is_the_chance_of_these_rows(tmp_path: Path) -> None:
    two, four = {"question": "?", "choices": ["a", "b"], "answer": 0}, {"question": "?", "choices": ["a", "b", "c", "d"], "answer": 0}
    metrics = task("choices", write(tmp_path / "mine.jsonl", [two, four])).metrics
    assert [metric.floor for metric in metrics] == [0.375] * 4 + [None, None, 0.5, None, None]  # an AUROC of 0.5 is chance too
    assert metrics[0].name == "acc"


@settings(max_examples=60)
@given(st.text(max_size=400), st.integers(16, 80))
def test_cutting_a_text_loses_only_white_space(text: str, most: int) -> None:
    pieces = list(cut(text, most))
    assert all(piece.strip() and len(piece.encode()) <= most for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_pieces_end_where_sentences_do() -> None:
    assert list(cut("One two three. Four five six. Seven eight nine.", 32)) == ["One two three. Four five six.", "Seven eight nine."]
    assert next(cut("One two three. Four five six seven eight nine.", 33)) == "One two three. Four five six"  # the stop comes too early
    assert list(cut("One two three. Four five. Six seven", 29))[0] == "One two three. Four five."  # though `Six` would fit
    assert list(cut("word " * 10, 23)) == ["word word word word"] * 2 + ["word word"]
    assert list(cut("word " * 10, 24)) == ["word word word word word"] * 2


def test_any_text_file_is_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "book.md").write_text("A line of text. " * 200)
    samples = registry.make("bits_per_byte", {"path": str(tmp_path / "book.md"), "pieces": 5, "piece_bytes": 100}).samples(0)
    assert len(samples) == 5 and len({sample.id for sample in samples}) == 5
    assert {sample.cluster for sample in samples} == {"document book.md"}


def test_text_rows_and_bad_text_files(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", [{"text": "One."}, {"text": "Two."}])
    assert [sample.reference["bytes"] for sample in task("bits_per_byte", path).samples(0)] == [4, 4]
    with pytest.raises(DataError, match="lacks `text`"):
        task("bits_per_byte", write(tmp_path / "bad.jsonl", [{"txt": "One."}])).samples(0)
    with pytest.raises(DataError, match="not UTF-8"):
        task("bits_per_byte", write(tmp_path / "bad.txt", [b"\xff"])).samples(0)
    with pytest.raises(DataError, match="not a .txt"):
        task("bits_per_byte", write(tmp_path / "bad.pdf", [b"x"])).samples(0)


def test_far_text_counts_the_second_half_after_the_first(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(40))
    path = write(tmp_path / "rows.jsonl", [{"text": text}])
    (sample,) = task("far_text", path).samples(0)
    assert isinstance(sample.request, Read)
    assert sample.request.before + sample.request.text == text and sample.request.text.startswith(" word")
    assert sample.reference["bytes"] == len(sample.request.text) and abs(len(sample.request.before) - len(text) / 2) < 8


def test_repeated_text_counts_the_second_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": "Ünter den Linden."}])
    each = task("repeated_text", path)
    (sample,) = each.samples(0)
    assert sample.request == Read("Ünter den Linden.", before="Ünter den Linden.\n\n") and sample.reference["bytes"] == 18
    values = each.score(sample, Output(scores=(Score(-18 * math.log(2), False, 4, 18),)))
    assert values == {"repeated_bits_per_byte": (pytest.approx(18.0), 18.0)}
    assert each.score(sample, Output(failure="no")) == {"repeated_bits_per_byte": None}
