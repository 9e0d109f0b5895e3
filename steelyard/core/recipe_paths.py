"""Paths in a recipe are relative to the recipe's own file, so that a recipe and its data can move together.

Which settings are paths is known from their type or name: `pathlib.Path`, fields called `path` or `data`, and references to
models, answerers and indexes. References and `data` may also be names (`encyclopedia`, `hf:org/name`, `generated:forms`), so
they are taken for a path only where they say so (they begin with `.`, `~` or `/`, end in `.gguf` or `.jsonl`, or have several
separators), or where something of that name lies beside the recipe and no known download is called so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, TypeVar

import pydantic

from steelyard.core.get_known import KNOWN
from steelyard.core.references import AnswererRef, IndexRef, ModelRef, Reference

T = TypeVar("T", bound=pydantic.BaseModel)


def rooted_path(path: str | PurePath, directory: Path) -> Path:
    """The absolute path meant by one written in a recipe that lies in `directory`."""
    return Path(os.path.abspath(directory / os.path.expanduser(path)))


def rooted_name(name: str, directory: Path) -> str:
    """A name as it is, or the absolute path where it means one."""
    if name in KNOWN or name.startswith("hf:") or "://" in name or "\0" in name:
        return name
    says_so = name.startswith((".", "~", os.sep)) or name.endswith((".gguf", ".jsonl")) or name.count("/") > 1
    return str(rooted_path(name, directory)) if says_so or _lies_beside(name, directory) else name


def rooted(settings: T, directory: Path) -> T:
    """A copy of a lever's or task's settings whose paths are absolute."""
    changes = {}
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        changed = _through(value, lambda item, key=key: _rooted_value(item, key, directory))
        if changed is not value:
            changes[key] = changed
    return settings.model_copy(update=changes) if changes else settings


def _rooted_value(value: Any, key: str, directory: Path) -> Any:
    if isinstance(value, ModelRef | AnswererRef | IndexRef):
        name = rooted_name(value.name, directory)
        return value if name == value.name else type(value)(name)
    if isinstance(value, PurePath):
        path = rooted_path(value, directory)
        return value if path == value else path
    if key == "path" and isinstance(value, str) and value:
        return str(rooted_path(value, directory))
    if key in ("data", "model") and isinstance(value, str):
        return rooted_name(value, directory)
    if isinstance(value, pydantic.BaseModel):
        return rooted(value, directory)
    return value


def _through(value: Any, change: Callable[[Any], Any]) -> Any:
    """`change` applied to a value, or to the members of a list or tuple; the same object where nothing changes."""
    if isinstance(value, list | tuple) and not isinstance(value, Reference):
        changed = [change(item) for item in value]
        return value if all(new is old for new, old in zip(changed, value, strict=True)) else type(value)(changed)
    return change(value)


def _lies_beside(name: str, directory: Path) -> bool:
    try:
        return (directory / name).exists()
    except (OSError, ValueError):  # a name no file system takes
        return False
