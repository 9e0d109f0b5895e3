"""What sets of the hub share: rows by the data set's name and commit, or from a local file in the same form.

Their prompts equal those of lm-eval 0.4's own task files, which is tested on made-up rows in the hub's form
(tests/weigh/tasks/lm_eval_prompts.json, made by tests/parity/lm_eval_prompts.py). The rows themselves have not been seen here:
`evidence` says `format-tested`.
"""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any, ClassVar

import pydantic
from pydantic import Field

from steelyard.weigh.tasks.likelihood import Page, Question, QuestionTask, RollingTask
from steelyard.weigh.tasks.rows import Row
from steelyard.weigh.tasks.tables import read_hub, read_table

FORMAT_TESTED = "format-tested: prompts equal lm-eval's on made-up rows; no row of the set has been seen"


class HubRows(pydantic.BaseModel):
    """Where the rows of a hub's set are from."""

    dataset: ClassVar[str]
    config: ClassVar[str | None] = None
    split: ClassVar[str] = "validation"
    commit: ClassVar[str | None] = None
    evidence: ClassVar[str] = FORMAT_TESTED

    path: Path | None = Field(None, description="a local file of its rows (JSONL or JSON); by default the hub's")
    revision: str | None = Field(None, description="commit of the data set on the hub, 40 hexadecimal digits; by default the pinned one")

    def rows(self, check: Any) -> list[Row]:
        """The set's rows, checked."""
        if self.path is not None:
            return read_table(self.path, check)
        return read_hub(self.dataset, check, config=self.subset, split=self.split, revision=self.revision or self.commit)

    @property
    def subset(self) -> str | None:
        """The configuration."""
        return self.config


class HubQuestions(HubRows, QuestionTask):
    """Multiple choice from the hub."""

    @abc.abstractmethod
    def question(self, row: Row) -> Question:
        """A row as a question; raises `BadValue` for one that cannot be used."""

    def questions(self) -> list[Question]:
        return [self.question(row) for row in self.rows(lambda value: self.question(Row(0, value, "")) and None)]


class HubPages(HubRows, RollingTask):
    """Texts from the hub."""

    @abc.abstractmethod
    def page(self, row: Row) -> Page:
        """A row as a text; raises `BadValue` for one that cannot be used."""

    def pages(self) -> list[Page]:
        return [self.page(row) for row in self.rows(lambda value: self.page(Row(0, value, "")) and None)]
