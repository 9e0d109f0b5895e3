"""References: settings that name another thing, resolved once by whoever runs the recipe."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from steelyard.core.errors import SteelyardError

T = TypeVar("T")


class Reference(Generic[T]):
    """A name in the settings; after `bound_to`, the thing itself.

    Resolution is shared: two levers that name the same model hold one model, counted once in memory.
    """

    kind: ClassVar[str] = "thing"

    def __init__(self, name: str, value: T | None = None):
        self.name, self._value = name, value

    @property
    def value(self) -> T:
        """What the name stands for.

        Raises:
            SteelyardError: when the lever is used before its recipe resolved it.
        """
        if self._value is None:
            raise SteelyardError(f"the {self.kind} `{self.name}` is not resolved", do="Call lever.bind(resolve) first.")
        return self._value

    @property
    def bound(self) -> bool:
        return self._value is not None

    @property
    def fingerprint(self) -> str:
        return str(getattr(self._value, "fingerprint", self.name))

    def bound_to(self, value: T):
        return type(self)(self.name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.name == self.name  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from_name = core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))
        return core_schema.json_or_python_schema(
            json_schema=from_name,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_name]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda reference: reference.name),
        )


class ModelRef(Reference):
    """A model: a got name, a directory, a .gguf file or hf:org/name."""

    kind: ClassVar[str] = "model"


class AnswererRef(Reference):
    """Anything that answers: a model's name or an endpoint's."""

    kind: ClassVar[str] = "answerer"


class IndexRef(Reference):
    """An index: a corpus got before, a folder, or an index file."""

    kind: ClassVar[str] = "index"


class ToolsRef(Reference):
    """A set of tools by name."""

    kind: ClassVar[str] = "tools"


class ScorerRef(Reference):
    """A scorer by name."""

    kind: ClassVar[str] = "scorer"
