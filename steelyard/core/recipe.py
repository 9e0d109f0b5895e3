"""Recipes: a base, named arms, tasks and axes in one YAML file, checked whole before anything runs.

    base: smollm2-135m-instruct            # or `endpoint: {url, model, key}` or `new: {...}`; `steps: [...]` may follow
    arms:
      int8:    [{quantize: {bits: 8}}]
      library: [{retrieve: {documents: ./handbook}}]
      both:    [int8, library]
    tasks: [facts, {chat: {path: mine.jsonl}}]
    axes: all
    seed: 7

Precedence: defaults < recipe < command line. Paths are relative to the recipe's file. `Recipe.resolved()` says every setting, and
read again gives an equal recipe, wherever it lies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pydantic

from steelyard.core import levers as registry
from steelyard.core import recipe_overrides, recipe_yaml
from steelyard.core.axes import AXES, Axis
from steelyard.core.errors import DataError, RecipeError, SteelyardError, nearest
from steelyard.core.levers import Lever, short
from steelyard.core.recipe_arms import BASE, LARGEST_SEED, Problems, after, chain, expand, lever, shaping, source, training_seeds
from steelyard.core.recipe_judged import ChoicesSpec, JudgeSpec
from steelyard.core.recipe_parts import (
    TASK_FILE,
    Arm,
    EndpointSource,
    ModelSource,
    NewSource,
    Source,
    TaskSpec,
    Where,
    task_class,
    task_names,
    written_lever,
)
from steelyard.core.recipe_paths import rooted, rooted_path
from steelyard.core.recipe_yaml import Document

__all__ = ["Arm", "EndpointSource", "ModelSource", "NewSource", "Recipe", "Source", "TaskSpec", "from_command_line", "from_mapping", "read"]


class Recipe(pydantic.BaseModel):
    """A recipe that can be run as it stands.

    Attributes:
        name: what its run directory is called; the file's stem unless the recipe says otherwise.
        base: where the first arm starts.
        steps: levers pulled on the base, in order. `make` saves what comes out; in a weighing every arm without a source of its
            own starts from it.
        arms: every arm by name, the base first under the name "base".
        tasks: what the arms are asked, in order.
        axes: what is reported.
        seed: the root of every random number.
        primary: arm -> (task, axis) of its one primary hypothesis, where the recipe chooses it.
        samples: most samples of each task, or None for all of them.
        trials: runs of each sample under other seeds, or None for the task's own number.
        seeds: training seeds of the base and of every trained arm that says none of its own; () for the recipe's seed alone.
        perturbed: questions of a task asked in other words for the axis `robustness`, or None for the usual number.
        seconds: that asking may take, or None for as long as it takes.
        run: where arms answer.
        judge: who judges the arms' answers beside the base's, or None.
        choices: what people chose between the arms' answers, or None.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    base: Source
    steps: tuple[Lever, ...] = ()
    arms: dict[str, Arm]
    tasks: tuple[TaskSpec, ...] = ()
    axes: tuple[Axis, ...] = AXES
    seed: int = 0
    primary: dict[str, tuple[str, Axis]] = {}
    samples: int | None = None
    trials: int | None = None
    seeds: tuple[int, ...] = ()
    perturbed: int | None = None
    seconds: float | None = None
    run: Where = Where()
    judge: JudgeSpec | None = None
    choices: ChoicesSpec | None = None

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain data with every default said and every path absolute."""
        out: dict[str, Any] = {"name": self.name, **self.base.written()}
        if self.steps:
            out["steps"] = [written_lever(each) for each in self.steps]
        out["arms"] = {name: self._written_arm(arm) for name, arm in self.arms.items() if name != BASE}
        out["tasks"] = [task.written() for task in self.tasks]
        out["axes"] = "all" if self.axes == AXES else list(self.axes)
        out["seed"] = self.seed
        out["primary"] = {arm: list(choice) for arm, choice in self.primary.items()}
        out |= {key: value for key in ("samples", "trials", "perturbed", "seconds") if (value := getattr(self, key)) is not None}
        out |= {"run": written} if (written := self.run.written()) else {}
        out |= {key: value.written() for key in ("judge", "choices") if (value := getattr(self, key)) is not None}
        return out | ({"seeds": list(self.seeds)} if self.seeds else {})

    def text(self) -> str:
        """`resolved()` as YAML: what `recipe.resolved.yaml` holds."""
        return recipe_yaml.write(self.resolved())

    def _written_arm(self, arm: Arm) -> Any:
        base_shape, base_rest = shaping(self.steps)
        shape, rest = shaping(arm.levers)
        added = shape[len(base_shape) :] + rest[len(base_rest) :]
        from_base = arm.source == self.base and after(self.steps, added) == arm.levers
        own = [written_lever(each) for each in (added if from_base else arm.levers)]
        seeds = {"seeds": list(arm.seeds)} if arm.seeds and arm.seeds != self.seeds else {}
        if from_base and not seeds:
            return own
        return {**({} if from_base else arm.source.written()), "steps": own, **seeds}


class _Written(pydantic.BaseModel):
    """The keys a recipe may have, before names are looked up."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str | None = None
    base: Any = None
    endpoint: Any = None
    new: Any = None
    steps: list[Any] | None = None
    arms: dict[str, Any] | None = None
    tasks: list[Any] | None = None
    axes: Any = None
    seed: pydantic.StrictInt = pydantic.Field(0, ge=0, le=LARGEST_SEED)
    primary: dict[str, Any] | None = None
    samples: pydantic.StrictInt | None = pydantic.Field(None, ge=1)
    trials: pydantic.StrictInt | None = pydantic.Field(None, ge=1)
    seeds: list[Any] | None = None
    perturbed: pydantic.StrictInt | None = pydantic.Field(None, ge=1)
    seconds: pydantic.StrictInt | pydantic.StrictFloat | None = pydantic.Field(None, gt=0, allow_inf_nan=False)
    run: Where = Where()
    judge: JudgeSpec | None = None
    choices: ChoicesSpec | None = None


