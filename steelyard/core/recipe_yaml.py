"""Strict YAML for recipes: every value knows where it was written, and nothing means two things.

The rules are those of YAML 1.2's core schema, read from PyYAML's events rather than through its constructors:

* keys are text and may not repeat; one document, UTF-8, at most 128 KiB, 20,000 values and 32 levels;
* plain words are text but for `null`, `~`, `true`, `false` and finite numbers (so `no` is a word and `1e-4` a number);
* anchors, aliases and `<<` merges work and count in full towards the limit, so nothing explodes; an alias inside its own
  anchor is refused;
* tags are refused: a recipe holds data, never objects.

`write` is the inverse: what it writes, `parse` reads back as the same value.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from steelyard.core.errors import RecipeError

MOST_BYTES = 128 * 1024
MOST_VALUES = 20_000
MOST_LEVELS = 32

KeyPath = tuple[str | int, ...]

_NULL = re.compile(r"(?:|~|null|Null|NULL)\Z")
_TRUE = re.compile(r"(?:true|True|TRUE)\Z")
_FALSE = re.compile(r"(?:false|False|FALSE)\Z")
_INTEGER = re.compile(r"[-+]?[0-9]+\Z", re.ASCII)
_HEXADECIMAL = re.compile(r"0(?:x[0-9a-fA-F]+|o[0-7]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_LONGEST_NUMBER = 40


@dataclass
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and where each part of it was written.

    Attributes:
        value: the data.
        source: what the file is called in messages.
        marks: key path -> (line, column) counted from 1, or words that say where (an override).
    """

    value: Any
    source: str
    marks: dict[KeyPath, tuple[int, int] | str] = field(default_factory=dict)

    def where(self, path: KeyPath = ()) -> str:
        """`file:line:column (key.path)` of a part, or of the nearest part around it that was written down."""
        shown = f" ({'.'.join(str(part) for part in path)})" if path else ""
        mark = self._mark(path)
        if isinstance(mark, str):
            return f"{mark}{shown}"
        return f"{self.source}:{mark[0]}:{mark[1]}{shown}" if mark else f"{self.source}{shown}"

    def order(self, path: KeyPath) -> tuple[int, int]:
        """What sorts paths as they stand in the file; those from overrides come last."""
        mark = self._mark(path)
        return mark if isinstance(mark, tuple) else (1 << 30, 0)

    def _mark(self, path: KeyPath) -> tuple[int, int] | str | None:
        inner_first = (self.marks.get(path[:length]) for length in range(len(path), -1, -1))
        return next((mark for mark in inner_first if mark is not None), None)


def read(path: Path, most_bytes: int = MOST_BYTES) -> Document:
    """Reads a YAML file of at most `most_bytes`.

    Raises:
        RecipeError: it is missing, too large, not UTF-8, or breaks a rule of the module's docstring.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except FileNotFoundError:
        raise RecipeError(
            "there is no such file", where=str(path), do="Give the path of a recipe, such as recipes/quickstart.yaml."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RecipeError(f"the file cannot be read: {reason[:1].lower()}{reason[1:]}", where=str(path)) from None
    if len(data) > most_bytes:
        raise RecipeError(f"such a file is at most {most_bytes // 1024} KiB", where=str(path), do="Is this the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError("the file is not UTF-8 text", where=f"{path}:{line}", do="Save it as UTF-8.") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Document:
    """Reads YAML text; `source` is what errors call it."""
    builder = _Builder(source)
    try:
        return builder.document(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError(f"not YAML: {reason}", where=place) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = f"{source}:{before.count(chr(10)) + 1}:{error.position - before.rfind(chr(10))}"
        raise RecipeError(f"a character that text may not hold: U+{ord(text[error.position]):04X}", where=place) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets chr() fail on "\UFFFFFFFF"
        raise RecipeError(f"not YAML: {error}", where=source) from None


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) word.

    Raises:
        ValueError: a number that is not finite or has more than 40 characters.
    """
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    if _NOT_FINITE.match(text):
        raise ValueError(f"`{text}` is not a finite number")
    if _INTEGER.match(text) or _HEXADECIMAL.match(text) or _FLOAT.match(text):
        if len(text) > _LONGEST_NUMBER:
            raise ValueError(f"a number of {len(text)} characters")
        if _HEXADECIMAL.match(text):
            return int(text, 0)
        value = int(text) if _INTEGER.match(text) else float(text)
        if math.isinf(value):
            raise ValueError(f"`{text}` is not a finite number")
        return value
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this reader or a YAML 1.1 reader would take for something other than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds these line breaks of Unicode into spaces unless the text stands in double quotes
    style = '"' if any(sign in text for sign in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
for _tag, _pattern in (("int", _HEXADECIMAL), ("int", _INTEGER), ("float", _FLOAT), ("float", _NOT_FINITE)):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list("-+.0123456789"))


