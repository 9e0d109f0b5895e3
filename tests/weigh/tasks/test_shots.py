"""Worked examples before questions, and questions in plain text: who is shown what, and what plain text reaches."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_talker

from steelyard.augment.answerers import LocalAnswerer
from steelyard.core.errors import DataError, RecipeError
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.generate.engine import Engine
from steelyard.weigh.asking.answering import answer_one, key_for, obstacle
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.records import content_digest
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.task import Ask, Sample, Task

ROWS = [{"question": f"What is {i} and {i}?", "answer": f"Twice {i}.\n#### {2 * i}"} for i in range(1, 9)]


def over(folder: Path, rows: list[dict[str, Any]], name: str = "gsm8k", **settings: Any) -> Task:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return registry.make(name, {"path": str(path), **settings})


def turns(sample: Sample) -> tuple[Message, ...]:
    assert isinstance(sample.request, Ask)
    return sample.request.conversation


def test_examples_are_turns_with_their_answers_and_never_the_question_itself(tmp_path: Path) -> None:
    samples = over(tmp_path, [*ROWS, ROWS[0]], shots=7).samples(0)  # the first stands twice
    for sample in samples:
        *shown, asked = turns(sample)
        assert [turn.role for turn in shown] == ["user", "assistant"] * 7 and asked.role == "user"
        assert asked.content not in [turn.content for turn in shown]
        for question, answer in zip(shown[::2], shown[1::2], strict=True):
            row = next(row for row in ROWS if row["question"] in question.content)
            assert answer.content == row["answer"]


def test_examples_follow_the_seed_and_are_the_same_for_nearly_all_questions(tmp_path: Path) -> None:
    task = over(tmp_path, ROWS, shots=2)
    first = [turns(sample)[:-1] for sample in task.samples(1)]
    assert first == [turns(sample)[:-1] for sample in task.samples(1)]
    assert len(set(first)) <= 3  # but for the two that are shown
    assert len({turns(task.samples(seed)[0])[:-1] for seed in range(12)}) > 3


def test_more_examples_than_there_are_rows_are_refused(tmp_path: Path) -> None:
    assert len(over(tmp_path, ROWS, shots=7).samples(0)) == 8
    with pytest.raises(DataError, match="8 examples are asked for, and there are 7"):
        over(tmp_path, ROWS, shots=8).samples(0)


def test_examples_come_from_another_file_where_one_is_given(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "Half of 8?", "answer": "#### 4"}) + "\n")
    task = over(tmp_path, ROWS, shots=1, examples=str(tmp_path / "train.jsonl"), raw=True)
    assert turns(task.samples(0)[0])[0].content == "Question: Half of 8?\nAnswer: #### 4\n\nQuestion: What is 1 and 1?\nAnswer:"


def test_in_a_folder_examples_are_of_the_same_file(tmp_path: Path) -> None:
    for language, word in (("en", "How many"), ("de", "Wie viele")):
        (tmp_path / f"{language}_few.tsv").write_text("".join(f"{word} {i}?\t{i}\n" for i in range(4)), encoding="utf-8")
    for sample in registry.make("mgsm", {"path": str(tmp_path), "shots": 3, "raw": True}).samples(0):
        text = turns(sample)[0].content
        assert ("Wie viele" in text) == (sample.tags["language"] == "de") != ("How many" in text)
    (tmp_path / "mine.tsv").write_text("x 1?\t1\n")
    with pytest.raises(RecipeError, match="after its language"):
        registry.make("mgsm", {"path": str(tmp_path), "raw": True}).samples(0)


def test_a_set_whose_plain_text_is_not_known_says_so(tmp_path: Path) -> None:
    row = {"ordered_kv_records": [["a", "b"]], "key": "a", "value": "b"}
    with pytest.raises(RecipeError, match="not asked in plain text"):
        over(tmp_path, [row], "kv_retrieval", raw=True).samples(0)


def test_plain_text_reaches_the_engine_as_it_is_and_is_kept_under_the_engines_name(tmp_path: Path) -> None:
    with Engine(tiny_talker.tiny_talker(), threads=1, deterministic=True) as engine:
        inner = LocalAnswerer(engine)
        arm = OpenArm("a", inner, "wrapped", 2, engine.score, engine.score_rolling, engine.fingerprint, engine=engine)
        settings = AnswerSettings(max_tokens=6)
        raw = Sample("s", Ask((Message("user", "the river"),), settings, raw=True))
        templated = Sample("s", Ask((Message("user", "the river"),), settings))
        (direct,) = engine.generate(["the river"], max_tokens=6)
        output = asyncio.run(answer_one(arm, raw, 0, 0))
        assert output.failure is None and output.text == direct.text
        assert output.usage is not None and output.usage.prompt_tokens == len(engine.encode("the river"))
        assert key_for(arm, "t", raw, 0).arm == engine.fingerprint and key_for(arm, "t", templated, 0).arm == "wrapped"
        assert obstacle(arm, [raw]) is None
    remote = OpenArm("a", inner, "x", 1)
    assert obstacle(remote, [raw]) == "this arm cannot go on with raw text" and obstacle(remote, [templated]) is None


def test_records_of_questions_in_conversations_are_found_as_before() -> None:
    asked = Ask((Message("user", "x"),))
    assert content_digest(asked) != content_digest(Ask((Message("user", "x"),), raw=True))
    assert content_digest(asked) == OLD


OLD = "7f34f37960ddf93d"
