"""The form that a whole answer must have, as a request asks for it: a JSON schema, a regex or a grammar.

Kept as text, so that settings with a form can be hashed, compared and digested. What the forms mean, and which can be honoured, is
the business of `generate/constraints`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from steelyard.core.errors import SteelyardError, UnsupportedError

Kind = Literal["json_schema", "regex", "grammar"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WHERE = "answer settings: constraint"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What a whole answer matches.

    Attributes:
        kind: `json_schema`, `regex` (Rust's syntax) or `grammar` (llguidance's variant of Lark's syntax).
        source: the schema as JSON, its keys in the order in which objects are to be written; or the regex; or the grammar.
    """

    kind: Kind
    source: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not isinstance(self.source, str):
            raise SteelyardError(
                f"no form of an answer: {self.kind!r:.40}, {self.source!r:.40}",
                where=WHERE,
                do=f"Say which of {', '.join(KINDS)}, and give a text.",
            )
        if not self.source.isprintable() and any("\ud800" <= character <= "\udfff" for character in self.source):
            raise SteelyardError(f"{self.kind} holds a lone surrogate, which is not Unicode text", where=WHERE, do="Leave it out.")

    @classmethod
    def read(cls, value: Any) -> Self:
        """The form that a mapping of one kind to its source asks for: {"regex": "yes|no"}, {"json_schema": {"type": "object"}}.

        Raises:
            SteelyardError: it names none of the kinds, several, or something else besides; a source of the wrong type; a schema that
                JSON has no words for.
        """
        known = ", ".join(KINDS)
        if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in KINDS:
            said = " and ".join(map(str, value)) if isinstance(value, Mapping) else f"{value!r:.80}"
            raise SteelyardError(f"a constraint is one of {known}, not {said or 'nothing'}", where=WHERE, do='Say {"regex": "yes|no"}.')
        ((kind, source),) = value.items()
        wanted = (Mapping, bool) if kind == "json_schema" else (str,)
        if not isinstance(source, wanted):
            wish = "an object" if kind == "json_schema" else "a text"
            raise SteelyardError(f"{kind} is {source!r:.80}, not {wish}", where=WHERE, do=f"Give {wish}.")
        return cls(kind, source if isinstance(source, str) else written(source))


def written(schema: Mapping[str, Any] | bool) -> str:
    """A schema as JSON.

    Raises:
        UnsupportedError: it holds what JSON has no words for (a date from YAML, NaN), or is nested too deep.
    """
    try:
        text = json.dumps(dict(schema) if isinstance(schema, Mapping) else schema, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise UnsupportedError(f"the schema cannot be written as JSON ({error})", where="json_schema", do="Use JSON's own types.") from None
    except RecursionError:
        raise UnsupportedError(
            "the schema is nested too deep", where="json_schema", do="Use `$ref` for what repeats, or flatten it."
        ) from None
    return text
