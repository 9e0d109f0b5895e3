"""What sets share whose questions are answered in words: rows of a file, each one question, all bad rows named before anything runs."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from steelyard.core.errors import DataError, RecipeError
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.weigh.tasks.chat import FINISHED, RIGHT
from steelyard.weigh.tasks.right_answers import other_numbers
from steelyard.weigh.tasks.rows import BadValue, Row, take, take_of_every_kind
from steelyard.weigh.tasks.sets.shots import Plain, drawn, plain_prompt
from steelyard.weigh.tasks.tables import read_table
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value


class AskedSet(Task):
    """Questions answered in words. A subclass says what a row asks and when an answer is right."""

    columns: ClassVar[tuple[str, ...]] = ()
    at: ClassVar[str] = ""
    ending: ClassVar[str] = ""
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, FINISHED)

    path: Path = Field(description="the set's file")
    limit: int | None = Field(None, ge=1, description="most questions, count; drawn by the seed")
    max_tokens: int = Field(256, ge=1, le=32_768, description="longest answer, tokens")
    shots: int = Field(
        0, ge=0, le=64, description="worked examples before each question, count; drawn by the seed, never the question itself"
    )
    examples: Path | None = Field(None, description="file or folder that examples are drawn from (a training split); by default the set's")
    raw: bool = Field(
        False, description="ask in plain text as lm-eval does, with its stop strings and no chat template, below whatever wraps"
    )

    @property
    def perturbable(self) -> bool:  # type: ignore[override]  # depends on the form
        """Plain text holds examples and marks that are not to be put otherwise."""
        return not self.raw

    @abc.abstractmethod
    def sample(self, row: Row) -> Sample:
        """A row as a sample; raises `BadValue` for one that cannot be used."""

    @abc.abstractmethod
    def right(self, sample: Sample, text: str) -> bool:
        """Whether an answer is right."""

    def rows(self) -> list[Row]:
        """The rows of the file, or of every file of a folder; a folder's rows have the file's name in `where`."""
        return self._read(self.path)

    def _read(self, path: Path) -> list[Row]:
        return read_set(path, lambda value: self.sample(Row(0, value, "")) and None, self.columns, self.at, self.ending)

    def kind(self, row: Row) -> str:
        """What sort of question a row is: of each, as many are drawn."""
        return ""

    def plain(self, row: Row) -> Plain:
        """A row as lm-eval writes it.

        Raises:
            RecipeError: it is not known here how.
        """
        raise RecipeError(f"`{self.name}` is not asked in plain text", where=f"task `{self.name}`", do="Leave `raw` out.")

    def shown(self, row: Row) -> str:
        """The right answer to a row, as an example shows it."""
        return self.sample(row).reference["expected"]

    def samples(self, seed: int) -> list[Sample]:
        rows = self.rows()
        pool = rows if self.examples is None else self._read(self.examples)
        where = str(self.examples or self.path)
        parts = dict[str, list[Row]]()
        for row in rows:
            parts.setdefault(self.kind(row), []).append(row)
        if len(parts) > 1:
            chosen = take_of_every_kind(list(parts.values()), self.limit, seed, self.name)
        else:
            chosen = take(rows, self.limit, seed, self.name)
        return [self._asked(row, drawn(row, pool, self.shots, seed, self.name, where)) for row in chosen]

    def _asked(self, row: Row, examples: Sequence[Row]) -> Sample:
        sample = self.sample(row)
        assert isinstance(sample.request, Ask)  # a subclass's `sample` asks
        if self.raw:
            asked = self.plain(row)
            prompt = plain_prompt(asked, [self.plain(one) for one in examples])
            settings = replace(sample.request.settings, stop=asked.stops)
            return replace(sample, request=Ask((Message("user", prompt),), settings, raw=True))
        turns: list[Message] = []
        for one in examples:
            request = self.sample(one).request
            assert isinstance(request, Ask)
            turns += [request.conversation[-1], Message("assistant", self.shown(one))]
        *before, last = sample.request.conversation
        return replace(sample, request=replace(sample.request, conversation=(*before, *turns, last)))

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        if output.failure is not None:
            return dict.fromkeys(metric.name for metric in self.metrics)
        finished = float(output.reason in ("stop", "tool_calls")) if output.reason else None
        return {"right": float(self.right(sample, output.text)), "finished": finished}

    def ask(self, text: str, system: str = "") -> Ask:
        """The question as a conversation."""
        messages = (Message("system", system),) if system else ()
        return Ask((*messages, Message("user", text)), AnswerSettings(max_tokens=self.max_tokens))


def numbers_told_apart(task: AskedSet, sample: Sample) -> tuple[str, ...]:
    """The right number and others with one other digit, each in a sentence; none where questions are asked in plain text."""
    right = sample.reference["expected"]
    return () if task.raw else tuple(f"The answer is {number}." for number in (right, *other_numbers(right, sample.id)))


def read_set(path: Path, check: Any, columns: Sequence[str] = (), at: str = "", ending: str = "") -> list[Row]:
    """The rows of a file, or of every file of a folder that ends alike; each row says in `set` which file it is from.

    Raises:
        DataError: there is no such file in the folder, or rows cannot be used.
    """
    files = sorted(path.glob(f"*{ending}")) if path.is_dir() and ending else [path]
    if not files:
        raise DataError(f"no file there ends in {ending}", where=str(path), do="Give the set's folder or one of its files.")
    out: list[Row] = []
    for file in files:
        name = file.name.removesuffix(ending)
        rows = read_table(file, lambda value, name=name: check({**value, "set": name}), columns=columns, at=at)
        out += [Row(row.line, {**row.value, "set": name}, f"{name}-{row.id}" if ending else row.id) for row in rows]
    return out


def text_at(row: Mapping[str, Any], key: str) -> str:
    """A column that has to be a text with something in it."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadValue(f"`{key}` is not a text" if key in row else f"lacks `{key}`")
    return value


def texts_at(row: Mapping[str, Any], key: str, least: int = 1) -> list[str]:
    """A column that has to be a list of texts."""
    value = row.get(key)
    if not isinstance(value, list) or len(value) < least or not all(isinstance(one, str) and one.strip() for one in value):
        raise BadValue(f"`{key}` is not a list of at least {least} texts" if key in row else f"lacks `{key}`")
    return value


def number_at(row: Mapping[str, Any], key: str, below: int) -> int:
    """A column that has to be a whole number from 0 to below `below`, as a number or as written."""
    value = row.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
        raise BadValue(f"`{key}` is {value!r:.40}, not a number from 0 to {below - 1}")
    return value
