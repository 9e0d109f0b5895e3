"""Overrides from the command line: `key.path=value`, applied to a recipe before it is checked.

`seed=3`, `steps.0.sft.rank=8`, `arms.int8.0.quantize.bits=4`, `tasks=[facts,json_forms]`. A number in the path counts list
entries from 0; an entry that names something may also be found by that name (`tasks.facts.samples=20`). Values are YAML
words: numbers, `true`, `null`, text; text in quotes, `[...]` and `{...}` are read as YAML, everything else is taken as it is,
so `arms.terse.0.prompt.system=Answer: briefly` needs no quoting beyond the shell's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from steelyard.core import recipe_yaml
from steelyard.core.errors import RecipeError, nearest
from steelyard.core.recipe_yaml import Document, KeyPath

NAMED = ("arms", "primary")  # mappings whose keys are the user's own names
MADE = ("arms", "primary", "new", "endpoint", "run")  # mappings an override may begin when the file has none


def apply(document: Document, override: str, known: Iterable[str]) -> None:
    """Changes one value of a document in place and remembers that the command line wrote it.

    Args:
        document: the recipe as read, its value a mapping.
        override: `key.path=value`.
        known: the recipe's top-level keys.

    Raises:
        RecipeError: no `=`, a path that leads nowhere (the nearest name is given), or a value that is not YAML.
    """
    where = f"override `{override}`"
    keys, equals, text = override.partition("=")
    parts = [part.strip() for part in keys.split(".")]
    if not equals or not all(parts):
        raise RecipeError("expected key.path=value", where=where, do="For example: seed=3 or steps.0.sft.rank=8.")
    value = _value(text.strip(), where)
    holder: Any = document.value
    path: KeyPath = ()
    while True:
        key, parts = _next(holder, parts, path, where, known)
        path = (*path, key)
        if not parts:
            break
        holder = _into(holder, key, path, where)
    holder[key] = value
    for inner in [mark for mark in document.marks if mark[: len(path)] == path]:
        del document.marks[inner]
    document.marks[path] = where


def _value(text: str, where: str) -> Any:
    if text[:1] in ("[", "{", '"', "'"):
        return recipe_yaml.parse(text, where).value
    try:
        return recipe_yaml.scalar(text)
    except ValueError as error:
        raise RecipeError(str(error), where=where) from None


def _next(holder: Any, parts: list[str], path: KeyPath, where: str, known: Iterable[str]) -> tuple[str | int, list[str]]:
    """The key the next parts name, and the parts that remain. A key may itself hold dots; the longest that is there wins."""
    if isinstance(holder, list):
        index, by_number = _entry(holder, parts[0], path, where)
        return index, parts[1:] if by_number else parts  # the name is the key inside the entry
    if not isinstance(holder, dict):
        raise RecipeError(
            f"`{_shown(path)}` is {holder!r}, which holds no `{parts[0]}`", where=where, do="Write it as a mapping in the recipe first."
        )
    for length in range(len(parts), 0, -1):
        if (key := ".".join(parts[:length])) in holder:
            return key, parts[length:]
    key = parts[0]
    if not path and key not in known:
        raise RecipeError(f"unknown key `{key}`", where=where, do=nearest(key, known))
    if path and path[-1] in NAMED and len(parts) > 1:
        raise RecipeError(f"`{_shown(path)}` holds no `{key}`", where=where, do=nearest(key, holder))
    return key, parts[1:]


def _entry(holder: list[Any], part: str, path: KeyPath, where: str) -> tuple[int, bool]:
    if part.isascii() and part.isdigit() and len(part) < 6:
        if int(part) < len(holder):
            return int(part), True
        raise RecipeError(f"`{_shown(path)}` has {len(holder)} entries, so none is number {part}", where=where, do="The first is number 0.")
    names = [_name(entry) for entry in holder]
    if part not in names:
        raise RecipeError(f"`{_shown(path)}` holds no `{part}`", where=where, do=nearest(part, filter(None, names)))
    if names.count(part) > 1:
        raise RecipeError(
            f"`{_shown(path)}` holds `{part}` more than once", where=where, do=f"Say which: {names.index(part)} is the first."
        )
    return names.index(part), False


def _into(holder: Any, key: str | int, path: KeyPath, where: str) -> Any:
    """The container behind a key, made where the recipe left its settings out (`facts` becomes `{facts: {}}`)."""
    inner = holder[key] if isinstance(key, int) else holder.get(key)
    bare_name = isinstance(inner, str) and isinstance(key, int)
    if bare_name:
        inner = {inner: {}}
    elif inner is None:
        if len(path) == 1 and key not in MADE:
            raise RecipeError(f"the recipe has no `{key}` to change", where=where, do=f"Write `{key}` in the recipe first.")
        inner = {}
    holder[key] = inner
    return inner


def _name(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    return next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else ""


def _shown(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
