"""Bodies: JSON that is no more and no less than JSON, and models that know every field OpenAI's clients send."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pydantic
from fastapi import Request, Response
from fastapi.routing import APIRoute

from steelyard.core.errors import nearest
from steelyard.core.json_hooks import no_constant, unique
from steelyard.serve.bounded import Bounded
from steelyard.serve.http_errors import ApiError

DEEPEST = 64
"""Levels of nesting of a JSON body; a schema within it may be as deep as that leaves."""
MOST = 200_000
"""Lists and objects of a JSON body, brackets within its texts counted too: reading more would hold up everybody's answers for a second."""
CONTAINERS = (list, dict)


def parsed(body: bytes, deepest: int = DEEPEST) -> Any:
    """The JSON value in a body.

    Raises:
        ApiError: it is not UTF-8, not JSON (NaN and Infinity are not), nested too deep, or holds half a surrogate pair, a key twice, or
            too many lists and objects.
    """
    if (count := body.count(b"[") + body.count(b"{")) > MOST:
        raise ApiError(f"The JSON holds {count:,} lists and objects; at most {MOST:,}.", code="invalid_json")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=unique)
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ApiError(f"The JSON is nested more than {deepest} levels deep.", code="invalid_json") from None
    except ValueError as error:  # JSONDecodeError, broken UTF-8, a lone surrogate, an integer of thousands of digits
        raise ApiError(f"The body is not valid JSON: {str(error)[:200]}.", code="invalid_json") from None
    if depth(value, deepest) > deepest:
        raise ApiError(f"The JSON is nested more than {deepest} levels deep.", code="invalid_json")
    return value


def depth(value: Any, enough: int) -> int:
    """Lists and objects within one another, counted up to just beyond `enough`."""
    level, layer = 0, [value] if isinstance(value, CONTAINERS) else []
    while layer and level <= enough:
        layer = [part for item in layer for part in (item.values() if isinstance(item, dict) else item) if isinstance(part, CONTAINERS)]
        level += 1
    return level


class StrictRequest(Request):
    """A request whose JSON is read by `parsed`."""

    async def json(self) -> Any:
        if not hasattr(self, "_strict"):
            self._strict = parsed(await self.body())
        return self._strict


class StrictRoute(APIRoute):
    """A route whose bodies are read by `parsed`: `APIRouter(route_class=StrictRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


class Part(Bounded):
    """A part of a request. Unknown fields are refused, and a text is no number."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Body(Part):
    """A whole request.

    Class variables:
        inert: fields that are accepted and have no effect, with the reason why that is right.
        refused: fields that would change the answer and cannot be honoured: the values under which they change nothing, and what to
            do instead. Null always changes nothing.
    """

    inert: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = {}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name, (neutral, instead) in cls.refused.items():
            if value.get(name) is not None and not any(_same(value[name], one) for one in neutral):
                raise ApiError(f"`{name}` is not supported here. {instead}", param=name, code="unsupported_field")
        kept = {name: item for name, item in value.items() if name not in cls.inert and name not in cls.refused}
        if unknown := [name for name in kept if name not in cls.model_fields]:
            hint = nearest(unknown[0], cls.model_fields) if len(unknown[0]) <= 80 else ""
            raise ApiError(
                f"Unknown field `{unknown[0][:80]}`. {hint if hint.startswith('Did') else ''}".rstrip(),
                param=unknown[0][:80],
                code="unknown_field",
            )
        return {name: item for name, item in kept.items() if item is not None or cls.model_fields[name].is_required()}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        known = schema.setdefault("properties", {})
        for name, why in cls.inert.items():
            known[name] = {"description": f"Accepted, without effect: {why}"}
        for name, (neutral, instead) in cls.refused.items():
            known[name] = {"enum": [None, *neutral], "description": f"Not supported. {instead}"}
        return schema


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other
