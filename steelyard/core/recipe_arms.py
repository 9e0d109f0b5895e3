"""From the arms as written to the levers they pull: names expanded, cycles found, stages, needs and conflicts checked.

An arm is a list of levers, of presets and of other arms' names, or a mapping that may also say where the arm starts
(`base`, `endpoint` or `new`), its `steps` and its `seeds`. Every problem of every arm is collected, so that one reading
tells all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from steelyard.core import levers as registry
from steelyard.core.errors import RecipeError, SteelyardError, nearest
from steelyard.core.levers import Lever, explain, short
from steelyard.core.recipe_parts import DECODER, Arm, EndpointSource, ModelSource, NewSource, Source, part_problems, plan_class
from steelyard.core.recipe_paths import rooted, rooted_name
from steelyard.core.recipe_yaml import Document, KeyPath

ARM_KEYS = ("base", "endpoint", "new", "steps", "levers", "seeds")
SOURCE_KEYS = ("base", "endpoint", "new")
BASE = "base"
MOST_LEVERS = 64
MOST_NESTING = 32
LARGEST_SEED = 2**63 - 1


@dataclass
class Problems:
    """Everything wrong with a recipe so far, each with its key path."""

    document: Document
    found: list[tuple[KeyPath, str, str | None]] = field(default_factory=list)

    def add(self, path: KeyPath, what: str, do: str | None = None) -> None:
        self.found.append((path, what, do or None))

    def validation(self, path: KeyPath, error: pydantic.ValidationError, known: Mapping[str, Any], do: str | None = None) -> None:
        """Each wrong key of a pydantic error at its own line."""
        for inner, what, fix in explain(error, known):
            self.add((*path, *inner), what, " ".join(filter(None, [fix, do])))

    def raise_if_any(self) -> None:
        """One problem is raised as it is; several as one error that lists them all in the order of the file."""
        unique = sorted(dict.fromkeys(self.found), key=lambda problem: self.document.order(problem[0]))
        if not unique:
            return
        where = self.document.where
        if len(unique) == 1:
            path, what, do = unique[0]
            raise RecipeError(what, where=where(path), do=do)
        lines = [f"{where(path)}: {what}." + (f" {do}" if do else "") for path, what, do in unique]
        raise RecipeError("\n  ".join([f"{len(unique)} things are wrong", *lines]), where=self.document.source)


@dataclass(frozen=True)
class Written:
    """An arm as the recipe has it: entries are levers or other arms' names."""

    source: Source | None
    entries: tuple[tuple[KeyPath, Lever | str], ...]
    seeds: tuple[int, ...]


def source(value: Mapping[str, Any], path: KeyPath, directory: Path, problems: Problems) -> Source | None:
    """The source a mapping names through `base`, `endpoint` or `new`; None where it names none or a wrong one."""
    given = [key for key in SOURCE_KEYS if key in value]
    if len(given) > 1:
        problems.add((*path, given[1]), f"`{given[0]}` and `{given[1]}` both say where this starts", "Keep one of them.")
        return None
    if not given:
        return None
    key, content = given[0], value[given[0]]
    if key == "base":
        if isinstance(content, str) and content:
            return ModelSource(name=rooted_name(content, directory))
        problems.add(
            (*path, key), f"`base` is a model's name, not {short(content)}", "A server is written `endpoint: {url: ..., model: ...}`."
        )
        return None
    if not isinstance(content, Mapping):
        problems.add((*path, key), f"`{key}` is a mapping, not {short(content)}")
        return None
    if key == "new":
        return _new(content, (*path, key), directory, problems)
    wrong = part_problems(EndpointSource, content)
    for inner, what, do in wrong:
        problems.add((*path, key, *inner), what, do)
    return None if wrong else EndpointSource.model_validate(content)


def _new(content: Mapping[str, Any], path: KeyPath, directory: Path, problems: Problems) -> NewSource | None:
    try:
        kind = plan_class(content.get("kind", DECODER))
    except RecipeError as error:
        problems.add((*path, "kind"), error.what, error.do)
        return None
    if content.get("kind") == DECODER:  # its class has no such key: it is what is meant without
        content = {key: value for key, value in content.items() if key != "kind"}
    try:
        return NewSource(plan=rooted(kind.model_validate(content), directory))
    except pydantic.ValidationError as error:
        problems.validation(path, error, kind.model_fields)
    except SteelyardError as error:
        problems.add(path, error.what, error.do)
    return None


