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

import csv
import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

import pydantic

from steelyard.core.errors import RecipeError, SteelyardError, nearest
from steelyard.core.fingerprint import digest, source_digest
from steelyard.core.references import Reference

HOOKS = ("build", "data", "train", "compress", "decode", "wrap")
STAGE_OF_HOOK = {"build": "new", "data": "weights", "train": "weights", "compress": "weights", "decode": "decode", "wrap": "wrap"}
STAGES = ("new", "weights", "decode", "wrap")
ENTRY_POINTS = "steelyard.levers"


class Lever(pydantic.BaseModel):
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

    @classmethod
    def hooks(cls) -> tuple[str, ...]:
        """The hooks this lever implements, in stage order."""
        return tuple(hook for hook in HOOKS if callable(getattr(cls, hook, None)))

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """The stages this lever acts in, in order."""
        return tuple(stage for stage in STAGES if any(STAGE_OF_HOOK[hook] == stage for hook in cls.hooks()))

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
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def find(name: str) -> tuple[type[Lever], dict[str, Any]]:
    """The lever class a name or preset stands for, and the settings the preset fills in."""
    points = _entry_points()
    if name in points:
        return _load(points[name]), {}
    for lever in all_levers().values():
        if name in lever.presets:
            return lever, dict(lever.presets[name])
    known = [*points, *(preset for lever in all_levers().values() for preset in lever.presets)]
    raise RecipeError(f"no lever is called `{name}`", do=nearest(name, known))


def _load(point: importlib.metadata.EntryPoint) -> type[Lever]:
    try:
        lever = point.load()
    except ImportError as error:
        raise SteelyardError(
            f"the lever `{point.name}` could not be imported: {error}",
            where=f"entry point {point.value}",
            do="Install what it needs, or remove the package that declares it.",
        ) from error
    if not (isinstance(lever, type) and issubclass(lever, Lever)):
        raise SteelyardError(
            f"the entry point `{point.name}` is not a Lever class", where=point.value, do="Point it at a subclass of steelyard.Lever."
        )
    return lever


def all_levers() -> dict[str, type[Lever]]:
    """Every lever that is installed, by name."""
    return {name: _load(point) for name, point in sorted(_entry_points().items())}


def parse(entry: str | Mapping[str, Any] | Lever, where: str = "lever") -> Lever:
    """A lever from a recipe entry: `int8`, `{quantize: {bits: 8}}`, or one that is already there."""
    if isinstance(entry, Lever):
        return entry
    if isinstance(entry, str):
        name, settings = entry, {}
    elif isinstance(entry, Mapping) and len(entry) == 1:
        ((name, settings),) = entry.items()
        settings = {} if settings is None else settings
    else:
        raise RecipeError(f"expected a lever's name or `{{name: {{settings}}}}`, not {entry!r}", where=where)
    lever, preset = find(str(name))
    if not isinstance(settings, Mapping):
        if lever.main is None:
            raise RecipeError(f"`{name}` takes named settings, not {settings!r}", where=where, do=f"See `steelyard levers {lever.name}`.")
        settings = {lever.main: settings}
    return make(lever, preset | dict(settings), where)


def parse_try(text: str) -> list[Lever]:
    """Levers from one `--try`: `int8,"prompt:Be concise"`. Commas separate, quotes protect, `LEVER:value` sets the main value."""
    (fields,) = csv.reader([text], skipinitialspace=True) if text.strip() else ([],)
    levers = []
    for item in filter(None, (field.strip() for field in fields)):
        name, colon, value = item.partition(":")
        levers.append(parse({name: value} if colon else name, where=f"--try {item}"))
    if not levers:
        raise RecipeError("nothing to try", where="--try", do="Name a lever: --try int8")
    return levers


def make(lever: type[Lever], settings: Mapping[str, Any], where: str) -> Lever:
    """Validates settings; an unknown key is told the nearest known one."""
    try:
        return lever(**settings)
    except pydantic.ValidationError as error:
        raise settings_error(error, lever.model_fields, f"{where}: {lever.name}", f"See `steelyard levers {lever.name}`.") from None


def settings_error(error: pydantic.ValidationError, known: Iterable[str], where: str, do: str) -> RecipeError:
    """A pydantic error in our own words: every wrong key, with what was wrong."""
    lines, remedies = [], []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key `{key}`")
            remedies.append(nearest(key.rsplit(".")[-1], known))
        else:
            given = "" if problem["type"] == "missing" else f" (given {problem['input']!r})"
            lines.append(f"`{key}`: {problem['msg'][0].lower()}{problem['msg'][1:]}{given}")
    return RecipeError("; ".join(lines), where=where, do=" ".join([*remedies, do]))


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
            raise RecipeError(f"`{lever.name}` needs {', '.join(sorted(missing))}, which this arm does not have", where=where)
        barred = {other.name for other in earlier if lever.name in other.conflicts}
        if clash := lever.conflicts & (have | {other.name for other in earlier}) | barred:
            raise RecipeError(f"`{lever.name}` conflicts with {', '.join(sorted(clash))}", where=where, do="Put them in arms of their own.")
        have |= lever.provides
        earlier.append(lever)

