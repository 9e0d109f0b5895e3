"""Levers: named techniques with typed settings, found through entry points, pulled through hooks.

A lever is a frozen pydantic model whose fields are its settings and whose methods are its hooks:

| hook | signature | stage |
| --- | --- | --- |
| `build` | `(plan: DecoderPlan) -> DecoderPlan` | new |
| `data` | `(stream) -> stream` | weights |
| `train` | `(model, stream, run) -> model` | weights |
| `compress` | `(model, calibration, run) -> model` | weights |
| `decode` | `(spec: EngineSpec) -> EngineSpec` | decode |
| `wrap` | `(answerer) -> answerer` | wrap |

This package's own levers and everybody else's are found the same way: entry-point group `steelyard.levers`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import pydantic

from steelyard.core import plugins
from steelyard.core.errors import RecipeError, SteelyardError, nearest
from steelyard.core.fingerprint import digest, source_digest
from steelyard.core.numbers import Numbers
from steelyard.core.references import Reference

HOOKS = ("build", "data", "train", "compress", "decode", "wrap")
STAGE_OF_HOOK = {"build": "new", "data": "weights", "train": "weights", "compress": "weights", "decode": "decode", "wrap": "wrap"}
STAGES = ("new", "weights", "decode", "wrap")
ENTRY_POINTS = "steelyard.levers"
_FORM = re.compile(r"[a-z-]+\[.*\]|bool|(constrained-)?(int|float|str)", re.DOTALL)
"""How pydantic calls one of several types that a setting may have, among the keys that lead to it."""


class Lever(Numbers):
    """Base of all levers. Subclasses set the class variables, declare settings as fields and implement hooks.

    Class variables:
        name: what recipes call it.
        idea: two sentences.
        equation: the formula, in plain text.
        paper: where it is from (arXiv id or URL).
        cost: what it costs in time and memory.
        main: the setting that `LEVER:value` on the command line sets.
        presets: other names for this lever with settings filled in (`int8` -> `{"bits": 8}`).
        needs, provides, conflicts: capability names; `conflicts` may also name levers.
        identity: settings under which it changes nothing, or a sentence saying why there are none.
        maturity: `stable` means parity, acceptance with a negative control and identity pass in CI.
        evidence: how far the recorded claim reaches.
        per_request: whether a server's client may switch it on.
        greedy: whether it draws nothing at random, so that answers at a temperature above 0 are refused.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: ClassVar[str]
    idea: ClassVar[str]
    equation: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    main: ClassVar[str | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    needs: ClassVar[frozenset[str]] = frozenset()
    provides: ClassVar[frozenset[str]] = frozenset()
    conflicts: ClassVar[frozenset[str]] = frozenset()
    identity: ClassVar[Mapping[str, Any] | str]
    maturity: ClassVar[Literal["stable", "experimental"]] = "experimental"
    evidence: ClassVar[Literal["mechanism", "real model", "at scale", "not shown"]] = "not shown"
    per_request: ClassVar[bool] = False
    greedy: ClassVar[bool] = False

    @classmethod
    def hooks(cls) -> tuple[str, ...]:
        """The hooks this lever implements, in stage order."""
        return tuple(hook for hook in HOOKS if callable(getattr(cls, hook, None)))

    def fits(self, plan: Any) -> None:
        """Asked, when a recipe is read, about the plan of the new model that this lever will be pulled on.

        Raises:
            RecipeError: settings that do not fit it.
        """

    def ready(self) -> None:
        """Asked before the first of a recipe's levers is pulled, so that hours of work are not spent before what is missing is told.

        Raises:
            SteelyardError: what it will read is not there.
        """

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """The stages this lever acts in, in order."""
        return tuple(stage for stage in STAGES if any(STAGE_OF_HOOK[hook] == stage for hook in cls.hooks()))

    @classmethod
    def naming(cls) -> dict[str, type[Reference]]:
        """Settings that take the name of another thing, and what kind of reference each is; a JSON schema only says that it is a text."""
        kinds = {key: (field.annotation, *get_args(field.annotation)) for key, field in cls.model_fields.items()}
        return {key: kind for key, some in kinds.items() for kind in some if isinstance(kind, type) and issubclass(kind, Reference)}

    def references(self) -> dict[str, Reference]:
        """Settings that point at other things (a teacher, an index, a judge)."""
        return {key: value for key in type(self).model_fields if isinstance(value := getattr(self, key), Reference)}

    def bind(self, resolve: Callable[[Reference], Any]) -> Self:
        """A copy whose references hold what they name."""
        bound = {key: reference.bound_to(resolve(reference)) for key, reference in self.references().items()}
        return self.model_copy(update=bound) if bound else self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain data, references by name."""
        return {key: value.name if isinstance(value, Reference) else value for key, value in self._plain().items()}

    def _plain(self) -> dict[str, Any]:
        dumped = self.model_dump(mode="json", exclude=set(self.references()))
        return dumped | dict(self.references())

    @property
    def fingerprint(self) -> str:
        """Digest over name, settings, source file and the fingerprints of bound references."""
        bound = {key: reference.fingerprint for key, reference in self.references().items()}
        return digest([self.name, self.settings, source_digest(type(self)), bound])


@functools.cache
def _entry_points() -> dict[str, plugins.Point]:
    return plugins.points(ENTRY_POINTS)


def names() -> list[str]:
    """The names of all declared levers, without importing any of them (shell completion asks often)."""
    return sorted(_entry_points())


def find(name: str) -> tuple[type[Lever], dict[str, Any]]:
    """The lever class a name or preset stands for, and the settings the preset fills in.

    Raises:
        RecipeError: nothing is called so; the nearest name is given.
        SteelyardError: it is there but its package is broken.
    """
    points = _entry_points()
    if name in points:
        return _load(points[name]), {}
    known = presets()
    if name in known:
        lever, settings = known[name]
        return lever, dict(settings)
    # A technique may be part of a lever of another name: LoRA of `sft`.
    spoken = [lever for lever, kind in all_levers().items() if len(name) > 2 and re.search(rf"\b{re.escape(name)}\b", kind.idea, re.I)]
    hint = f"`{spoken[0]}` speaks of it: `steelyard levers {spoken[0]}`." if spoken else nearest(name, [*points, *known])
    raise RecipeError(f"no lever is called `{name}`", do=hint)


def presets() -> dict[str, tuple[type[Lever], Mapping[str, Any]]]:
    """Every preset: its name, the lever behind it, and the settings it fills in."""
    return _catalogue().presets


def _load(point: plugins.Point) -> type[Lever]:
    lever = plugins.load(point, Lever, "lever", required=("name", "idea", "identity"))
    if not lever.hooks():
        raise SteelyardError(f"the lever `{point.name}` implements no hook", where=point.value, do=f"Hooks: {', '.join(HOOKS)}.")
    return lever


def all_levers() -> dict[str, type[Lever]]:
    """Every lever that is installed and works, by name, in alphabetical order. `broken` tells of the others."""
    return _catalogue().levers


def broken() -> dict[str, str]:
    """What is declared but cannot be used (a lever, a second lever of the same name, a preset), with the reason."""
    return _catalogue().broken


@dataclass(frozen=True)
class _Catalogue:
    levers: dict[str, type[Lever]]
    presets: dict[str, tuple[type[Lever], Mapping[str, Any]]]
    broken: dict[str, str]


def _catalogue() -> _Catalogue:
    """This package's levers come first, so that a preset of another package can never take the place of one of ours."""
    catalogue = _Catalogue({}, {}, {})
    for name, point in sorted(_entry_points().items(), key=lambda item: (item[1].package != plugins.OURS, item[0])):
        if point.clash:
            catalogue.broken[f"{name} ({point.clash})"] = f"{point.package} declares a lever of the same name, which stands"
        try:
            lever = _load(point)
        except SteelyardError as error:
            catalogue.broken[name] = error.what
            continue
        catalogue.levers[name] = lever
        for preset, settings in lever.presets.items():
            if preset in _entry_points() or preset in catalogue.presets:
                catalogue.broken[f"{name}: preset {preset}"] = f"`{preset}` is already the name of something else"
            else:
                catalogue.presets[preset] = (lever, settings)
    return dataclasses.replace(catalogue, levers=dict(sorted(catalogue.levers.items())))


def parse(entry: str | Mapping[str, Any] | Lever, where: str = "lever") -> Lever:
    """A lever from a recipe entry: `int8`, `{quantize: {bits: 8}}`, `{prompt: Be concise}`, or one that is already there."""
    if isinstance(entry, Lever):
        return entry
    lever, settings = split(entry, where)
    return make(lever, settings, where)


def split(entry: str | Mapping[str, Any], where: str) -> tuple[type[Lever], dict[str, Any]]:
    """The class and the unchecked settings that a recipe entry stands for, presets and main value filled in."""
    if isinstance(entry, str):
        name, settings = entry, {}
    elif isinstance(entry, Mapping) and len(entry) == 1:
        ((name, settings),) = entry.items()
        settings = {} if settings is None else settings
    else:
        raise RecipeError(f"expected a lever's name or `{{name: {{settings}}}}`, not {short(entry)}", where=where)
    try:
        lever, preset = find(str(name))
    except SteelyardError as error:
        raise error.at(where) from None
    if not isinstance(settings, Mapping):
        if lever.main is None:
            raise RecipeError(
                f"`{name}` takes named settings, not {short(settings)}", where=where, do=f"See `steelyard levers {lever.name}`."
            )
        settings = {lever.main: settings}
    return lever, preset | dict(settings)


def parse_try(text: str) -> list[Lever]:
    """Levers from one `--try`: `int8,"prompt:Be concise"`. Commas separate, double quotes protect, `LEVER:value` sets the main value."""
    levers = [parse_try_item(item) for item in split_try(text)]
    if not levers:
        raise RecipeError("nothing to try", where="--try", do="Name a lever: --try int8")
    return levers


def parse_try_item(item: str) -> Lever:
    """The lever one item of a `--try` stands for. A value that will not do as text is read as JSON: `kv_cache:4`, `"dola:[1, 2]"`."""
    name, colon, value = (part.strip() for part in item.partition(":"))
    try:
        return parse({name: value} if colon else name, where=f"--try {item}")
    except RecipeError:
        try:
            return parse({name: json.loads(value)}, where=f"--try {item}")
        except (ValueError, RecursionError, RecipeError):
            pass
        raise


def split_try(text: str) -> list[str]:
    """The items between commas. Quotes may open anywhere (`prompt:"Short, please"`); a doubled quote inside stands for one."""
    items, quoted = [""], False
    for piece in re.split('("+|,)', text):
        if piece.startswith('"'):
            items[-1] += '"' * ((len(piece) - (not quoted)) // 2)
            quoted ^= bool(len(piece) % 2)
        elif piece == "," and not quoted:
            items.append("")
        else:
            items[-1] += piece
    if quoted:
        raise RecipeError("a quote is opened and never closed", where=f"--try {text}", do="Close it, or double it to mean the character.")
    return [item.strip() for item in items if item.strip()]


def make(lever: type[Lever], settings: Mapping[str, Any], where: str) -> Lever:
    """Validates settings; an unknown key is told the nearest known one."""
    try:
        return lever.model_validate(dict(settings))
    except pydantic.ValidationError as error:
        raise settings_error(error, lever.model_fields, f"{where}: {lever.name}", f"See `steelyard levers {lever.name}`.") from None


def settings_error(error: pydantic.ValidationError, known: Iterable[str], where: str, do: str) -> RecipeError:
    """A pydantic error in our own words: every wrong key, with what was wrong."""
    problems = explain(error, known)
    return RecipeError("; ".join(what for _, what, _ in problems), where=where, do=" ".join([*(fix for _, _, fix in problems if fix), do]))


def explain(error: pydantic.ValidationError, known: Iterable[str]) -> list[tuple[tuple[str | int, ...], str, str]]:
    """Each wrong key of a pydantic error: its path, what was wrong, and the nearest known key where it is unknown. What is wrong with one
    key in every form that it may have is said once: `layers`: input should be 'low' or 'high', or a valid list."""
    out: dict[Any, tuple[tuple[str | int, ...], str, str]] = {}
    forms: dict[tuple[str | int, ...], list[str]] = {}
    for number, problem in enumerate(error.errors()):
        path = tuple(part for place, part in enumerate(problem["loc"]) if not (place and isinstance(part, str) and _FORM.fullmatch(part)))
        key, said, given = ".".join(str(part) for part in path), _lowered(problem["msg"]), short(problem["input"])
        if problem["type"] == "extra_forbidden":
            out[number] = path, f"unknown key `{key}`", nearest(str(path[-1]), known)
        elif not path:  # a rule over several settings names them itself
            out[number] = path, said, ""
        elif problem["type"] in ("missing", "secret"):  # there is nothing to show, or it must not be shown
            out[number] = path, f"`{key}`: {said}", ""
        elif path == problem["loc"]:
            out[number] = path, f"`{key}`: {said} (given {given})", ""
        elif problem["type"] != "is_instance_of":  # nobody writes a Python object into a recipe
            wanted = forms.setdefault(path, [])
            wanted.append(said.removeprefix("input should be ") if wanted else said)
            out[path] = path, f"`{key}`: {', or '.join(wanted)} (given {given})", ""
    return list(out.values())


def _lowered(text: str) -> str:
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text.replace("a valid tuple", "a valid list").replace(
        "Input is not a valid path for <class 'pathlib.Path'>", "Input should be a path"
    )
    return text[:1].lower() + text[1:]


def short(value: object) -> str:
    """A value as an error shows it: at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_chain(levers: Iterable[Lever], available: Iterable[str], where: str) -> None:
    """Refuses a list of levers out of stage order, with unmet needs, or in conflict.

    Args:
        levers: one arm's levers, in the order given.
        available: capabilities of the base (`gradients`, `logprobs`, `weights`, ...).
        where: the arm's address for the error.
    """
    have, earlier, reached = set(available), [], 0
    for lever in levers:
        first = STAGES.index(lever.stages()[0]) if lever.stages() else 0
        if first < reached:
            raise RecipeError(
                f"`{lever.name}` acts at stage `{STAGES[first]}` but comes after a `{STAGES[reached]}` lever",
                where=where,
                do=f"The order is {' -> '.join(STAGES)}; move `{lever.name}` forward.",
            )
        reached = max(reached, STAGES.index(lever.stages()[-1]) if lever.stages() else 0)
        if missing := lever.needs - have:
            what = f"`{lever.name}` needs {', '.join(sorted(missing))}, which nothing before it provides"
            raise RecipeError(what, where=where, do=_providers(missing))
        # While decoding no lever comes first, so there a conflict is one both ways; to train and then to quantize is none.
        gives = lever.provides if lever.stages() == ("decode",) else frozenset()
        barred = {other.name for other in earlier if other.conflicts & (gives | {lever.name})}
        if clash := lever.conflicts & (have | {other.name for other in earlier}) or barred:
            raise RecipeError(f"`{lever.name}` conflicts with {', '.join(sorted(clash))}", where=where, do="Put them in arms of their own.")
        have |= lever.provides
        earlier.append(lever)


def _providers(needs: frozenset[str]) -> str:
    """What to put before a lever that lacks something."""
    found = [name for name, lever in all_levers().items() if needs & lever.provides]
    return f"Put {' or '.join(f'`{name}`' for name in found)} before it." if found else "Start from a model that has it."
