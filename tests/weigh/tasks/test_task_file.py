"""A YAML file makes a task: rows of tables become prompts and choices letter for letter, and what cannot be used is named."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core import recipe as recipes
from steelyard.core.errors import DataError, RecipeError
from steelyard.core.protocols import Score
from steelyard.weigh.runner import weigh
from steelyard.weigh.scorers import choosing, overlap, perplexity
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.row_template import RowTemplate
from steelyard.weigh.tasks.rows import BadValue
from steelyard.weigh.tasks.tables import read_table
from steelyard.weigh.tasks.task import Ask, Choose, Continue, Output, Read, Task
from tests.weigh.simple_arms import Bench
from tests.weigh.simple_arms import recipe as simple_recipe

ROWS = [
    {"q": "2 + 2?", "options": ["3", "4"], "label": 1, "story": "one"},
    {"q": "1 + 1?", "options": ["2", "5", "6"], "label": 0, "story": "one"},
]
CHOICES = {
    "kind": "choices",
    "rows": {"path": "rows.jsonl"},
    "prompt": "Q: {{ q }}\nA:",
    "choices": "{{ options | tojson }}",
    "right": "{{ label }}",
}
ANSWER = {"kind": "answer", "rows": {"path": "rows.jsonl"}, "prompt": "{{ q }}", "expected": "{{ options[label] }}", "check": "number"}
TEXT = {"kind": "perplexity", "rows": {"path": "rows.jsonl"}, "text": "{{ q }}"}


def file(folder: Path, content: dict[str, Any], rows: list[Any] | None = None, **task: Any) -> Task:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in (ROWS if rows is None else rows)), encoding="utf-8")
    (folder / "mine.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return registry.make("task_file", {"path": str(folder / "mine.yaml"), **task})


def test_choices_continue_the_prompt_after_a_space(tmp_path: Path) -> None:
    task = file(tmp_path, CHOICES | {"before": "Add.\n\n", "cluster": "{{ story }}", "tags": {"size": "{{ options | length }}"}})
    first, second = task.samples(0)
    assert first.request == Continue("Add.\n\nQ: 2 + 2?\nA:", (" 3", " 4"))
    assert (first.cluster, second.cluster, second.tags["size"]) == ("one", "one", "3")
    assert [metric.floor for metric in task.metrics[:4]] == [(1 / 2 + 1 / 3) / 2] * 4
    found = task.score(first, Output(scores=(Score(-2.0, False, 1, 1), Score(-1.0, False, 1, 1))))
    assert found["acc"] == found["acc_norm"] == found["acc_bytes"] == found["acc_tokens"] == 1.0
    assert found["right_logprob"] == pytest.approx(-math.log(1 + math.exp(-1)))


def test_the_right_choice_may_be_said_by_its_text_and_the_prompt_put_in_a_conversation(tmp_path: Path) -> None:
    rows = [{"q": "How many?", "n": "10"}]
    content = CHOICES | {"choices": ["{{ 10 }}", "2"], "expected": "{{ n }}", "delimiter": "\n", "chat": True, "cut": True}
    content.pop("right")
    task = file(tmp_path, content, rows)
    (sample,) = task.samples(0)
    assert isinstance(sample.request, Choose) and sample.request.continuations == ("10", "2")
    assert sample.reference["right"] == [0] and task.metrics[-1].name == "cut"


def test_texts_are_rolled_over_and_their_words_and_bytes_counted(tmp_path: Path) -> None:
    task = file(tmp_path, TEXT, [{"q": "zwei Wörter"}])
    (sample,) = task.samples(0)
    assert sample.request == Read("zwei Wörter", rolling=True)
    found = task.score(sample, Output(scores=(Score(-6.0, False, 4, 12),)))
    assert found["word_log_perplexity"] == (6.0, 2.0) and found["token_log_perplexity"] == (6.0, 4.0)
    assert perplexity.perplexities([found]) == pytest.approx(
        {
            "bits_per_byte": 6 / 12 / math.log(2),
            "word_perplexity": math.e**3,
            "byte_perplexity": math.e**0.5,
            "token_perplexity": math.e**1.5,
        }
    )


def test_answers_are_asked_for_in_a_conversation_and_checked(tmp_path: Path) -> None:
    task = file(tmp_path, ANSWER | {"system": "Be brief.", "max_tokens": 7})
    first, _ = task.samples(0)
    assert isinstance(first.request, Ask) and first.request.settings.max_tokens == 7
    assert [(m.role, m.content) for m in first.request.conversation] == [("system", "Be brief."), ("user", "2 + 2?")]
    assert task.score(first, Output(text="It is 4.", reason="stop")) == {"right": 1.0, "f1": pytest.approx(0.5), "finished": 1.0}
    assert task.score(first, Output(text="It is 5.", reason="length"))["right"] == 0.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": None}, "does not say what `kind`"),
        ({"kind": "choice"}, "Did you mean `choices`"),
        ({"promt": "x"}, "unknown key `promt`.*Did you mean `prompt`"),
        ({"rows": {"path": "rows.jsonl", "colums": []}}, "Did you mean `columns`"),
        ({"rows": {}}, "`path` or `datasets`"),
        ({"rows": {"datasets": "org/name"}}, "says no revision"),
        ({"rows": {"datasets": "org/name", "revision": "main"}}, "'main' is no commit"),
        ({"rows": {"path": "none.jsonl"}}, "cannot be read"),
        ({"rows": {"path": "mine.yaml"}}, "not read from .yaml"),
        ({"prompt": "{% for %}"}, "`prompt` is no template"),
        ({"prompt": "{{ qq }}"}, "2 of 2 rows.*`prompt`: 'qq' is undefined"),
        ({"prompt": "{% include '/etc/passwd' %}"}, "may not reach for other files"),
        ({"prompt": "{{ q.__class__.__mro__ }}"}, "`prompt`"),
        ({"prompt": "{% for i in range(10**9) %}x{% endfor %}"}, "`prompt`"),
        ({"right": "{{ q }}"}, "not a number"),
        ({"right": "7"}, "counted from 0 to"),
        ({"right": "0", "expected": "4"}, "one of them"),
        ({"choices": "{{ q }}"}, "does not write a JSON list"),
        ({"choices": ["a"]}, "at least two different"),
        ({"choices": ["a", "a"]}, "at least two different"),
        ({"choices": ["a", " "]}, "at least two different"),
    ],
)
def test_what_a_file_gets_wrong_is_told(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    content = {key: value for key, value in (CHOICES | change).items() if value is not None}
    with pytest.raises((RecipeError, DataError)) as caught:
        file(tmp_path, content).samples(0)
    assert re.search(told, str(caught.value), re.DOTALL), str(caught.value)


def test_a_number_that_is_none_is_no_expected_number(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no single number"):
        file(tmp_path, ANSWER | {"expected": "many"}).samples(0)


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("t.csv", b'q,"a b"\r\n"x, ""y""",2\r\n', {}),
        ("t.tsv", b'x, "y"\t2\n', {"columns": ["q", "a b"]}),
        ("t.json", b'{"data": {"rows": [{"q": "x, \\"y\\"", "a b": "2"}]}}', {"at": "data.rows"}),
        ("t.txt", b'{"q": "x, \\"y\\"", "a b": "2"}\n\n', {"form": "jsonl"}),
    ],
)
def test_every_form_of_table_gives_the_same_row(tmp_path: Path, name: str, content: bytes, options: dict[str, Any]) -> None:
    (tmp_path / name).write_bytes(content)
    (row,) = read_table(tmp_path / name, lambda value: None, **options)
    assert row.value == {"q": 'x, "y"', "a b": "2"}
    assert RowTemplate('{{ row["a b"] }} {{ q }}\n', "prompt", "here").render(row.value) == '2 x, "y"\n'


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", b"a,b\n1\n2,3\n4,5,6\n", "2 of 3 rows"),
        ("t.csv", b"a,a\n1,2\n", "same name"),
        ("t.csv", b'a,b\n"1,2\n', "not CSV"),
        ("t.csv", b"a,b\n\xff,1\n", "not UTF-8"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.json", b'{"a": []}', "list of rows is none"),
        ("t.json", b"[" * 100_000, "not JSON"),
        ("t.json", b"[1]", "not an object"),
        ("t.json", b'[{"a": {"b": ["\\ud800"]}}]', "surrogate"),
        ("t.json", b'[{"a": NaN}]', "NaN"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_with_the_reason(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_table(tmp_path / name, lambda value: None)


def test_in_a_recipe_the_file_stands_where_a_name_does_and_lends_its_own(tmp_path: Path) -> None:
    file(tmp_path, CHOICES)
    (tmp_path / "r.yaml").write_text("base: ./model\ntasks: [./mine.yaml, facts]\n", encoding="utf-8")
    recipe = recipes.read(tmp_path / "r.yaml")
    assert [task.name for task in recipe.tasks] == ["mine", "facts"]
    assert len(recipe.tasks[0].build().samples(0)) == 2
    again = recipes.from_mapping(recipe.resolved(), directory=tmp_path)
    assert again.tasks == recipe.tasks
    (tmp_path / "r.yaml").write_text("base: ./model\ntasks: [./mine.yaml, {other/mine.yaml: {limit: 1}}]\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="`mine` is there twice"):
        recipes.read(tmp_path / "r.yaml")


def test_of_equally_likely_choices_the_first_counts_and_lengths_are_of_the_choice_alone() -> None:
    scores = [Score(-4.0, False, 1, 5), Score(-4.0, False, 2, 5), Score(-6.0, False, 3, 9)]
    found = choosing.values(scores, ["ab", "éé", "abcdefgh"], {1})
    assert (found["acc"], found["acc_norm"], found["acc_bytes"], found["acc_tokens"]) == (0.0, 0.0, 0.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e4, 0), min_size=2, max_size=6), st.data())
def test_the_choices_share_all_probability(sums: list[float], data: st.DataObject) -> None:
    scores = [Score(one, False, 1, 1) for one in sums]
    each = [choosing.values(scores, ["x"] * len(sums), {i}) for i in range(len(sums))]
    assert sum(math.exp(one["right_logprob"]) for one in each) == pytest.approx(1.0)  # type: ignore[arg-type]
    assert sum(one["acc"] for one in each) == 1.0  # type: ignore[misc]
    some = data.draw(st.sets(st.integers(0, len(sums) - 1), min_size=1))
    joint = choosing.values(scores, ["x"] * len(sums), some)
    assert math.exp(joint["right_logprob"]) == pytest.approx(sum(math.exp(each[i]["right_logprob"]) for i in some), abs=1e-9)  # type: ignore[arg-type]


def test_exact_match_and_f1_ignore_case_punctuation_and_articles() -> None:
    assert overlap.exact_match("The  Röntgen!", ["röntgen"]) and not overlap.exact_match("Curie", ["Röntgen"])
    assert overlap.contains("It was Wilhelm Röntgen, in 1901.", ["wilhelm röntgen"]) and not overlap.contains("party", ["art"])
    assert overlap.f1("Wilhelm Conrad Röntgen", ["Conrad Röntgen", "x"]) == pytest.approx(0.8)
    assert overlap.f1("the", ["a"]) == 1.0 and overlap.f1("x", []) == 0.0


def test_a_template_of_a_row_keeps_white_space_and_names_a_missing_column() -> None:
    assert RowTemplate("a\n  {% if true %}\nb{% endif %}\n", "prompt", "here").render({}) == "a\n  \nb\n"
    with pytest.raises(BadValue, match="'x' is undefined"):
        RowTemplate("{{ x }}", "prompt", "here").render({"y": 1})


def test_in_a_report_every_file_has_its_own_name_and_the_first_is_the_primary_task(tmp_path):
    rows = [{"q": f"What is {n} + {n}?", "label": 0, "options": [str(2 * n)]} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in ("sums", "again"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(ANSWER), encoding="utf-8")
    tasks = [str(tmp_path / "sums.yaml"), {"task_file": {"path": str(tmp_path / "again.yaml")}}]
    asked = simple_recipe(arms={"worse": "skill-10"}, tasks=tasks, axes=["quality"])
    report = weigh(asked, tmp_path / "run", opener=Bench(), say=lambda line: None, progress=lambda *told: None)
    assert [(cell.task, cell.metric) for cell in report.cells if cell.primary] == [("sums", "right")]
    assert {cell.task for cell in report.cells} == {"sums", "again"} == {flip.task for flip in report.flips}
