"""Reading a config.json with care: every value is checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.core.errors import ModelFileError
from steelyard.model.activations import ACTIVATIONS
from steelyard.model.mixers.rotary import Rotary, RotaryScaling

MOST = {"hidden_size": 2**17, "num_hidden_layers": 1024, "vocab_size": 2**24, "max_position_embeddings": 2**26}
LARGEST_SIZE = 2**22


class Config:
    """A config's values with their types checked. Errors name the key and what stands there."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json"):
        self.values, self.where = values, where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def with_defaults(self, **defaults: Any) -> Config:
        """The same config where keys that are not there at all take these values, as in the family's class; null stays null."""
        return Config(defaults | dict(self.values), self.where)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is ...:
                raise ModelFileError(f"`{key}` is missing", where=self.where, do="Restore the config the model was published with.")
            return default
        return value

    def _refuse(self, key: str, value: Any, expected: str) -> ModelFileError:
        return ModelFileError(
            f"`{key}` is {value!r:.100}, not {expected}", where=self.where, do="Restore the config the model was published with."
        )

    def integer(self, key: str, default: Any = ...) -> Any:
        """A positive whole number within reason, or the default."""
        value = self._value(key, default)
        if value is default and default is not ...:
            return default
        most = MOST.get(key, LARGEST_SIZE)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise self._refuse(key, value, f"a whole number from 1 to {most}")
        return value

    def number(self, key: str, default: Any = ...) -> Any:
        """A finite number, or the default."""
        value = self._value(key, default)
        if value is default and default is not ...:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise self._refuse(key, value, "a finite number")
        return float(value)

    def positive(self, key: str, default: Any = ...) -> Any:
        """A finite number above 0, or the default."""
        value = self.number(key, default)
        if value is not None and not value > 0:
            raise self._refuse(key, value, "a number above 0")
        return value

    def epsilon(self, key: str, default: Any) -> float:
        """What a norm adds under its root: finite, not negative."""
        value = self.number(key, default)
        if value < 0:
            raise self._refuse(key, value, "0 or more")
        return value

    def multiple(self, key: str, of: str, default: Any = ...) -> int:
        """A whole number that is a multiple of another key's."""
        value, unit = self.integer(key, default), self.integer(of)
        if value % unit:
            raise self._refuse(key, value, f"a multiple of `{of}`, which is {unit}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._refuse(key, value, "true or false")
        return value

    def choice(self, key: str, choices: Sequence[str], default: Any = ...) -> str:
        value = self._value(key, default)
        if value not in choices:
            raise self._refuse(key, value, f"one of {', '.join(choices)}")
        return value

    def activation(self, key: str, default: str) -> str:
        """The name of a nonlinearity we have."""
        return self.choice(key, tuple(ACTIVATIONS), default)

    def words(self, key: str, count: int, default: Sequence[str], choices: Sequence[str]) -> tuple[str, ...]:
        """A list of `count` of the words in `choices` (layer types, say)."""
        value = self._value(key, default)
        if not isinstance(value, list | tuple) or len(value) != count or not all(word in choices for word in value):
            raise self._refuse(key, value, f"a list of {count} of the words {', '.join(choices)}")
        return tuple(value)

    def never(self, key: str, why: str) -> None:
        """Refuses a switch that would change what is computed in a way that is not built here."""
        if self.values.get(key):
            raise ModelFileError(f"`{key}` is {self.values[key]!r:.60}: {why}", where=self.where, do="Use a model without it.")

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self._refuse(key, value, "a mapping")
        return value

    def rotary(self, head_width: int, *, base: float = 10000.0, kind: str | None = None, share: float | None = None) -> Rotary:
        """Rotary positions as `rope_parameters` give them (transformers 5), or `rope_theta` and `rope_scaling`.

        Args:
            head_width: d.
            base: theta where the config does not say.
            kind: the layer type whose parameters are meant, where they are given by type.
            share: of a head's dimensions that turn, where the config does not say; None for families that always turn all.
        """
        given, scaling = self.mapping("rope_parameters"), self.mapping("rope_scaling")
        if given and scaling and not kind and not _says(given, scaling):
            raise ModelFileError(
                "`rope_parameters` and `rope_scaling` disagree on how positions turn",
                where=self.where,
                do="Restore the config the model was published with, or take one of them out.",
            )
        if given and kind and isinstance(given.get(kind), Mapping):
            given = given[kind]
        rope = Config(given or scaling or {}, f"{self.where}: rope")
        theta = rope.positive("rope_theta", None) or self.positive("rope_theta", base)
        if share is not None:
            share = rope.positive("partial_rotary_factor", None) or self.positive("partial_rotary_factor", share)
        dimensions = head_width if share is None else int(head_width * share)
        if dimensions < 2 or dimensions % 2 or dimensions > head_width:
            raise ModelFileError(
                f"rotary positions over {dimensions} of {head_width} dimensions", where=self.where, do="They must be an even number."
            )
        method = rope.values.get("rope_type", rope.values.get("type", "default"))
        # `dynamic` stretches only what is longer than `max_position_embeddings`, and that is refused here.
        if method in ("default", "dynamic", None):
            return Rotary(dimensions, theta)
        return Rotary(dimensions, theta, self._scaling(rope, str(method), dimensions))

    def _scaling(self, rope: Config, method: str, dimensions: int) -> RotaryScaling:
        context = self.integer("max_position_embeddings", 2048)
        original = self.integer("original_max_position_embeddings", None) or rope.integer("original_max_position_embeddings", context)
        attention = rope.number("attention_factor", None)
        if method == "linear":
            return RotaryScaling("linear", rope.positive("factor"))
        if method == "llama3":
            low, high = rope.positive("low_freq_factor"), rope.positive("high_freq_factor")
            if low == high:
                raise rope._refuse("high_freq_factor", high, "different from `low_freq_factor`")
            return RotaryScaling("llama3", rope.positive("factor"), original, low, high)
        if method == "yarn":
            return RotaryScaling(
                "yarn",
                rope.positive("factor", context / original),
                original,
                rope.positive("beta_slow", 1.0),
                rope.positive("beta_fast", 32.0),
                attention,
                rope.flag("truncate", True),
                mscale=rope.number("mscale", 0.0),
                mscale_all_dim=rope.number("mscale_all_dim", 0.0),
            )
        if method in ("longrope", "su"):
            factor = rope.positive("factor", context / original)
            divisors = [self._divisors(rope, key, dimensions // 2) for key in ("long_factor", "short_factor")]
            return RotaryScaling(
                "longrope", factor, original, attention_factor=attention, long_factors=divisors[0], short_factors=divisors[1]
            )
        raise ModelFileError(
            f"rotary scaling `{method:.40}` is not known", where=rope.where, do="Known: linear, dynamic, llama3, yarn, longrope."
        )

    def _divisors(self, rope: Config, key: str, count: int) -> tuple[float, ...]:
        value = rope.values.get(key)
        if not isinstance(value, list | tuple) or len(value) != count or not all(_is_positive(v) for v in value):
            raise rope._refuse(key, value, f"a list of {count} numbers above 0")
        return tuple(float(v) for v in value)


def _is_positive(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < 1e30


def _says(parameters: Mapping[str, Any], scaling: Mapping[str, Any]) -> bool:
    """Whether the new way of writing rotary positions holds what the old way says."""
    said = {("rope_type" if key == "type" else key): value for key, value in scaling.items()}
    return all(parameters.get(key, "default" if key == "rope_type" else None) == value for key, value in said.items())
