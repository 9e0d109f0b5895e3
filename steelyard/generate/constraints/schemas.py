"""JSON schemas: read, checked against their own specification, and answers checked against them with `jsonschema`.

The check comes after the constraint, by another implementation, so that a fault in either is told and not served. Patterns are
matched by llguidance here too (Python's `re` may take for ever on a hostile one), multiples exactly, and the whole check has a
budget: a schema whose definitions double at every level would otherwise never be done.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import referencing
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing.exceptions import Unresolvable

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.json_hooks import no_constant, unique
from steelyard.generate.constraints.judging import accepts

DEEPEST = 60
"""Levels of nesting of a schema."""
BUDGET = 200_000
"""Keywords applied in one check of an answer."""
COUNTS = {f"{bound}{what}" for bound in ("min", "max") for what in ("Length", "Items", "Properties")}
ENDLESS = "it is nested too deep to be checked"
TOO_LONG = f"checking it takes more than {BUDGET} steps"

Schema = Mapping[str, Any] | bool


def read(path: Path) -> dict[str, Any]:
    """The schema in a file.

    Raises:
        SteelyardError: it cannot be read, or holds no JSON object.
    """
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SteelyardError(
            f"the schema cannot be read: {error.strerror or error}", where=str(path), do="Give the path of a JSON file."
        ) from None
    except ValueError as error:
        raise SteelyardError(f"the schema is not valid JSON ({error})", where=str(path), do="Correct the file.") from None
    if not isinstance(value, dict):
        raise SteelyardError("a schema is a JSON object", where=str(path), do="Correct the file.")
    return value


def with_whole_counts(value: Any) -> Any:
    """The same schema with counts written without a point: 2.0 is as good a length as 2, and llguidance reads only the latter."""
    if isinstance(value, list):
        return [with_whole_counts(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    whole = {key for key, count in value.items() if key in COUNTS and isinstance(count, float) and count.is_integer()}
    return {key: int(inner) if key in whole else with_whole_counts(inner) for key, inner in value.items()}


def check(schema: Schema) -> None:
    """Refuses what is no schema.

    Raises:
        UnsupportedError: with the place.
    """
    if _depth(schema) > DEEPEST:
        raise _too_deep()
    checker = _checker(schema)
    try:  # no formats: a pattern need not suit Python's `re`
        checker.check_schema(schema, format_checker=jsonschema.FormatChecker(()))  # type: ignore[arg-type]
    except SchemaError as error:
        place = ".".join(str(part) for part in error.absolute_path)
        raise UnsupportedError(
            f"not a valid schema: {error.message:.200}", where=f"json_schema: {place}" if place else "json_schema", do="Correct it."
        ) from None
    except RecursionError:
        raise _too_deep() from None


def check_ends(schema: Schema) -> None:
    """Refuses a schema that refers to itself without ever coming to a value, or takes too long to check: no answer could be checked.

    Raises:
        UnsupportedError: it does.
    """
    for text in ("null", "0", '""', "[]", "{}"):
        problem = complaint(text, schema)
        if problem in (ENDLESS, TOO_LONG):
            what = "it refers to itself without end" if problem == ENDLESS else problem
            raise UnsupportedError(what, where="json_schema", do="Let `$ref` lead to something smaller than the schema itself.")


def parse(text: str) -> Any:
    """The value of a JSON text in which no key stands twice.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parsed(source: str) -> Schema:
    """A schema from JSON.

    Raises:
        UnsupportedError: it is none.
    """
    try:
        value = parse(source)
    except ValueError as error:
        raise UnsupportedError(f"the schema is not valid JSON ({error})", where="json_schema", do="Correct it.") from None
    if not isinstance(value, dict | bool):
        raise UnsupportedError("a schema is a JSON object", where="json_schema", do="Correct it.")
    return value


def complaint(text: str, schema: Schema) -> str | None:
    """What is wrong with an answer, or None."""
    try:
        value = parse(text)
    except ValueError as error:
        return f"not valid JSON ({error})"
    try:
        error = next(_validator(schema).iter_errors(value), None)
    except RecursionError:
        return ENDLESS
    except _Spent:
        return TOO_LONG
    except Unresolvable as error:
        return f"the reference {error.ref} leads nowhere"
    if error is None:
        return None
    place = ".".join(str(part) for part in error.absolute_path)
    return f"{place + ': ' if place else ''}{error.message:.200}"


class _Spent(Exception):
    """The budget of one check is used up."""


def _checker(schema: Schema) -> type[Validator]:
    """The checker of the draft that a schema names; the latest where it names none."""
    if not isinstance(schema, Mapping) or "$schema" not in schema:
        return jsonschema.Draft202012Validator
    draft = schema["$schema"]
    unknown = jsonschema.Draft3Validator  # what a draft that nobody knows is taken for, and refused alike
    found = validator_for({"$schema": draft}, default=unknown) if isinstance(draft, str) else unknown
    if found is unknown:
        raise UnsupportedError(f"the draft {draft!r:.80} is not supported", where="json_schema: $schema", do="Use draft 4 or later.")
    return found


def _validator(schema: Schema) -> Validator:
    """A checker with a fresh budget that fetches nothing."""
    checker, spent = _checker(schema), [0]

    def counted(keyword: Callable) -> Callable:
        @functools.wraps(keyword)
        def apply(*arguments: Any) -> Any:
            spent[0] += 1
            if spent[0] > BUDGET:
                raise _Spent
            return keyword(*arguments)

        return apply

    keywords = dict(checker.VALIDATORS) | {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of,
    }
    careful = extend(checker, {name: counted(keyword) for name, keyword in keywords.items()})
    return careful(schema, registry=referencing.Registry(), format_checker=checker.FORMAT_CHECKER)


def _matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text, in time linear in it."""
    return accepts(_searching(pattern), json.dumps(text, ensure_ascii=False))


@functools.lru_cache(maxsize=256)
def _searching(pattern: str) -> str:
    inner = {"name": "text", "json_schema": {"type": "string", "pattern": pattern}}
    return json.dumps({"grammars": [{"lark_grammar": '%llguidance {"no_forcing": true}\nstart: @text'}, inner]})


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r:.80} does not match {pattern!r:.80}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, inner in patterns.items():
            for key, value in instance.items():
                if _matches(pattern, key):
                    yield from validator.descend(value, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Any, inner: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        patterns = schema.get("patternProperties", {})
        for key, value in instance.items():
            if key not in schema.get("properties", {}) and not any(_matches(pattern, key) for pattern in patterns):
                if inner is False:
                    yield ValidationError(f"the key {key!r:.80} is not allowed")
                else:
                    yield from validator.descend(value, inner, path=key)


def _multiple_of(validator: Any, step: float, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """Of decimal numbers as written, so that 0.3 is a multiple of 0.1."""
    if isinstance(instance, int | float) and not isinstance(instance, bool):
        whole = math.isfinite(instance) and (Fraction(repr(instance)) / Fraction(repr(step))).denominator == 1
        if not whole:
            yield ValidationError(f"{instance!r} is not a multiple of {step!r}")


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted without recursion."""
    deepest, level = 0, [value]
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list | tuple)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        deepest += 1
    return deepest - 1


def _too_deep() -> UnsupportedError:
    return UnsupportedError(f"nested deeper than {DEEPEST} levels", where="json_schema", do="Use `$ref` for what repeats, or flatten it.")
