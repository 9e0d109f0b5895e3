"""What comes from outside, as pydantic models that stop at the first thing that is wrong.

Pydantic tells everything that is wrong with a value. Of a list of a million wrong items, which is 4 MB of JSON, that is a million errors:
gathering them takes half a minute, in which the server does nothing else, and only the first is ever told. So lists and dictionaries end
at their first wrong item here, and an object with many more keys than anybody knows is refused before they are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MANY = 100
"""Keys of an object up to which each that is unknown is named."""
_KINDS: Mapping[str, Any] = {
    "list": core_schema.ListSchema,
    "tuple": core_schema.TupleSchema,
    "set": core_schema.SetSchema,
    "dict": core_schema.DictSchema,
}


def _counts(model: type[pydantic.BaseModel], value: dict[Any, Any]) -> dict[str, Any]:
    return {"count": len(value), "known": len(model.model_fields)}


def _stop_at_first(schema: Any) -> None:
    """Has every list and dictionary in a schema end at its first wrong item, where this version of pydantic can."""
    if isinstance(schema, dict):
        kind = _KINDS.get(schema["type"]) if isinstance(schema.get("type"), str) else None
        if kind is not None and "fail_fast" in kind.__annotations__:
            schema["fail_fast"] = True
    if isinstance(schema, dict | list | tuple):
        for part in schema.values() if isinstance(schema, dict) else schema:
            _stop_at_first(part)


class Bounded(pydantic.BaseModel):
    """A model that finds one error where there are many: about as many as it has fields, however long its lists are."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > max(MANY, len(cls.model_fields)) and cls.model_config.get("extra") == "forbid":
            raise PydanticCustomError("too_many_fields", "{count} fields, and at most {known} are known here", _counts(cls, value))
        return value

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _stop_at_first(schema)
        return schema
