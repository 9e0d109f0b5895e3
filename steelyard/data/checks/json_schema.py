"""A JSON schema checker for the schemas that tasks use: small, complete for what it accepts, and never silent.

A keyword it does not know is refused when the schema is read (`unsupported`), not ignored when a value is checked.
Annotations (`title`, `description`, `default`, `examples`, `$schema`, `$comment`, `deprecated`) say nothing about
validity and are allowed. References (`$ref`), `format` and conditional schemas are not supported. Written to the
2020-12 specification of json-schema.org; tests hold it equal to the package `jsonschema`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from steelyard.core.errors import SteelyardError
from steelyard.data.checks.patterns import pattern_problem, search_within

_ANNOTATIONS = {"title", "description", "default", "examples", "$schema", "$comment", "$id", "deprecated", "readOnly", "writeOnly"}
_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_LIMITS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_LISTS = {"allOf", "anyOf", "oneOf"}
_SCHEMAS = {"items", "additionalProperties", "not", "contains"}
_KNOWN = (
    _ANNOTATIONS
    | _LIMITS
    | _BOUNDS
    | _LISTS
    | _SCHEMAS
    | {"type", "enum", "const", "properties", "required", "pattern", "uniqueItems", "prefixItems"}
)
_DEEPEST = 40


def unsupported(schema: Any, where: str = "schema", depth: int = 0) -> list[str]:
    """Why a schema cannot be used, one line per problem; empty where it can."""
    if isinstance(schema, bool):
        return []
    if not isinstance(schema, dict):
        return [f"{where} should be an object or a boolean"]
    if depth > _DEEPEST:
        return [f"{where} is nested more than {_DEEPEST} deep"]
    return [problem for key, value in schema.items() for problem in _unsupported_keyword(key, value, f"{where}.{key}", depth)]


def _unsupported_keyword(key: str, value: Any, where: str, depth: int) -> Iterator[str]:
    if key not in _KNOWN:
        yield f"{where} is not supported"
    elif key == "type":
        types = value if isinstance(value, list) else [value]
        if not types or not all(isinstance(item, str) and item in _TYPES for item in types):
            yield f"{where} should be one of {', '.join(sorted(_TYPES))}"
    elif key in _LIMITS:
        if not (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            yield f"{where} should be a whole number"
    elif key in _BOUNDS:
        if not _is_number(value) or not math.isfinite(value) or (key == "multipleOf" and value <= 0):
            yield f"{where} should be a {'positive ' if key == 'multipleOf' else ''}number"
    elif key == "pattern":
        problem = pattern_problem(value) if isinstance(value, str) else "not a text"
        if problem:
            yield f"{where}: {problem}"
    elif key == "required":
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            yield f"{where} should be a list of keys"
    elif key == "enum":
        if not isinstance(value, list):
            yield f"{where} should be a list"
    elif key == "uniqueItems":
        if not isinstance(value, bool):
            yield f"{where} should be true or false"
    elif key == "properties":
        if not isinstance(value, dict):
            yield f"{where} should be an object of schemas"
        else:
            for name, inner in value.items():
                yield from unsupported(inner, f"{where}.{name}", depth + 1)
    elif key in _LISTS or key == "prefixItems":
        if not (isinstance(value, list) and value):
            yield f"{where} should be a list of schemas"
        else:
            for i, inner in enumerate(value):
                yield from unsupported(inner, f"{where}.{i}", depth + 1)
    elif key in _SCHEMAS:
        yield from unsupported(value, where, depth + 1)


def violations(value: Any, schema: Any, where: str = "value") -> list[str]:
    """How a value breaks a schema, one line per break; empty where it matches.

    Raises:
        SteelyardError: for a schema that `unsupported` names problems of.
    """
    if problems := unsupported(schema):
        raise SteelyardError("; ".join(problems), where="JSON schema", do="Use the keywords that steelyard.data.checks.json_schema knows.")
    return list(_breaks(value, schema, where))


def matches(value: Any, schema: Any) -> bool:
    """Whether a value matches a schema."""
    return not violations(value, schema)


def _breaks(value: Any, schema: Any, where: str) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{where} is not allowed"
        return
    yield from _general(value, schema, where)
    if isinstance(value, str):
        yield from _string(value, schema, where)
    elif _is_number(value):
        yield from _number(value, schema, where)
    elif isinstance(value, list):
        yield from _array(value, schema, where)
    elif isinstance(value, dict):
        yield from _object(value, schema, where)


def _general(value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_has_type(value, name) for name in types):
            yield f"{where} is not {' or '.join(types)}"
    if "enum" in schema and not any(_equal(value, item) for item in schema["enum"]):
        yield f"{where} is not one of {json.dumps(schema['enum'], ensure_ascii=False)}"
    if "const" in schema and not _equal(value, schema["const"]):
        yield f"{where} is not {json.dumps(schema['const'], ensure_ascii=False)}"
    for inner in schema.get("allOf", ()):
        yield from _breaks(value, inner, where)
    if "anyOf" in schema and not any(_fits(value, inner) for inner in schema["anyOf"]):
        yield f"{where} matches none of anyOf"
    if "oneOf" in schema and (count := sum(_fits(value, inner) for inner in schema["oneOf"])) != 1:
        yield f"{where} matches {count} of oneOf"
    if "not" in schema and _fits(value, schema["not"]):
        yield f"{where} matches what it must not"


def _string(value: str, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if len(value) < schema.get("minLength", 0):
        yield f"{where} is shorter than {schema['minLength']}"
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield f"{where} is longer than {schema['maxLength']}"
    if "pattern" in schema and not search_within(schema["pattern"], value):
        yield f"{where} does not match the pattern"


def _number(value: float, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    checks = {
        "minimum": lambda bound: value >= bound,
        "maximum": lambda bound: value <= bound,
        "exclusiveMinimum": lambda bound: value > bound,
        "exclusiveMaximum": lambda bound: value < bound,
        "multipleOf": lambda step: math.isfinite(value) and (_exact(value) / _exact(step)).denominator == 1,
    }
    for key, holds in checks.items():
        if key in schema and not holds(schema[key]):
            yield f"{where} breaks {key} {schema[key]}"


def _array(value: list[Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if len(value) < schema.get("minItems", 0):
        yield f"{where} has fewer than {schema['minItems']} items"
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield f"{where} has more than {schema['maxItems']} items"
    if schema.get("uniqueItems") and any(_equal(a, b) for i, a in enumerate(value) for b in value[:i]):
        yield f"{where} repeats an item"
    first = schema.get("prefixItems", ())
    for i, (item, inner) in enumerate(zip(value, first, strict=False)):
        yield from _breaks(item, inner, f"{where}.{i}")
    if "items" in schema:
        for i, item in enumerate(value[len(first) :], start=len(first)):
            yield from _breaks(item, schema["items"], f"{where}.{i}")
    if "contains" in schema and not any(_fits(item, schema["contains"]) for item in value):
        yield f"{where} lacks an item that it must contain"


def _object(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{where} lacks `{key}`"
    if len(value) < schema.get("minProperties", 0):
        yield f"{where} has fewer than {schema['minProperties']} keys"
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        yield f"{where} has more than {schema['maxProperties']} keys"
    declared = schema.get("properties", {})
    for key, item in value.items():
        if key in declared:
            yield from _breaks(item, declared[key], f"{where}.{key}")
        elif "additionalProperties" in schema:
            yield from _breaks(item, schema["additionalProperties"], f"{where}.{key}")


def _fits(value: Any, schema: Any) -> bool:
    return next(_breaks(value, schema, ""), None) is None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _exact(value: float) -> Fraction:
    """The decimal number as written, so that 0.3 is a multiple of 0.1."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def _has_type(value: Any, name: str) -> bool:
    if name == "integer":
        return _is_number(value) and (isinstance(value, int) or value.is_integer())
    if name == "number":
        return _is_number(value)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, kinds[name])


def _equal(a: Any, b: Any) -> bool:
    """JSON equality: 1 equals 1.0, but true does not equal 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b or (_is_number(a) and _is_number(b) and a == b)
