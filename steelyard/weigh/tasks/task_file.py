"""Tasks that are data only: a YAML file that says where rows are and how each becomes a question.

    kind: choices                        # or `perplexity`, `answer`
    summary: Who is meant?               # one sentence
    rows: {path: age.jsonl}              # .jsonl, .json (`at: key.key` to the list), .csv, .tsv (`columns: [...]` where it has no heading)
    # rows: {datasets: org/name, config: name, split: test, revision: 40 hexadecimal digits of the commit}
    prompt: "{{ context }} {{ question }}\\nAnswer:"      # every text is a Jinja template over the row's columns
    choices: ["{{ ans0 }}", "{{ ans1 }}", "{{ ans2 }}"]  # or one template that writes a JSON list: "{{ choices.text | tojson }}"
    right: "{{ label }}"                 # the right choice's number from 0; `expected` in its place is the right choice's text

In a recipe the file's path stands where a task's name does: `tasks: [facts, ./age.yaml]`; its name is then `age`.

| kind | needs | may have | scored |
| --- | --- | --- | --- |
| `choices` | `prompt`, `choices`, `right` or `expected` | `before`, `delimiter` (" "), `cut`, `chat` | log-probability of `before + prompt + delimiter + choice` on raw text |
| `perplexity` | `text` | | the text, rolled over in windows of the model's context |
| `answer` | `prompt`, `expected` | `before`, `check`, `system`, `max_tokens` (128) | an answer to the prompt in a conversation |

`check` is `expected` (names one of the accepted answers; the default), `exact` (equals one up to case, punctuation and articles),
`number` (its last number is the expected one) or `contains`. `expected` may write a JSON list of accepted answers. All kinds may have
`cluster` (rows of one text count as dependent) and `tags` (name -> template). Paths are relative to the YAML file; keys that are not
known are refused, and so are rows for which a template fails.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic
from pydantic import Field

from steelyard.core import recipe_yaml
from steelyard.core.errors import RecipeError, nearest
from steelyard.core.levers import settings_error
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.recipe_parts import TASK_FILE
from steelyard.core.recipe_paths import rooted_path
from steelyard.weigh.scorers import overlap
from steelyard.weigh.scorers.numbers import read_numbers, same_number
from steelyard.weigh.tasks.chat import CHECKS, FINISHED, RIGHT
from steelyard.weigh.tasks.likelihood import CUT, Page, Question, QuestionTask, RollingTask
from steelyard.weigh.tasks.row_template import RowTemplate
from steelyard.weigh.tasks.rows import BadValue, Row, take
from steelyard.weigh.tasks.tables import Form, read_hub, read_table
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

F1 = Metric("f1", "quality", "share", True, margin=0.03)


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


class Rows(_Strict):
    """Where rows are: a file, or a data set of the hub."""

    path: str | None = Field(None, min_length=1, description="file, relative to the YAML file")
    form: Form | None = Field(None, description="jsonl | json | csv | tsv; by default what the file's name ends in")
    at: str = Field("", description="keys to the list of rows inside a JSON file, with dots between them")
    columns: list[str] = Field([], description="columns of a CSV or TSV file that has no heading")
    datasets: str | None = Field(None, min_length=1, description="name of a data set on the hub")
    config: str | None = Field(None, description="its configuration")
    split: str = Field("test", description="its split")
    revision: str | None = Field(None, description="its commit")

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> Rows:
        if (self.path is None) == (self.datasets is None):
            raise ValueError("give `path` or `datasets`, one of them")
        return self


class _Written(_Strict):
    """What every kind of file may say."""

    summary: str = Field("", description="what the task asks, one sentence")
    rows: Rows = Field(description="where the rows are")
    cluster: str = Field("", description="template: rows with the same text depend on one another")
    tags: dict[str, str] = Field({}, description="name -> template: labels for breakdowns")


class ChoicesFile(_Written):
    """Multiple choice."""

    kind: Literal["choices"]
    before: str = Field("", description="text before every prompt, such as worked examples")
    prompt: str = Field(description="template of the prompt")
    choices: list[str] | str = Field(description="templates of the choices, or one that writes a JSON list")
    right: str = Field("", description="template of the right choice's number, counted from 0")
    expected: str = Field("", description="template of the right choice's text, in place of its number")
    delimiter: str = Field(" ", description="what stands between prompt and choice")
    cut: bool = Field(False, description=CUT)
    chat: bool = Field(False, description="put the prompt as a user's message")

    @pydantic.model_validator(mode="after")
    def _one_way_to_be_right(self) -> ChoicesFile:
        if bool(self.right) == bool(self.expected):
            raise ValueError("give `right` (a number) or `expected` (a text), one of them")
        return self


class PerplexityFile(_Written):
    """Perplexity of texts."""

    kind: Literal["perplexity"]
    text: str = Field(description="template of the text")


class AnswerFile(_Written):
    """Answers in words."""

    kind: Literal["answer"]
    before: str = Field("", description="text before every prompt")
    system: str = Field("", description="the system's message; none if empty")
    prompt: str = Field(description="template of the user's message")
    expected: str = Field(description="template of the accepted answer, or of a JSON list of them")
    check: Literal["expected", "exact", "number", "contains"] = Field("expected", description="what counts as right")
    max_tokens: int = Field(128, ge=1, le=32_768, description="longest answer, tokens")


KINDS: Mapping[str, type[_Written]] = {"choices": ChoicesFile, "perplexity": PerplexityFile, "answer": AnswerFile}


def read_task_file(path: Path) -> _Written:
    """The settings of a task file.

    Raises:
        RecipeError: it is missing, no YAML, or has keys that mean nothing; the nearest known one is named.
    """
    document = recipe_yaml.read(path)
    value, where = document.value, str(path)
    if not isinstance(value, dict) or "kind" not in value:
        raise RecipeError("it does not say what `kind` of task it is", where=where, do=f"Known kinds: {', '.join(KINDS)}.")
    kind = value["kind"]
    if kind not in KINDS:
        raise RecipeError(f"no kind of task is called {kind!r:.60}", where=where, do=nearest(str(kind), KINDS))
    form = KINDS[kind]
    try:
        return form.model_validate(value)
    except pydantic.ValidationError as error:
        known = (*form.model_fields, *Rows.model_fields)
        raise settings_error(error, known, where, f"A task of kind `{kind}` may say: {', '.join(form.model_fields)}.") from None


class _Name:
    """A task's name: on the class what the registry calls it, on a task what the recipe does, which is the file's name."""

    def __get__(self, task: TaskFile | None, owner: type[TaskFile]) -> str:
        return TASK_FILE if task is None else task.path.stem


class TaskFile(Task):
    """A task that a YAML file describes."""

    name: ClassVar[str] = _Name()  # type: ignore[assignment]  # gives a string
    summary: ClassVar[str] = "Any task that a YAML file describes: choices, perplexity or answers over rows of a table."

    path: Path = Field(description="the YAML file")
    limit: int | None = Field(None, ge=1, description="most rows used, count; drawn by the seed")

    @functools.cached_property
    def _task(self) -> Task:
        written = read_task_file(self.path)
        kinds = {ChoicesFile: _Choices, PerplexityFile: _Perplexity, AnswerFile: _Answer}
        return kinds[type(written)](written, self.path, self.limit)

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]  # they depend on the file
        """Those of the file's kind."""
        return self._task.metrics

    def samples(self, seed: int) -> list[Sample]:
        return self._task.samples(seed)

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        return self._task.score(sample, output)


