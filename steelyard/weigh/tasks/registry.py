"""Tasks by name: this package's own and everybody else's, found through the entry-point group `steelyard.tasks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.levers import settings_error
from steelyard.core.recipe_parts import task_class, task_names
from steelyard.weigh.tasks.task import Task


def find(name: str, where: str = "task") -> type[Task]:
    """The task class a name stands for.

    Raises:
        RecipeError: for an unknown name, with the nearest known one.
        SteelyardError: when the task is installed but broken.
    """
    try:
        task = task_class(name)
    except SteelyardError as error:
        raise error.at(where) from error
    if not issubclass(task, Task):
        raise SteelyardError(f"the task `{name}` is not a Task class", where=where, do="Point its entry point at a subclass of Task.")
    return task


def make(name: str, settings: Mapping[str, Any] | None = None, where: str = "task") -> Task:
    """A task with its settings.

    Args:
        name: as recipes call it.
        settings: its settings, as plain data.
        where: the recipe's address, for errors.

    Raises:
        RecipeError: for an unknown name or setting (the nearest is named), or a bad value.
    """
    task = find(name, where)
    try:
        return task.model_validate(dict(settings or {}))
    except pydantic.ValidationError as error:
        raise settings_error(error, task.model_fields, f"{where}: {name}", describe_settings(task)) from None
    except (TypeError, ValueError) as error:
        raise RecipeError(f"`{name}` takes named settings, not {settings!r}", where=where, do=describe_settings(task)) from error


def describe_settings(task: type[Task]) -> str:
    """One line that names a task's settings."""
    return f"Settings of `{task.name}`: {', '.join(task.model_fields) or 'none'}."


def all_tasks() -> dict[str, type[Task]]:
    """Every installed task, by name."""
    return {name: find(name) for name in task_names()}