KEYS = tuple(_Written.model_fields)
ROW_KEYS = (
    ("chat", ("messages",)),
    ("chat", ("prompt",)),
    ("choices", ("question", "choices", "answer")),
    ("bits_per_byte", ("text",)),
)  # task -> the keys that give its rows away
LONGEST_ROW = 1 << 24  # bytes
TASK_FILES = (".yaml", ".yml")
SHOWN_ROWS = 3  # rows of no known kind that an error quotes


def read(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads and checks a recipe file.

    Args:
        path: the YAML file; relative paths inside it are relative to its folder.
        overrides: `key.path=value` from the command line, applied in order before checking.

    Raises:
        RecipeError: with file, line and column of everything that is wrong.
    """
    path = Path(path)
    return _checked(recipe_yaml.read(path), path.stem, rooted_path(path, Path.cwd()).parent, overrides)


def from_mapping(value: Mapping[str, Any], overrides: Iterable[str] = (), *, name: str = "recipe", directory: Path | None = None) -> Recipe:
    """A recipe from plain data, as `resolved()` gives it; relative paths are relative to `directory` (default: where we are)."""
    try:
        plain = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"not plain data: {error}", where=name) from None
    return _checked(Document(plain, name), name, directory or Path.cwd(), overrides)


def from_command_line(base: str, data: str | Path | None, tries: Sequence[str], overrides: Iterable[str] = ()) -> Recipe:
    """The recipe behind `weigh --base M --data F --try ...`: one arm per lever, the task by what the rows look like.

    Args:
        base: as in a recipe's `base`.
        data: a JSONL file for the task `chat`, `choices` or `bits_per_byte`; its rows decide.
        tries: each `LEVER`, `LEVER:value` or a preset, several with commas between.
        overrides: as for `read`.
    """
    if data is None:
        raise RecipeError("`--base` needs `--data`", where="command line", do="Give a JSONL file: --data mine.jsonl.")
    path = Path(data)
    arms: dict[str, Any] = {}
    for text in tries:
        for item in registry.split_try(text):
            pulled = registry.parse_try_item(item)
            arms[_arm_name(item, pulled, arms)] = [written_lever(pulled)]
    if not arms:
        raise RecipeError("nothing to try", where="--try", do="Name a lever: --try int8.")
    value = {"base": base, "arms": arms, "tasks": [{task_for(path): {"path": str(path)}}]}
    return _checked(Document(value, "command line"), path.stem or "weigh", Path.cwd(), overrides)


def task_for(path: Path) -> str:
    """The task that a JSONL file's rows are for: `chat`, `choices` or `bits_per_byte`.

    Raises:
        DataError: no row has one of the three forms, or rows have several.
    """
    kinds: dict[str, int] = {}  # task -> line of its first row
    seen: list[str] = []
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_ROW), b""), 1):
                if len(line) == LONGEST_ROW:
                    raise DataError(f"a row is longer than {LONGEST_ROW:,} bytes", where=f"{path}:{number}", do="Is this JSONL?")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    task, what = _row_kind(text)
                    if task:
                        kinds.setdefault(task, number)
                    elif len(seen) < SHOWN_ROWS:
                        seen.append(f"line {number} {what}")
    except UnicodeDecodeError:
        raise DataError(f"line {number} is not UTF-8 text", where=str(path), do="Save the file as UTF-8 JSONL.") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"the data cannot be read: {reason[:1].lower()}{reason[1:]}",
            where=str(path),
            do="Name a JSONL file, relative to where you run.",
        ) from None
    if len(kinds) > 1:
        told = ", ".join(f"for `{task}` from line {line}" for task, line in kinds.items())
        raise DataError(f"the rows are of several kinds: {told}", where=str(path), do="Put each kind into a file of its own.")
    if kinds:
        return next(iter(kinds))
    forms = (
        'Rows look like {"messages": [...], "expected": "..."}, {"prompt": ..., "expected": ...}, '
        '{"question": ..., "choices": [...], "answer": 0} or {"text": ...}.'
    )
    if not seen:
        raise DataError("the file is empty", where=str(path), do=forms)
    raise DataError("; ".join(["no row says what it is for", *seen]), where=str(path), do=forms)


def _row_kind(line: str) -> tuple[str, str]:
    """The task of one row, or "" and what the row is instead."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "", "is not JSON"
    if not isinstance(row, dict):
        return "", "is not an object"
    for task, needed in ROW_KEYS:
        if all(key in row for key in needed):
            return task, ""
    return "", f"has only {', '.join(sorted(map(short, row))[:6]) or 'nothing'}"


def _arm_name(item: str, pulled: Lever, taken: Iterable[str]) -> str:
    """A name for the arm of one `--try`: the preset, or the lever and its value; never a lever's bare name."""
    name, colon, value = (part.strip() for part in item.partition(":"))
    slug = re.sub(r"[^\w.]+", "-", value.lower()).strip("-.")[:24].rstrip("-.")
    plain = name if not colon and name in registry.presets() else f"{pulled.name}-{slug or 'default'}"
    count, unique = 1, plain
    while unique in taken or (unique in registry.names()):
        count += 1
        unique = f"{plain}-{count}"
    return unique


def _checked(document: Document, name: str, directory: Path, overrides: Iterable[str]) -> Recipe:
    if not isinstance(document.value, dict):
        raise RecipeError(f"a recipe is a mapping, not {short(document.value)}", where=document.where(), do="Begin with `base: NAME`.")
    for override in overrides:
        recipe_overrides.apply(document, override, KEYS)
    problems = Problems(document)
    try:
        written = _Written.model_validate(document.value)
    except pydantic.ValidationError as error:
        problems.validation((), error, _Written.model_fields)
        wrong = {problem["loc"][0] for problem in error.errors()}  # what is left is still looked through
        written = _Written.model_validate({key: value for key, value in document.value.items() if key not in wrong})
        document.value = {key: value for key, value in document.value.items() if key not in wrong}
    base = source(document.value, (), directory, problems)
    if base is None and not problems.found:
        problems.add((), "nothing says what the base is", "Add `base: NAME`, `endpoint: {...}` or `new: {...}`.")
    base = base or ModelSource(name=BASE)  # stands in while the rest is looked through; a problem is already noted
    steps = _steps(written.steps or [], base, directory, problems)
    seeds = training_seeds(written.seeds, ("seeds",), problems)
    arms = expand(document, base, steps, seeds, directory, problems)
    tasks = _tasks(written.tasks or [], directory, problems)
    axes = _axes(written.axes, problems)
    primary = _primary(written, tasks, axes, problems)
    _judged(written, tasks, arms, problems)
    problems.raise_if_any()
    return Recipe(
        name=_name(written.name or name),
        base=base,
        steps=steps,
        arms=arms,
        tasks=tasks,
        axes=axes,
        seed=written.seed,
        primary=primary,
        samples=written.samples,
        trials=written.trials,
        seeds=seeds,
        perturbed=written.perturbed,
        seconds=written.seconds,
        run=written.run,
        judge=written.judge and rooted(written.judge, directory),
        choices=written.choices and rooted(written.choices, directory),
    )


def _judged(written: _Written, tasks: Iterable[TaskSpec], arms: Iterable[str], problems: Problems) -> None:
    """Notes tasks and arms that judge and choices name and the recipe lacks."""
    known = [task.name for task in tasks]
    for name in written.judge.tasks if written.judge else ():
        if name not in known:
            problems.add(("judge", "tasks"), f"no task of this recipe is called `{name}`", nearest(name, known))
    for name in written.choices.arms if written.choices else ():
        if name not in arms:
            problems.add(("choices", "arms"), f"no arm of this recipe is called `{name}`", nearest(name, arms))


def _name(name: str) -> str:
    """A name that is safe as a folder's."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:60].rstrip("-.") or "recipe"


def _steps(entries: list[Any], base: Source, directory: Path, problems: Problems) -> tuple[Lever, ...]:
    before = len(problems.found)
    read = tuple(filter(None, (lever(entry, ("steps", index), directory, problems) for index, entry in enumerate(entries))))
    if len(problems.found) == before:
        chain(read, base, ("steps",), problems)
    return read if len(problems.found) == before else ()


def _tasks(entries: list[Any], directory: Path, problems: Problems) -> tuple[TaskSpec, ...]:
    tasks: dict[str, TaskSpec] = {}
    for index, entry in enumerate(entries):
        path = ("tasks", index)
        if isinstance(entry, str):
            name, settings = entry, {}
        elif isinstance(entry, dict) and len(entry) == 1:
            ((name, settings),) = entry.items()
            settings = {} if settings is None else settings
        else:
            problems.add(path, f"expected a task's name or `{{name: {{settings}}}}`, not {short(entry)}")
            continue
        if name == TASK_FILE and isinstance(settings, dict) and str(settings.get("path", "")).endswith(TASK_FILES):
            name, settings = str(settings["path"]), {key: value for key, value in settings.items() if key != "path"}
        called = PurePath(name).stem if name.endswith(TASK_FILES) else name
        if called in tasks:
            problems.add(path, f"the task `{called}` is there twice", "Figures are told apart by the task's name: keep one.")
        elif not isinstance(settings, dict):
            problems.add(path, f"`{name}` takes named settings, not {short(settings)}")
        elif task := _task(name, settings, path, directory, problems):
            tasks[called] = task
    return tuple(tasks.values())


def _task(name: str, settings: dict[str, Any], path: tuple[str | int, ...], directory: Path, problems: Problems) -> TaskSpec | None:
    file = name.endswith(TASK_FILES)
    try:
        kind = task_class(TASK_FILE if file else name)
    except SteelyardError as error:
        problems.add(path, error.what, error.do)
        return None
    if file:
        settings = {"path": name, **settings}
    try:
        called = {"name": PurePath(name).stem, "kind": TASK_FILE} if file else {"name": name}
        return TaskSpec(**called, settings=rooted(kind.model_validate(settings), directory).model_dump(mode="json"))
    except pydantic.ValidationError as error:
        problems.validation((*path, name), error, kind.model_fields)
    except SteelyardError as error:
        problems.add((*path, name), error.what, error.do)
    return None


def _axes(value: Any, problems: Problems) -> tuple[Axis, ...]:
    if value is None or value == "all":
        return AXES
    if not isinstance(value, list) or not value:
        problems.add(("axes",), f"`axes` is `all` or a list of axes, not {short(value)}", f"Known: {', '.join(AXES)}.")
        return AXES
    for index, axis in enumerate(value):
        if axis not in AXES:
            problems.add(("axes", index), f"no axis is called {short(axis)}", nearest(str(axis), AXES))
    return tuple(axis for axis in AXES if axis in value)


def _primary(written: _Written, tasks: Sequence[TaskSpec], axes: Sequence[str], problems: Problems) -> dict[str, tuple[str, Axis]]:
    out: dict[str, tuple[str, Axis]] = {}
    asked = [task.name for task in tasks]
    for arm, choice in (written.primary or {}).items():
        path = ("primary", arm)
        if arm not in (written.arms or {}):
            problems.add(path, f"no arm is called `{arm}`", nearest(arm, written.arms or {}))
        if not (isinstance(choice, list) and len(choice) == 2 and all(isinstance(part, str) for part in choice)):
            problems.add(path, f"expected [task, axis], not {short(choice)}", "For example: primary: {int8: [facts, truthfulness]}.")
            continue
        task, axis = choice
        if task not in asked:
            known = "" if task in task_names() else f" {nearest(task, asked)}"
            problems.add(path, f"the task `{task}` is not among this recipe's tasks", f"Add it under `tasks`.{known}")
        if axis not in axes:
            problems.add(path, f"`{axis}` is not among the axes that are weighed", nearest(axis, axes))
        else:
            out[arm] = (task, axis)
    return out