def _rows(written: _Written, path: Path, check: Any) -> list[Row]:
    rows = written.rows
    if rows.datasets is not None:
        return read_hub(rows.datasets, check, config=rows.config, split=rows.split, revision=rows.revision)
    assert rows.path is not None
    return read_table(rooted_path(rows.path, path.parent), check, form=rows.form, at=rows.at, columns=rows.columns)


class _Common:
    """Templates that all kinds have: a row's cluster and tags."""

    def __init__(self, written: _Written, path: Path):
        where = str(path)
        self.cluster = RowTemplate(written.cluster, "cluster", where) if written.cluster else None
        self.tags = {name: RowTemplate(text, f"tags.{name}", where) for name, text in written.tags.items()}

    def of(self, row: Row) -> dict[str, Any]:
        cluster = self.cluster.render(row.value) if self.cluster else ""
        return {"cluster": cluster, "tags": {"row": str(row.line)} | {name: tag.render(row.value) for name, tag in self.tags.items()}}


class _Choices(QuestionTask):
    """Multiple choice as a file describes it."""

    name: ClassVar[str] = TASK_FILE
    summary: ClassVar[str] = ChoicesFile.__doc__ or ""

    _made: list[Question] = pydantic.PrivateAttr()

    def __init__(self, written: ChoicesFile, path: Path, limit: int | None):
        super().__init__(limit=limit, cut=written.cut, chat=written.chat)
        common, where = _Common(written, path), str(path)
        prompt = RowTemplate(written.prompt, "prompt", where)
        right = RowTemplate(written.right or written.expected, "right" if written.right else "expected", where)
        single = isinstance(written.choices, str)
        sources = [written.choices] if isinstance(written.choices, str) else written.choices
        choices = [RowTemplate(source, "choices" if single else f"choices.{i}", where) for i, source in enumerate(sources)]

        def question(row: Row) -> Question:
            texts = [choice.render(row.value) for choice in choices]
            texts = _listed(texts[0], "choices") if single else texts
            if len(texts) < 2 or len(set(texts)) != len(texts) or not all(text.strip() for text in texts):
                raise BadValue("`choices` are not at least two different texts")
            said = right.render(row.value).strip()
            number = _number(said, texts) if written.right else _place(said, texts)
            asked = written.before + prompt.render(row.value)
            return Question(row.id, asked, tuple(texts), (number,), delimiter=written.delimiter, **common.of(row))

        rows = _rows(written, path, lambda value: question(Row(0, value, "")) and None)
        self._made = [question(row) for row in rows]

    def questions(self) -> list[Question]:
        return self._made


