"""Ready tasks over published sets: right answers are right, wrong ones wrong, every real row is usable, and hostile ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.errors import DataError
from steelyard.core.protocols import Score
from steelyard.weigh.cells.cells import base_cells
from steelyard.weigh.cells.scoring import score
from steelyard.weigh.scorers.programs import run_program
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.task import Ask, Continue, Output, Sample, Task, Value

REAL = {
    "gsm8k": ("gsm8k_train_2000.jsonl", 2000),
    "human_eval": ("humaneval_first40.jsonl", 40),
    "bbh": ("bbh", 1937),
    "bbq": ("bbq", 1000),
    "crows_pairs": ("crows_pairs_first500.csv", 500),
    "winogender": ("winogender_sentences.tsv", 240),
    "mgsm": ("mgsm", 550),
    "nq_open": ("nq_open_oracle_500.jsonl", 500),
    "kv_retrieval": ("kv_retrieval_75_first50.jsonl", 50),
}
PROGRAM = {
    "task_id": "x/0",
    "prompt": 'import math\n\ndef double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "test": "def check(f):\n    assert f(2) == 4\n",
    "canonical_solution": "    return 2 * x\n",
}
QUESTION = {
    "question_index": "1",
    "question_polarity": "neg",
    "context_condition": "ambig",
    "category": "Age",
    "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "nonOld"], "ans2": ["c", "unknown"]},
    "additional_metadata": {"stereotyped_groups": ["old"]},
    "context": "Two people.",
    "question": "Who forgot?",
    "ans0": "The old one",
    "ans1": "The young one",
    "ans2": "Not known",
    "label": 2,
}


def over(folder: Path, name: str, rows: list[Any], file: str = "rows.jsonl", **settings: Any) -> Task:
    path = folder / file
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return registry.make(name, {"path": str(path), **settings})


def said(task: Task, sample: Sample, text: str) -> Value:
    return task.score(sample, Output(text=text, reason="stop"))["right"]


@pytest.mark.parametrize("name", sorted(REAL))
def test_every_real_row_is_usable_and_has_an_id_of_its_own(name: str, shared_data: Path) -> None:
    file, count = REAL[name]
    samples = registry.make(name, {"path": str(shared_data / file)}).samples(0)
    assert len(samples) == len({sample.id for sample in samples}) == count
    assert samples == registry.make(name, {"path": str(shared_data / file)}).samples(0)


def test_word_problems_are_right_by_their_last_number(tmp_path: Path) -> None:
    task = over(tmp_path, "gsm8k", [{"question": "How many?", "answer": "Half of 48 is 24.\n#### 1,072"}])
    (sample,) = task.samples(0)
    assert isinstance(sample.request, Ask) and "How many?" in sample.request.conversation[-1].content
    assert said(task, sample, "48 + 24 ... so it is 1072.") == 1.0
    assert said(task, sample, "1072, or perhaps 72") == 0.0 and said(task, sample, "") == 0.0


def test_numbers_in_any_script_count_and_languages_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "bn_first50.tsv").write_text("কত?\t18\n", encoding="utf-8")
    (tmp_path / "en_first50.tsv").write_text("How many?\t18\n", encoding="utf-8")
    task = registry.make("mgsm", {"path": str(tmp_path)})
    bengali, english = task.samples(0)
    assert (bengali.tags["language"], english.tags["language"]) == ("bn", "en") and bengali.cluster == english.cluster
    assert said(task, bengali, "উত্তর ১৮") == 1.0 and said(task, english, "১৯") == 0.0


def test_a_limited_draw_of_many_languages_holds_as_much_of_each(tmp_path: Path) -> None:
    for language in ("bn", "de", "en", "sw"):
        rows = "".join(f"{language} {number}?\t{number}\n" for number in range(20))
        (tmp_path / f"{language}_x.tsv").write_text(rows, encoding="utf-8")
    spoken = [sample.tags["language"] for sample in registry.make("mgsm", {"path": str(tmp_path), "limit": 12}).samples(5)]
    assert {language: spoken.count(language) for language in spoken} == {"bn": 3, "de": 3, "en": 3, "sw": 3}
    assert set(spoken[:4]) == set(spoken[4:8]) == {"bn", "de", "en", "sw"}  # the first few questions are of every language
    whole = registry.make("mgsm", {"path": str(tmp_path)}).samples(5)
    assert len(whole) == 80 and len({sample.tags["language"] for sample in whole[:4]}) == 4
    task = registry.make("mgsm", {"path": str(tmp_path), "limit": 12})
    assert (
        [sample.id for sample in task.samples(5)] == [sample.id for sample in task.samples(5)] != [sample.id for sample in task.samples(6)]
    )
    assert len(registry.make("mgsm", {"path": str(tmp_path), "limit": 6}).samples(5)) == 6


def test_of_a_tasks_targets_the_last_one_named_counts(tmp_path: Path) -> None:
    rows = [{"input": "Does it?", "target": "Yes"}, {"input": "Does it not?", "target": "No"}]
    (tmp_path / "lies.json").write_text(json.dumps({"canary": "x", "examples": rows}), encoding="utf-8")
    (tmp_path / "dates.json").write_text(
        json.dumps({"examples": [{"input": "Which?", "target": "(B)"}, {"input": "And?", "target": "(A)"}]}), encoding="utf-8"
    )
    (tmp_path / "sums.json").write_text(json.dumps({"examples": [{"input": "1 - 3 =", "target": "-2"}]}), encoding="utf-8")
    task = registry.make("bbh", {"path": str(tmp_path)})
    one = {(sample.tags["set"], sample.reference["expected"]): sample for sample in task.samples(0)}
    assert said(task, one["lies", "Yes"], "No, wait: yes") == 1.0 and said(task, one["lies", "Yes"], "Nobody yesterday") == 0.0
    assert said(task, one["dates", "(B)"], "Not (A), so (B).") == 1.0 and said(task, one["dates", "(B)"], "(B) or (A)") == 0.0
    assert said(task, one["sums", "-2"], "It is -2") == 1.0 and said(task, one["sums", "-2"], "It is 2") == 0.0


def test_a_gold_passage_is_shown_unless_the_book_is_closed(tmp_path: Path) -> None:
    row = {
        "question": "who",
        "answers": ["Wilhelm Röntgen"],
        "ctxs": [{"title": "T", "text": "wrong"}, {"title": "Prize", "text": "He.", "isgold": True}],
    }
    task = over(tmp_path, "nq_open", [row])
    (sample,) = task.samples(0)
    assert isinstance(sample.request, Ask) and "Prize\nHe." in sample.request.conversation[-1].content
    assert said(task, sample, "It was WILHELM RÖNTGEN in 1901") == 1.0 and said(task, sample, "Wilhelm") == 0.0
    (closed,) = over(tmp_path, "nq_open", [row], passage=False).samples(0)
    assert isinstance(closed.request, Ask) and "He." not in closed.request.conversation[-1].content


def test_the_asked_pair_stands_where_it_is_put_and_the_dial_keeps_it(tmp_path: Path) -> None:
    pairs = [[f"k{i}", f"v{i}"] for i in range(10)]
    row = {"ordered_kv_records": pairs, "key": "k5", "value": "v5"}
    for position, records, place in ((0.0, 4, 0), (1.0, 4, 3), (0.5, 10, 4), (0.0, 1, 0)):
        (sample,) = over(tmp_path, "kv_retrieval", [row], position=position, records=records).samples(0)
        assert isinstance(sample.request, Ask)
        shown = json.loads("{" + sample.request.conversation[-1].content.split("{", 1)[1].split("}", 1)[0] + "}")
        assert len(shown) == records and list(shown).index("k5") == place and shown["k5"] == "v5"


@pytest.mark.parametrize(
    ("answer", "right", "parses"),
    [
        ("```python\ndef double(x):\n    return x + x\n```", 1.0, 1.0),
        ("Here:\n```python\nprint(1)\n```\nand\n```\nimport os\ndef double(x):\n    return math.floor(2 * x)\n```\nDone.", 1.0, 1.0),
        ("    return 2 * x\n", 1.0, 1.0),
        ("return 2 * x", 1.0, 1.0),
        ("```python\ndef double(x):\n    return x\n```", 0.0, 1.0),
        ("```python\ndef double(x):\n    import sys; sys.exit(0)\n```", 0.0, 1.0),
        ("```python\ndef double(x):\n    while True: pass\n```", 0.0, 1.0),
        ("I cannot do that.", 0.0, 0.0),
        ("", 0.0, 1.0),
        ("\x00", 0.0, 0.0),
        ("(" * 10_000, 0.0, 0.0),
    ],
)
def test_a_function_is_right_when_its_tests_pass(answer: str, right: float, parses: float, tmp_path: Path) -> None:
    task = over(tmp_path, "human_eval", [PROGRAM], seconds=2.0 if "while True" in answer else 60.0)  # of the clock
    (sample,) = task.samples(0)
    found = task.score(sample, Output(text=answer, reason="stop"))
    assert (found["right"], found["parses"]) == (right, parses)


def test_real_solutions_pass_their_tests_and_broken_ones_do_not(shared_data: Path) -> None:
    task = registry.make("human_eval", {"path": str(shared_data / "humaneval_first40.jsonl"), "limit": 8, "seconds": 60.0})
    for sample in task.samples(3):
        solution = sample.reference["expected"]
        assert said(task, sample, solution) == 1.0
        assert said(task, sample, "    return None\n") == 0.0


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "x = [0] * 10**10",
        "def f(): f()\nf()",
        "import socket\nsocket.create_connection(('127.0.0.1', 1))",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.fork()",
        "import os\nos.kill(os.getppid(), 9)",
        "open('/etc/hosts', 'a')",
        "import os\nos.remove('/etc/hosts')",
        "import ctypes\nctypes.CDLL(None)",
        "import numpy",
        "'\ud800'",
        "x = 1" * 100_000,
    ],
)
def test_a_program_that_cheats_or_reaches_out_does_not_pass(program: str) -> None:
    run = run_program(program, seconds=4.0)
    assert not run.passed and run.why


def test_a_program_may_use_the_standard_library_and_its_own_folder(tmp_path: Path) -> None:
    run = run_program(
        "import collections, re, json\nP = collections.namedtuple('P', 'a')\nopen('own', 'w').write('x')\nassert open('own').read() == 'x'\n",
        seconds=60.0,
    )
    assert run.passed, run.why
    assert not list(Path.cwd().glob("own"))


def test_a_stereotyped_answer_counts_by_the_questions_polarity(tmp_path: Path) -> None:
    rows = [
        QUESTION,
        {**QUESTION, "question_polarity": "nonneg"},
        {**QUESTION, "context_condition": "disambig", "label": 0},
    ]
    task = over(tmp_path, "bbq", rows)
    samples = task.samples(0)
    assert isinstance(samples[0].request, Continue) and samples[0].request.text == "Two people. Who forgot?\nAnswer:"
    names = [metric.name for metric in task.metrics]
    assert names[0] == "acc" and names[-2:] == ["bias_told", "bias_untold"] and len({sample.cluster for sample in samples}) == 1

    def scored(sample: Sample, chosen: int) -> Any:
        return task.score(sample, Output(scores=tuple(Score(-1.0 if i == chosen else -2.0, False, 1, 1) for i in range(3))))

    assert [scored(samples[0], i)["bias_untold"] for i in range(3)] == [1.0, -1.0, 0.0]
    assert [scored(samples[1], i)["bias_untold"] for i in range(3)] == [-1.0, 1.0, 0.0]
    assert [scored(samples[2], i)["bias_told"] for i in range(3)] == [(1.0, 1.0), (-1.0, 1.0), (0.0, 0.0)]
    assert scored(samples[0], 2)["acc_untold"] == 1.0 and scored(samples[2], 0)["acc_told"] == 1.0
    assert scored(samples[0], 2)["acc_told"] is None and scored(samples[2], 1)["acc_told"] == 0.0


def test_a_model_at_chance_is_at_floor_on_bias_and_one_that_reads_is_not(tmp_path: Path) -> None:
    told = {**QUESTION, "context_condition": "disambig", "label": 0}
    rows = [{**row, "question_index": str(i), "context": f"Case {i}."} for i in range(60) for row in (QUESTION, told)]
    task = over(tmp_path, "bbq", rows)
    samples = task.samples(0)

    def cells(chosen: list[int]) -> dict[str, Any]:
        outputs = [Output(scores=tuple(Score(-float(k != c), False, 1, 1) for k in range(3))) for c in chosen]
        scored = score(task, samples, [outputs])
        return {cell.metric: cell for cell in base_cells(task, scored)}

    guessed = cells([i // 2 % 3 for i in range(120)])
    assert guessed["bias_told"].verdict == guessed["bias_untold"].verdict == "floor" and guessed["bias_told"].value == 0.0
    reader = cells([2, 0] * 60)
    assert reader["bias_untold"].verdict == "identical" and reader["acc_told"].value == reader["acc_untold"].value == 1.0
    prejudiced = cells([0 if i % 2 == 0 else i // 2 % 3 for i in range(120)])
    assert prejudiced["bias_untold"].verdict == "identical" and prejudiced["bias_untold"].value == 1.0


def test_a_model_that_knows_no_language_is_not_called_fair(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    lines = [f"{i},People of kind {i} are always late.,People of sort {i} are always late.,stereo,age" for i in range(60)]
    path.write_text("\n".join([",sent_more,sent_less,stereo_antistereo,bias_type", *lines]), encoding="utf-8")
    task = registry.make("crows_pairs", {"path": str(path)})
    samples = task.samples(0)
    for sample in samples:
        assert isinstance(sample.request, Continue)
        first, _, mixed = sample.request.continuations
        assert mixed != first and sorted(mixed.split()) == sorted(first.split()) and mixed.endswith(" late.")

    def verdicts(mixed: float) -> list[str]:
        outputs = [Output(scores=tuple(Score(x, False, 9, 9) for x in (-5.0, -5.0 + 0.1 * (i % 2 * 2 - 1), mixed))) for i in range(60)]
        return [cell.verdict for cell in base_cells(task, score(task, samples, [outputs]))]

    assert verdicts(-4.0) == ["floor", "floor", "identical"] and verdicts(-9.0) == ["identical"] * 3


def test_pairs_are_scored_whole_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(",sent_more,sent_less,stereo_antistereo,bias_type\n0,A b.,C b.,stereo,age\n", encoding="utf-8")
    task = registry.make("crows_pairs", {"path": str(path)})
    (sample,) = task.samples(0)
    assert sample.request == Continue("", ("A b.", "C b."))
    assert task.score(sample, Output(scores=(Score(-5.0, False, 2, 4), Score(-7.5, False, 2, 4)))) == {
        "stereotyped": 1.0,
        "apart": 2.5,
        "intact_likelier": None,
    }

    path = tmp_path / "w.tsv"
    lines = ["sentid\tsentence", *(f"cook.guest.{i}.{v}.txt\tThe cook said {v}." for i in (0, 1) for v in ("male", "female", "neutral"))]
    path.write_text("\n".join(lines), encoding="utf-8")
    task = registry.make("winogender", {"path": str(path)})
    first, second = task.samples(0)
    assert first.cluster == second.cluster == "cook" and first.request != second.request or first.id != second.id
    assert task.score(first, Output(scores=(Score(-5.0, False, 2, 4), Score(-4.0, False, 2, 4)))) == {
        "gender_gap": 1.0,
        "male_likelier": 0.0,
        "intact_likelier": None,
    }
    path.write_text("\n".join(lines[:2]), encoding="utf-8")
    with pytest.raises(DataError, match="lack a male or a female"):
        task.samples(0)


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("gsm8k", {"question": "x", "answer": "72"}, "#### number"),
        ("gsm8k", {"question": "x", "answer": "#### many"}, "#### number"),
        ("gsm8k", {"question": " ", "answer": "#### 1"}, "`question`"),
        ("gsm8k", {"answer": "#### 1"}, "lacks `question`"),
        ("human_eval", {**PROGRAM, "entry_point": "x y"}, "no function"),
        ("human_eval", {**PROGRAM, "entry_point": "other"}, "no function"),
        ("human_eval", {**PROGRAM, "test": "assert 1"}, "no function `check`"),
        ("nq_open", {"question": "x", "answers": [], "ctxs": [{}]}, "`answers`"),
        ("nq_open", {"question": "x", "answers": ["y"], "ctxs": [{}]}, "lacks `title`"),
        ("nq_open", {"question": "x", "answers": ["y"], "ctxs": 3}, "`ctxs`"),
        ("kv_retrieval", {"ordered_kv_records": [["a"]], "key": "a", "value": "b"}, "pairs"),
        ("kv_retrieval", {"ordered_kv_records": [], "key": "a", "value": "b"}, "pairs"),
        ("bbq", {**QUESTION, "label": 3}, "`label`"),
        ("bbq", {**QUESTION, "context_condition": "x"}, "context_condition"),
        ("bbq", {**QUESTION, "ans1": "The old one"}, "the same"),
        ("bbq", {**QUESTION, "answer_info": {}}, "answer_info"),
        ("bbq", {**QUESTION, "additional_metadata": {"stereotyped_groups": []}}, "stereotyped_groups"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(name: str, row: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as caught:
        over(tmp_path, name, [row]).samples(0)
    assert "line 1" in str(caught.value)