def write(value: Any) -> str:
    """YAML text that `parse` reads back as the same plain data, keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


@dataclass
class _Anchor:
    value: Any
    values: int


class _Builder:
    """Turns PyYAML's events into a `Document`, counting values and levels as it goes."""

    def __init__(self, source: str):
        self.source = source
        self.marks: dict[KeyPath, tuple[int, int] | str] = {}
        self.anchors: dict[str, _Anchor | None] = {}  # None while the anchor's own value is being read
        self.values = 0

    def document(self, events: Iterator[yaml.Event]) -> Document:
        next(events)  # stream start
        if isinstance(first := next(events), yaml.StreamEndEvent):
            raise self.error(first, "the file is empty", "A recipe says at least `base: NAME`, a task `kind: choices`.")
        value = self.value(events, next(events), ())
        next(events)  # document end
        if not isinstance(after := next(events), yaml.StreamEndEvent):
            raise self.error(after, "a second document begins here", "A recipe is one document: remove the `---`.")
        return Document(value, self.source, self.marks)

    def value(self, events: Iterator[yaml.Event], event: yaml.Event, path: KeyPath) -> Any:
        self.marks.setdefault(path, self.place(event))
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path)
        if not isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent):
            raise self.error(event, "a value is missing")
        if event.tag is not None:
            raise self.error(event, f"the tag `{event.tag}` has no place in a recipe", "Write the plain value.")
        self.count(event, 1)
        if len(path) > MOST_LEVELS:
            raise self.error(event, f"nested more than {MOST_LEVELS} levels deep")
        before = self.values - 1
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        match event:
            case yaml.ScalarEvent():
                value = self.scalar(event)
            case yaml.SequenceStartEvent():
                value = self.sequence(events, path)
            case _:
                value = self.mapping(events, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchor(value, self.values - before)
        return value

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        if any("\ud800" <= character <= "\udfff" for character in event.value):
            raise self.error(event, "half of a surrogate pair is not text")
        if event.style is not None:
            return event.value
        try:
            return scalar(event.value)
        except ValueError as error:
            raise self.error(event, str(error)) from None

    def sequence(self, events: Iterator[yaml.Event], path: KeyPath) -> list[Any]:
        out: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            out.append(self.value(events, event, (*path, len(out))))
        return out

    def mapping(self, events: Iterator[yaml.Event], path: KeyPath) -> dict[str, Any]:
        out: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.error(event, "a key must be a word")
            if event.tag is not None or event.anchor is not None:
                raise self.error(event, "a key may have no tag or anchor")
            self.count(event, 1)
            self.scalar(event)  # text that is not text is refused in keys too
            key = event.value
            if key == "<<" and event.style is None:
                for other in self.merge(event, self.value(events, next(events), (*path, key))):
                    merged = {**other, **merged}  # an earlier source wins over a later one
                continue
            if not key:
                raise self.error(event, "a key is empty")
            if key in out:
                raise self.error(event, f"the key `{key}` is given twice", "Keep one of them.")
            self.marks[(*path, key)] = self.place(event)
            out[key] = self.value(events, next(events), (*path, key))
        return {**merged, **out}

    def merge(self, event: yaml.Event, value: Any) -> list[Mapping[str, Any]]:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, Mapping) for source in sources):
            raise self.error(event, "`<<` merges mappings only")
        return sources

    def alias(self, event: yaml.AliasEvent, path: KeyPath) -> Any:
        if event.anchor not in self.anchors:
            raise self.error(event, f"nothing is anchored as `&{event.anchor}`")
        anchor = self.anchors[event.anchor]
        if anchor is None:
            raise self.error(event, f"`*{event.anchor}` stands inside `&{event.anchor}` itself")
        self.count(event, anchor.values)
        if len(path) + _levels(anchor.value) > MOST_LEVELS:
            raise self.error(event, f"nested more than {MOST_LEVELS} levels deep")
        return copy.deepcopy(anchor.value)

    def count(self, event: yaml.Event, more: int) -> None:
        self.values += more
        if self.values > MOST_VALUES:
            raise self.error(event, f"more than {MOST_VALUES:,} values, aliases counted in full")

    def error(self, event: yaml.Event, what: str, do: str | None = None) -> RecipeError:
        line, column = self.place(event)
        return RecipeError(what, where=f"{self.source}:{line}:{column}", do=do)

    @staticmethod
    def place(event: yaml.Event) -> tuple[int, int]:
        return event.start_mark.line + 1, event.start_mark.column + 1


def _levels(value: Any) -> int:
    """How many containers deep a value goes; 0 for a scalar."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_levels, inner), default=0)
