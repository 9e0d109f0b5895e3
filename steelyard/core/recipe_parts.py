"""What a recipe is made of once it has been read: sources, arms, tasks."""

from __future__ import annotations

import functools
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pydantic
import pydantic_core

from steelyard.core import plugins
from steelyard.core.errors import RecipeError, nearest
from steelyard.core.levers import Lever, explain
from steelyard.core.numbers import Numbers

TASKS = "steelyard.tasks"
PLANS = "steelyard.plans"
LOCAL = frozenset({"weights", "gradients", "logprobs", "sites"})


class _Part(Numbers):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ModelSource(_Part):
    """A model that is already there: a got name, a directory, a .gguf file or hf:org/name."""

    capabilities: ClassVar[frozenset[str]] = LOCAL

    name: str = pydantic.Field(min_length=1, description="what `steelyard.core.get.locate` is asked for")

    def written(self) -> dict[str, Any]:
        """The recipe keys that say so."""
        return {"base": self.name}


class EndpointSource(_Part):
    """An OpenAI-compatible server that answers. It has no weights here, so only `wrap` levers apply."""

    capabilities: ClassVar[frozenset[str]] = frozenset()

    url: str = pydantic.Field(description="where the API begins, such as https://host/v1")
    model: str = pydantic.Field(min_length=1, description="the model's name there")
    key: str | None = pydantic.Field(None, description="name of the environment variable that holds the key")
    spend: float | None = pydantic.Field(
        default=None, gt=0, allow_inf_nan=False, description="most that a run may spend there, in the price table's currency; unset: no cap"
    )
    at_once: int = pydantic.Field(default=8, ge=1, le=256, strict=True, description="requests under way at the same time")
    timeout: float = pydantic.Field(default=60.0, gt=0, le=3600, description="seconds without a byte after which the server counts as gone")
    deadline: float = pydantic.Field(default=600.0, gt=0, le=86400, description="seconds that one answer may take, further tries included")
    retries: int = pydantic.Field(default=4, ge=0, le=20, strict=True, description="further tries where one did not succeed")
    backoff: float = pydantic.Field(
        default=1.0, gt=0, le=60, description="seconds before the first of them, on average; each waits twice as long"
    )
    start: str = pydantic.Field(
        default="", description="text of the token that texts without context follow; unset: the server's word for it (`steelyard serve`)"
    )
    date: str | None = pydantic.Field(
        default=None, pattern=r"^\d{4}-\d{2}-\d{2}$", description="the day the answers are taken to be of; unset: when the run began to ask"
    )

    @pydantic.field_validator("url")
    @classmethod
    def _is_web_address(cls, url: str) -> str:
        try:
            parts = urllib.parse.urlsplit(url)
            host, login = parts.hostname, parts.username or parts.password
        except ValueError:
            host = login = None
            parts = None
        if parts is None or parts.scheme not in ("http", "https") or not host or re.search(r"\s", url):
            raise ValueError("expected an address such as https://host/v1")
        if login:
            raise pydantic_core.PydanticCustomError(
                "secret", "the address holds a password; name an environment variable under `key` instead"
            )
        return url.rstrip("/")

    @pydantic.field_validator("key", mode="before")
    @classmethod
    def _is_a_variable_name(cls, key: Any) -> Any:
        # the value is never shown: whoever pastes a key here must not find it in a log
        if key is not None and not (isinstance(key, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key)):
            raise pydantic_core.PydanticCustomError("secret", "expected the name of an environment variable, not a key itself")
        return key

    def written(self) -> dict[str, Any]:
        """The recipe keys that say so; the key is named, never held."""
        return {"endpoint": self.model_dump(exclude_defaults=True)}


class NewSource(_Part):
    """A model that does not exist yet. `plan` is what the model floor reads `new:` by, found through its kind's entry point."""

    capabilities: ClassVar[frozenset[str]] = LOCAL
    name: ClassVar[str] = "new"

    plan: Any

    def written(self) -> dict[str, Any]:
        """The recipe keys that say so."""
        return {"new": self.plan.written()}

    def shaped(self, levers: Iterable[Lever]) -> Any:
        """The plan after the `build` hooks of all levers."""
        plan = self.plan
        for each in levers:
            if "build" in each.hooks():
                plan = each.build(plan)  # type: ignore[attr-defined]
        return plan


