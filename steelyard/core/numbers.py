"""Where a number is asked for, yes and no are none: pydantic reads `width: true` as 1, which nobody meant."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pydantic


class Numbers(pydantic.BaseModel):
    """Base of settings whose numbers must be numbers; a field that says `bool` takes one."""

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        field = cls.model_fields.get(str(info.field_name))
        if field is not None and _holds_a_boolean(value) and _asks_for_numbers(field.annotation):
            raise ValueError("a number is asked for, not yes or no")
        return value


def _holds_a_boolean(value: Any) -> bool:
    """Whether a boolean is somewhere in it. What people send may be nested deeper than functions can call each other, and YAML's aliases
    may put a thing into itself, or into many others: each is looked at once."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, bool):
            return True
        if isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return False


def _asks_for_numbers(annotation: Any) -> bool:
    return not _asks_for(annotation, bool) and (_asks_for(annotation, int) or _asks_for(annotation, float))


def _asks_for(annotation: Any, kind: type) -> bool:
    """Whether a type is that kind, or one of those in it is (unions, containers)."""
    if annotation is kind:
        return True
    return get_origin(annotation) is not Literal and any(_asks_for(inner, kind) for inner in get_args(annotation))