def lever(entry: Any, path: KeyPath, directory: Path, problems: Problems) -> Lever | None:
    """A lever from one entry of a list, its relative paths rooted at the recipe's folder."""
    try:
        kind, settings = registry.split(entry, "")
    except SteelyardError as error:
        problems.add(path, error.what, error.do)
        return None
    inside = (*path, next(iter(entry))) if isinstance(entry, Mapping) else path
    try:
        return rooted(kind.model_validate(settings), directory)
    except pydantic.ValidationError as error:
        problems.validation(inside, error, kind.model_fields, f"See `steelyard levers {kind.name}`.")
    except SteelyardError as error:
        problems.add(inside, error.what, error.do)
    return None


def chain(pulled: tuple[Lever, ...], start: Source, path: KeyPath, problems: Problems) -> None:
    """Notes what is wrong with pulling these levers in this order from this start."""
    for each in pulled:
        stages = each.stages()
        if isinstance(start, EndpointSource) and stages != ("wrap",):
            what = (
                f"`{each.name}` acts at stage `{stages[0]}`, but an endpoint has no weights or engine here"
                if stages
                else f"`{each.name}` acts nowhere"
            )
            return problems.add(path, what, "Only levers that wrap an answerer (prompts, retrieval, ...) reach an endpoint.")
        if stages == ("new",) and not isinstance(start, NewSource):
            return problems.add(path, f"`{each.name}` shapes a model before it has weights", "Start this from `new: {...}`.")
    try:
        registry.check_chain(pulled, start.capabilities, "")
        if isinstance(start, NewSource):
            plan = start.shaped(pulled)
            plan.check()
            for each in pulled:
                each.fits(plan)
    except SteelyardError as error:
        problems.add(path, error.what, error.do)


def expand(
    document: Document, base: Source, steps: tuple[Lever, ...], seeds: tuple[int, ...], directory: Path, problems: Problems
) -> dict[str, Arm]:
    """The arms in order, the base first. Arms with problems are left out; the problems are noted. `seeds` are those of arms that are
    trained and name none."""

    def trained(levers: tuple[Lever, ...]) -> tuple[int, ...]:
        return seeds if any("train" in each.hooks() for each in levers) else ()

    arms = {BASE: Arm(name=BASE, source=base, levers=steps, seeds=trained(steps))}
    raw = document.value.get("arms") or {}
    presets = registry.presets()
    written = {name: _read(name, value, raw, presets, directory, problems) for name, value in raw.items()}
    whole = _Expansion(written, problems)
    for name in raw:
        path = ("arms", name)
        found = whole.of(name)
        if found is None:
            continue
        start = found.source or base
        pulled = found.levers if found.source else after(steps, found.levers)
        chain(pulled, start, path, problems)
        if name in presets and not _is_preset(found, *presets[name]):
            what = f"`{name}` is also a preset of `{presets[name][0].name}`, and this arm is something else"
            problems.add(path, what, "Give the arm a name of its own.")
        arms[name] = Arm(name=name, source=start, levers=pulled, seeds=found.seeds or trained(pulled))
    return arms


def after(steps: tuple[Lever, ...], own: tuple[Lever, ...]) -> tuple[Lever, ...]:
    """The base's steps with an arm's own levers after them; those that shape a model before it has weights come before all others."""
    (shape, rest), (own_shape, own_rest) = shaping(steps), shaping(own)
    return shape + own_shape + rest + own_rest


def shaping(levers: tuple[Lever, ...]) -> tuple[tuple[Lever, ...], tuple[Lever, ...]]:
    """The levers that shape a model before it has weights, and the others."""
    shape = tuple(each for each in levers if each.stages() == ("new",))
    return shape, tuple(each for each in levers if each.stages() != ("new",))


def _is_preset(arm: _Whole, kind: type[Lever], settings: Mapping[str, Any]) -> bool:
    """Whether an arm called like a preset is exactly that preset, so that the name means one thing."""
    preset = registry.make(kind, settings, f"preset of {kind.name}")
    return arm.source is None and [(each.name, each.settings) for each in arm.levers] == [(preset.name, preset.settings)]


