"""Schemas in words that llguidance can follow, and schemas that no value matches.

A `oneOf` whose alternatives exclude one another says what `anyOf` says.

llguidance sees that two types, two keys of different text or two enumerations of text exclude one another, but neither numbers nor what
lies behind a `$ref`. Whether nothing matches some schemas at once is asked here of their types, enumerations, bounds and required keys:

    empty(A) iff no enumerated value is left, or no type: of numbers because bounds cross, of objects because a required key has no value,
             of arrays because an item that must be there has none; or iff no alternative of an `anyOf` or `oneOf` has one

A value is finite, so what can only be made of itself is empty as well: asked again while it is being asked, a question is answered with yes.
Only what is certain counts: a keyword that is not looked at leaves more values, never fewer. The finished answer is checked with
`jsonschema` against the `oneOf` itself all the same. `uniqueItems: false` says nothing and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

ONE = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
SEVERAL = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
"""Keywords that hold a schema, a list of schemas, and schemas by name."""
TYPES = frozenset({"null", "boolean", "integer", "fraction", "string", "array", "object"})
BUDGET = 50_000
"""Schemas, keys and enumerated values looked at for one whole schema; what is not decided by then counts as not exclusive, and as possible."""
DEEPEST = 12


def plainer(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema that the same values match, with `anyOf` for every `oneOf` whose alternatives are seen to exclude one another."""
    return _rewritten(schema, _Search(schema))


def impossible(schema: Mapping[str, Any]) -> bool:
    """Whether it is certain that no value matches, be it only because none would ever end. Not all such schemas are seen."""
    return _Search(schema).empty([schema])


