"""The arguments of a call while a model writes them, as pieces of JSON text that never have to be taken back.

Most families write the arguments as a JSON object: its text is passed on as it comes, and only its end has to be found. Qwen3-Coder
writes one element for each parameter instead: each becomes a piece when it is closed, its value read as the function's schema has it.

A model may write anything. What turns out to be no JSON is passed on as it was written; whoever sends it back has it wrapped
(`tool_calls.replayed`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

State = Literal["growing", "whole", "broken"]
OUTSIDE = re.compile(r'["{}\[\]]|[^\s0-9+\-.,:eEtruefalsn]')
"""Between the strings of a JSON text: what opens and closes, and what cannot stand there."""
WITHIN = re.compile(r'["\\]')
OPENS = re.compile(r"\s*<parameter=([^>\n]{1,256})>")
END = "</function>"
CLOSES, NEXT = "</parameter>", "\n<parameter="
"""What ends a value; the second where the first was forgotten."""
TYPES = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}


class JsonArguments:
    """A JSON object that grows. `feed` takes what belongs to it."""

    def __init__(self, schema: Any = None):
        del schema  # what it is to be is not checked: whoever offered the function does that
        self.state: State = "growing"
        self._depth, self._quoted, self._escaped = 0, False, False

    def feed(self, text: str) -> tuple[int, str]:
        """How many characters of a text belong to it, and what they add. After its last brace it is whole."""
        end = self._end(text)
        return end, text[:end]

    def _end(self, text: str) -> int:
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped, at = False, at + 1
                continue
            found = (WITHIN if self._quoted else OUTSIDE).search(text, at)
            if found is None:
                break
            at, sign = found.end(), found[0]
            if self._quoted:
                self._quoted, self._escaped = sign != '"', sign == "\\"
            elif sign == '"':
                self._quoted = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.state = "whole"
                    return at
            else:
                self.state = "broken"
                return found.start()
        return len(text)

    def finish(self, rest: str, cut: bool) -> tuple[str, str]:
        """What is added where nothing more comes, and what is none of it."""
        del cut
        return rest, ""


class ElementArguments:
    """Parameters as elements: `<parameter=KEY>VALUE</parameter>`. A line end after the opening and one before the closing are none of
    the value's."""

    def __init__(self, schema: Any = None):
        self.state: State = "growing"
        self._schema = schema if isinstance(schema, Mapping) else {}
        self._opened = False

    def feed(self, text: str) -> tuple[int, str]:
        """How many characters of a text are read, and the JSON they add."""
        at, out = 0, ""
        while (opened := OPENS.match(text, at)) is not None:
            ends = [end for mark in (CLOSES, NEXT) if (end := text.find(mark, opened.end())) >= 0]
            if not ends:
                return at, out
            out += self._member(opened[1], text[opened.end() : min(ends)])
            at = min(ends) + len(CLOSES) * text.startswith(CLOSES, min(ends))
        rest = text[at:].lstrip()
        if rest.startswith("<parameter=") or "<parameter=".startswith(rest) or rest != END and END.startswith(rest):
            return at, out
        self.state = "whole"  # its end, or what is none of it
        return at, out + self._close()

    def finish(self, rest: str, cut: bool) -> tuple[str, str]:
        """What is added where nothing more comes, and what is none of it. A value that was not closed is one unless it was cut off."""
        if cut:
            return "", ""
        opened = OPENS.match(rest)
        return (self._member(opened[1], rest[opened.end() :]) if opened else "") + self._close(), "" if opened else rest.strip()

    def _member(self, key: str, text: str) -> str:
        value = text.removeprefix("\n").removesuffix("\n")
        properties = self._schema.get("properties")
        stated = properties.get(key) if isinstance(properties, Mapping) else None
        opening, self._opened = ", " if self._opened else "{", True
        return f"{opening}{json.dumps(key, ensure_ascii=False)}: {json.dumps(_value(value, stated, self._schema), ensure_ascii=False)}"

    def _close(self) -> str:
        return "}" if self._opened else "{}"


def _value(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """A value of its text: JSON where that is of a type which the schema allows and a text would not do, else the text."""
    allowed = _types(schema, root, 0)
    if not allowed - {"string"}:
        return text
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text.strip(), text), parse_constant=_no_constant)
    except (ValueError, RecursionError):  # a model wrote it: it may be anything
        return text
    if "string" in allowed and isinstance(value, str):
        return text
    return value if any(_is(value, kind) for kind in allowed if kind != "string") else text


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES.get(kind, ()))


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> set[str]:
    """The types that a schema allows, as far as it says so in plain words."""
    if not isinstance(schema, Mapping) or depth > 8:
        return set()
    kinds = schema.get("type")
    found = {kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str)}
    for value in [*_list(schema.get("enum")), *([schema["const"]] if "const" in schema else [])] if not found else []:
        found |= {"string"} if isinstance(value, str) else {kind for kind in TYPES if _is(value, kind)}
    for part in (*_list(schema.get("anyOf")), *_list(schema.get("oneOf")), *_list(schema.get("allOf"))):
        found |= _types(part, root, depth + 1)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for step in reference[2:].split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        found |= _types(target, root, depth + 1)
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _no_constant(word: str) -> Any:
    raise ValueError(word)