def _read(name: str, value: Any, raw: Mapping[str, Any], presets: Mapping[str, Any], directory: Path, problems: Problems) -> Written | None:
    path = ("arms", name)
    before = len(problems.found)
    _check_name(name, path, problems)
    start, seeds, entries, inner = None, (), value, path
    if isinstance(value, Mapping):
        for key in value:
            if key not in ARM_KEYS:
                if key in registry.names() or key in presets or key in raw:
                    problems.add((*path, key), "an arm is a list", f"Write `{name}: [{{{key}: ...}}]`, or `steps: [...]` beside `base`.")
                else:
                    problems.add((*path, key), f"unknown key `{key}`", nearest(key, ARM_KEYS))
        if "steps" in value and "levers" in value:
            problems.add((*path, "levers"), "`levers` and `steps` mean the same", "Keep one of them.")
        start = source(value, path, directory, problems)
        seeds = training_seeds(value.get("seeds"), (*path, "seeds"), problems)
        key = "levers" if "levers" in value else "steps"
        entries, inner = value.get(key), (*path, key)
        entries = [] if entries is None else entries
    if not isinstance(entries, list):
        problems.add(inner, f"expected a list of levers, not {short(entries)}", "Write [] around it." if entries is not None else None)
        return None
    read = []
    for index, entry in enumerate(entries):
        at = (*inner, index)
        if isinstance(entry, str) and entry in raw and not (entry == name and name in presets):
            read.append((at, entry))
        elif isinstance(entry, str) and entry == BASE:
            problems.add(at, "every arm starts from the base already", "Remove it from the list.")
        elif isinstance(entry, Mapping) and len(entry) == 1 and (other := next(iter(entry))) in raw and other not in presets:
            problems.add(at, f"`{other}` is an arm, and arms take no settings", f"Write just `{other}`.")
        elif isinstance(entry, str) and entry not in presets and entry not in registry.names():
            problems.add(at, f"no lever or arm is called `{entry}`", nearest(entry, [*raw, *presets, *registry.names()]))
        elif pulled := lever(entry, at, directory, problems):
            read.append((at, pulled))
    return Written(start, tuple(read), seeds) if len(problems.found) == before else None


def _check_name(name: str, path: KeyPath, problems: Problems) -> None:
    if name == BASE:
        problems.add(path, "`base` is the name of the first arm", "Give this arm another name.")
    elif name in registry.names():
        problems.add(path, f"`{name}` is the name of a lever", "Give the arm a name of its own, so that lists that name it are clear.")
    elif not name.isprintable() or name.strip() != name or len(name) > 60 or name.startswith(".") or any(sign in name for sign in "/\\"):
        problems.add(path, f"{short(name)} is no name for an arm", "Use up to 60 letters, digits, spaces and signs, but no / or \\.")


def training_seeds(value: Any, path: KeyPath, problems: Problems) -> tuple[int, ...]:
    """A list of seeds, () where none is given or something else is (then a problem is noted)."""
    if value is None:
        return ()
    whole = isinstance(value, list) and all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in value)
    if not whole or not value or len(set(value)) != len(value):
        problems.add(path, f"`seeds` is a list of different whole numbers from 0, not {short(value)}", "For example: seeds: [1, 2, 3].")
        return ()
    return tuple(value)


@dataclass(frozen=True)
class _Whole:
    source: Source | None
    levers: tuple[Lever, ...]
    seeds: tuple[int, ...]


class _Expansion:
    """Arms with the arms they name put in their place. Each is worked out once; a cycle is told once, with its way round."""

    def __init__(self, written: Mapping[str, Written | None], problems: Problems):
        self.written, self.problems = written, problems
        self.done: dict[str, _Whole | None] = {name: None for name, arm in written.items() if arm is None}

    def of(self, name: str, way: tuple[str, ...] = ()) -> _Whole | None:
        """The arm `name` in full, or None where it or an arm it names has a problem (noted where it lies)."""
        if name in way:
            round_trip = [*way[way.index(name) :], name]
            self.problems.add(("arms", name), f"arms name one another in a circle: {' -> '.join(round_trip)}", "Break it at one place.")
            self.done |= dict.fromkeys(round_trip)
            return None
        if name not in self.done:
            if len(way) >= MOST_NESTING:
                self.problems.add(("arms", name), f"arms name arms more than {MOST_NESTING} deep", "Write the levers out.")
                self.done[name] = None
                return None
            result = self._work_out(name, (*way, name))
            self.done.setdefault(name, result)
        return self.done[name]

    def _work_out(self, name: str, way: tuple[str, ...]) -> _Whole | None:
        arm = self.written[name]
        assert arm is not None  # those without are in `done` from the start
        start, seeds, pulled = arm.source, arm.seeds, ()
        for index, (path, entry) in enumerate(arm.entries):
            if isinstance(entry, Lever):
                pulled += (entry,)
                continue
            inner = self.of(entry, way)
            if inner is None:
                return None
            if inner.source is not None:
                if index or start is not None:
                    do = f"Put `{entry}` first, with no `base`, `endpoint` or `new` beside it."
                    self.problems.add(path, f"the arm `{entry}` starts from a model of its own", do)
                    return None
                start = inner.source
            if inner.seeds and not arm.seeds:
                if seeds and seeds != inner.seeds:
                    self.problems.add(path, f"the arm `{entry}` has other seeds than an arm named before it", "Say `seeds: [...]` here.")
                    return None
                seeds = inner.seeds
            pulled += inner.levers
            if len(pulled) > MOST_LEVERS:
                self.problems.add(path, f"more than {MOST_LEVERS} levers in one arm")
                return None
        return _Whole(start, pulled, seeds)