def _rewritten(schema: Any, search: _Search) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    for name in ONE:
        if isinstance(inner := out.get(name), Mapping):
            out[name] = _rewritten(inner, search)
    for name in SEVERAL:
        if isinstance(inner := out.get(name), list):
            out[name] = [_rewritten(one, search) for one in inner]
    for name in NAMED:
        if isinstance(inner := out.get(name), Mapping):
            out[name] = {key: _rewritten(one, search) for key, one in inner.items()}
    if out.get("uniqueItems") is False:
        del out["uniqueItems"]
    around = {key: value for key, value in schema.items() if key != "oneOf"}
    if isinstance(schema.get("oneOf"), list) and search.exclusive(schema["oneOf"], around):
        alternatives = {"anyOf": out.pop("oneOf")}
        out |= {"allOf": [*out.get("allOf", ()), alternatives]} if "anyOf" in out else alternatives
    return out


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """A schema and all within it."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            yield part
            left += [part[name] for name in ONE if name in part]
            left += [one for name in SEVERAL if isinstance(part.get(name), list) for one in part[name]]
            left += [one for name in NAMED if isinstance(part.get(name), Mapping) for one in part[name].values()]


class _Search:
    """Proofs within one schema, which share a budget."""

    def __init__(self, root: Mapping[str, Any]):
        renamed = any("$id" in part or "id" in part for part in _parts(root) if part is not root)  # references lead elsewhere
        self.root, self.left = root, 0 if renamed else BUDGET
        self.asked: list[frozenset[int]] = []
        self.keys: dict[int, dict[str, Any]] = {}

    def exclusive(self, alternatives: Sequence[Any], around: Any) -> bool:
        """Whether no value that matches what stands around matches two of the alternatives."""
        pairs = ((one, other) for place, one in enumerate(alternatives) for other in alternatives[:place])
        return all(self.empty([around, one, other]) for one, other in pairs)

    def empty(self, schemas: Sequence[Any], depth: int = 0) -> bool:
        """Whether it is certain that nothing matches all of some schemas."""
        parts: list[Mapping[str, Any]] = []
        if self.left <= 0 or depth > DEEPEST:
            return False
        if not all(self._gather(schema, parts) for schema in schemas):
            return True
        question = frozenset(map(id, parts))
        if parts and question in self.asked:
            return True
        self.asked.append(question)
        answer = self._empty(parts, depth)
        self.asked.pop()
        return answer

    def _empty(self, parts: Sequence[Mapping[str, Any]], depth: int) -> bool:
        types = frozenset.intersection(TYPES, *map(_types, parts))
        low, high, strict = _bounds(parts)
        listed = [self._listed(part) for part in parts if "const" in part or isinstance(part.get("enum"), list)]
        if listed:
            self.left -= sum(map(len, listed))
            fitting = [value for key, value in listed[0].items() if all(key in other for other in listed[1:]) and _kinds(value) & types]
            return not any(_within(value, low, high, strict) for value in fitting)
        if low > high or (low == high and strict):
            types -= {"integer", "fraction"}
        if "object" in types and self._no_object(parts, depth):
            types -= {"object"}
        if "array" in types and any(self._no_array(part, depth) for part in parts):
            types -= {"array"}
        return not types or any(self._no_alternative(part, depth) for part in parts)

    def _gather(self, schema: Any, parts: list[Mapping[str, Any]], depth: int = 0) -> bool:
        """Adds a schema and all that it demands besides; False where it lets nothing through."""
        self.left -= 1
        if schema is False:
            return False
        if not isinstance(schema, Mapping) or self.left <= 0 or depth > DEEPEST:
            return True
        if isinstance(reference := schema.get("$ref"), str):  # earlier drafts let nothing else count beside it
            return self._gather(self._target(reference), parts, depth + 1)
        parts.append(schema)
        more = schema.get("allOf")
        return all(self._gather(one, parts, depth + 1) for one in (more if isinstance(more, list) else ()))

    def _target(self, reference: str) -> Any:
        """What a reference within the schema leads to; True, which demands nothing, where that is not known."""
        if reference != "#" and not reference.startswith("#/"):
            return True
        place: Any = self.root
        for step in unquote(reference).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
                place = place[int(name)]
            elif isinstance(place, Mapping) and name in place:
                place = place[name]
            else:
                return True
        return place

    def _no_object(self, parts: Sequence[Mapping[str, Any]], depth: int) -> bool:
        """Whether a key that is required can have no value."""
        needed = {key for part in parts for key in _strings(part.get("required"))}
        self.left -= len(needed)
        return any(self.empty([_of_key(part, key) for part in parts], depth + 1) for key in sorted(needed))

    def _no_array(self, part: Mapping[str, Any], depth: int) -> bool:
        """Whether an item that must be there can have no value."""
        least, items = part.get("minItems", 0), part.get("items", True)
        first = isinstance(items, list) or "prefixItems" in part  # the first items have schemas of their own
        return isinstance(least, int | float) and least >= 1 and not first and self.empty([items], depth + 1)

    def _no_alternative(self, part: Mapping[str, Any], depth: int) -> bool:
        """Whether none of the alternatives can have a value."""
        named = [part[name] for name in ("anyOf", "oneOf") if isinstance(part.get(name), list)]
        return any(all(self.empty([one], depth + 1) for one in alternatives) for alternatives in named)

    def _listed(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """The values that a schema enumerates, each by what is the same for equal ones; taken down once."""
        if id(part) not in self.keys:
            self.keys[id(part)] = {_key(value): value for value in ([part["const"]] if "const" in part else part["enum"])}
        return self.keys[id(part)]


def _of_key(part: Mapping[str, Any], key: str) -> Any:
    """What a schema demands of the value of a key, or True where that is not certain."""
    properties = part.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    return True if part.get("patternProperties") else part.get("additionalProperties", True)


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _types(part: Mapping[str, Any]) -> frozenset[str]:
    named = part.get("type")
    names = [named] if isinstance(named, str) else _strings(named) if isinstance(named, list) else None
    return TYPES if names is None else frozenset(names) | ({"integer", "fraction"} if "number" in names else frozenset())


def _kinds(value: Any) -> frozenset[str]:
    """The types a value may be said to have: drafts disagree on 1.0."""
    if value is None or isinstance(value, bool | str):
        return frozenset({"null" if value is None else "boolean" if isinstance(value, bool) else "string"})
    if isinstance(value, int | float):
        return frozenset({"integer", "fraction"}) if isinstance(value, int) or value.is_integer() else frozenset({"fraction"})
    return frozenset({"array" if isinstance(value, list) else "object"})


def _key(value: Any) -> str:
    """The same for values that JSON Schema calls equal, and only for those: 1 and 1.0, but not 1 and true."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(Fraction(value))
    if isinstance(value, list):
        return f"[{','.join(map(_key, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name!r}:{_key(inner)}" for name, inner in sorted(value.items())) + "}"
    return repr(value)


def _bounds(parts: Sequence[Mapping[str, Any]]) -> tuple[float, float, bool]:
    """Least and greatest number let through, and whether one of them is excluded."""
    lows = [(value, strict) for part in parts for value, strict in _ends(part, "minimum", "exclusiveMinimum")]
    highs = [(value, strict) for part in parts for value, strict in _ends(part, "maximum", "exclusiveMaximum")]
    low, above = max(lows, default=(-math.inf, False))
    high = min((value for value, _ in highs), default=math.inf)
    return low, high, above or (high, True) in highs


def _ends(part: Mapping[str, Any], including: str, excluding: str) -> Iterator[tuple[float, bool]]:
    """Bounds of either form; in draft 4 the second is true or false and says whether the first is excluded."""
    first, second = part.get(including), part.get(excluding)
    if isinstance(first, int | float) and not isinstance(first, bool):
        yield first, second is True
    if isinstance(second, int | float) and not isinstance(second, bool):
        yield second, True


def _within(value: Any, low: float, high: float, strict: bool) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number or (low < value < high if strict and low == high else low <= value <= high)