class _Perplexity(RollingTask):
    """Perplexity as a file describes it."""

    name: ClassVar[str] = TASK_FILE
    summary: ClassVar[str] = PerplexityFile.__doc__ or ""

    _made: list[Page] = pydantic.PrivateAttr()

    def __init__(self, written: PerplexityFile, path: Path, limit: int | None):
        super().__init__(limit=limit)
        common, text = _Common(written, path), RowTemplate(written.text, "text", str(path))

        def page(row: Row) -> Page:
            if not (whole := text.render(row.value)):
                raise BadValue("`text` is empty")
            return Page(row.id, whole, **common.of(row))

        self._made = [page(row) for row in _rows(written, path, lambda value: page(Row(0, value, "")) and None)]

    def pages(self) -> list[Page]:
        return self._made


class _Answer(Task):
    """Answers in words as a file describes them."""

    name: ClassVar[str] = TASK_FILE
    summary: ClassVar[str] = AnswerFile.__doc__ or ""
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, F1, FINISHED)

    _made: list[Sample] = pydantic.PrivateAttr()
    _limit: int | None = pydantic.PrivateAttr()

    def __init__(self, written: AnswerFile, path: Path, limit: int | None):
        super().__init__()
        self._limit = limit
        common, where = _Common(written, path), str(path)
        prompt, expected = RowTemplate(written.prompt, "prompt", where), RowTemplate(written.expected, "expected", where)
        system = (Message("system", written.system),) if written.system else ()

        def sample(row: Row) -> Sample:
            said = expected.render(row.value).strip()
            accepted = _listed(said, "expected") if said.startswith("[") else [said]
            if not accepted or not all(one.strip() for one in accepted):
                raise BadValue("`expected` is empty")
            if written.check == "number" and (len(accepted) != 1 or len(read_numbers(said)) != 1):
                raise BadValue(f"`expected` holds no single number: {said[:40]!r}")
            asked = written.before + prompt.render(row.value)
            if not asked.strip():
                raise BadValue("`prompt` is empty")
            request = Ask((*system, Message("user", asked)), AnswerSettings(max_tokens=written.max_tokens))
            reference = {"expected": " or ".join(accepted), "accepted": accepted, "check": written.check}
            return Sample(row.id, request, reference=reference, **common.of(row))

        self._made = [sample(row) for row in _rows(written, path, lambda value: sample(Row(0, value, "")) and None)]

    def samples(self, seed: int) -> list[Sample]:
        return take(self._made, self._limit, seed, self.name)

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        if output.failure is not None:
            return dict.fromkeys(metric.name for metric in self.metrics)
        accepted, check = sample.reference["accepted"], sample.reference["check"]
        right = {
            "exact": lambda: overlap.exact_match(output.text, accepted),
            "number": lambda: same_number(output.text, accepted[0]),
            "contains": lambda: any(CHECKS["contains"](output.text, one) for one in accepted),
            "expected": lambda: CHECKS["expected"](output.text, accepted),
        }[check]()
        finished = float(output.reason in ("stop", "tool_calls")) if output.reason else None
        return {"right": float(right), "f1": overlap.f1(output.text, accepted), "finished": finished}


def _listed(text: str, key: str) -> list[str]:
    """The texts of a JSON list that a template wrote."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"`{key}` does not write a JSON list, as {{{{ column | tojson }}}} would: {str(error)[:100]}") from None
    if not isinstance(value, list) or not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in value):
        raise BadValue(f"`{key}` does not write a JSON list of texts")
    return [str(one) for one in value]


def _number(text: str, choices: list[str]) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise BadValue(f"`right` is {text[:60]!r}, not a number (for the right choice's text there is `expected`)")
    if int(text) >= len(choices):
        raise BadValue(f"`right` is {text}, but the choices are counted from 0 to {len(choices) - 1}")
    return int(text)


def _place(text: str, choices: list[str]) -> int:
    found = [number for number, choice in enumerate(choices) if choice.strip() == text]
    if len(found) != 1:
        raise BadValue(f"`expected` is {text[:60]!r}, which is none of the choices")
    return found[0]