DECODER = "decoder"
"""The kind of new model that is meant where a recipe names none."""


def plan_class(kind: object = DECODER) -> type[pydantic.BaseModel]:
    """The class that `new:` is read by.

    Raises:
        RecipeError: no kind of model is called so.
    """
    points = _plan_points()
    if not isinstance(kind, str) or kind not in points:
        raise RecipeError(f"no kind of new model is called `{kind!s:.60}`", do=f"Known: {', '.join(sorted(points))}.")
    return plugins.load(points[kind], pydantic.BaseModel, "plan")


@functools.cache
def _plan_points() -> dict[str, plugins.Point]:
    return plugins.points(PLANS)


Source = ModelSource | EndpointSource | NewSource


class Arm(_Part):
    """One variant: where it starts, and every lever pulled on it in order (the base's own steps included)."""

    name: str
    source: Source
    levers: tuple[Lever, ...] = ()
    seeds: tuple[int, ...] = ()


class Where(_Part):
    """Where a weighing's arms answer: in its own process, or in processes that Ray starts here and on further machines; and on what."""

    device: str | None = pydantic.Field(
        default=None, min_length=1, description="where models are trained and answer: `cpu`, `cuda`, `cuda:1`; unset: `cpu`"
    )
    ray: str | None = pydantic.Field(
        default=None, min_length=1, description="`auto`: the Ray cluster this machine belongs to, or one of its own; or a cluster's address"
    )
    workers: pydantic.PositiveInt | None = pydantic.Field(
        default=None, description="processes that answer; unset: one for each two processors"
    )
    threads: pydantic.PositiveInt | None = pydantic.Field(
        default=None, description="processors of each; unset: the cluster's, shared out evenly"
    )

    @pydantic.model_validator(mode="after")
    def _is_on_ray(self) -> Where:
        if self.ray is None and (self.workers or self.threads):
            raise pydantic_core.PydanticCustomError("ray", "`workers` and `threads` are Ray's: add `ray: auto`")
        if self.ray is not None and self.device is not None:
            raise pydantic_core.PydanticCustomError("ray", "Ray's processes answer on their processors: leave `device` or `ray` out")
        return self

    @property
    def place(self) -> str:
        """The device, by PyTorch's name."""
        return self.device or "cpu"

    def written(self) -> dict[str, Any]:
        """The recipe keys that say so; empty for its own process."""
        return self.model_dump(exclude_none=True)


TASK_FILE = "task_file"
"""The task that a YAML file describes; a recipe names the file, and the task is called what the file is."""


class TaskSpec(_Part):
    """A task by name with all its settings filled in; `kind` is its class's name where that is another one."""

    name: str
    settings: dict[str, Any] = {}
    kind: str = ""

    def build(self) -> Any:
        """The task itself (a `steelyard.weigh.tasks.task.Task`)."""
        return task_class(self.kind or self.name).model_validate(self.settings)

    def written(self) -> dict[str, Any]:
        """The recipe entry that says so."""
        if self.kind != TASK_FILE:
            return {self.name: self.settings}
        return {self.settings["path"]: {key: value for key, value in self.settings.items() if key != "path"}}


@functools.cache
def _task_points() -> dict[str, plugins.Point]:
    return plugins.points(TASKS)


def task_names() -> list[str]:
    """The names of all declared tasks."""
    return sorted(_task_points())


def task_class(name: str) -> type[pydantic.BaseModel]:
    """The class a task's name stands for.

    Raises:
        RecipeError: nothing is called so; the nearest name is given.
        SteelyardError: it is there but its package is broken.
    """
    if name not in _task_points():
        raise RecipeError(f"no task is called `{name}`", do=nearest(name, _task_points()))
    return plugins.load(_task_points()[name], pydantic.BaseModel, "task", required=("metrics",))


def written_lever(lever: Lever) -> dict[str, Any]:
    """A lever as a recipe entry, every setting said."""
    return {lever.name: lever.settings}


def part_problems(kind: type[pydantic.BaseModel], value: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str, str]]:
    """What keeps a mapping from being a part: path, what was wrong, what to do. Empty when it is one."""
    try:
        kind.model_validate(value)
    except pydantic.ValidationError as error:
        return explain(error, kind.model_fields)
    return []
