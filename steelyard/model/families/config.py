"""Reading a config.json with care: every value is checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.core.errors import ModelFileError
from steelyard.model.channels.activations import ACTIVATIONS
from steelyard.model.mixers.rotary import Rotary, RotaryScaling

MOST = {"hidden_size": 2**17, "num_hidden_layers": 1024, "vocab_size": 2**24, "max_position_embeddings": 2**26}
LARGEST_SIZE = 2**22


class Config:
    """A config's values with their types checked. Errors name the key and what stands there."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json"):
        self.values, self.where = values, where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is ...:
                raise ModelFileError(f"`{key}` is missing", where=self.where, do="Restore the config the model was published with.")
            return default
        return value

    def _refuse(self, key: str, value: Any, expected: str) -> ModelFileError:
        return ModelFileError(
            f"`{key}` is {value!r}, not {expected}", where=self.where, do="Restore the config the model was published with."
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

    def words(self, key: str, count: int, default: Sequence[str]) -> tuple[str, ...]:
        """A list of `count` strings (layer types, say)."""
        value = self._value(key, default)
        if not isinstance(value, list | tuple) or len(value) != count or not all(isinstance(word, str) for word in value):
            raise self._refuse(key, value, f"a list of {count} words")
        return tuple(value)

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self._refuse(key, value, "a mapping")
        return value

    def rotary(self, head_width: int, *, base: float = 10000.0, kind: str | None = None) -> Rotary:
        """Rotary positions as `rope_parameters` give them (transformers 5; per layer type under `kind`), or `rope_theta` and
        `rope_scaling`."""
        given = self.mapping("rope_parameters")
        if given and kind and isinstance(given.get(kind), Mapping):
            given = given[kind]
        rope = Config(given or self.mapping("rope_scaling") or {}, f"{self.where}: rope")
        theta = rope.number("rope_theta", None) or self.number("rope_theta", base)
        share = rope.number("partial_rotary_factor", None) or self.number("partial_rotary_factor", None) or self.number("rotary_pct", 1.0)
        dimensions = int(head_width * share)
        if dimensions < 2 or dimensions % 2 or dimensions > head_width:
            raise ModelFileError(
                f"rotary positions over {dimensions} of {head_width} dimensions", where=self.where, do="They must be an even number."
            )
        method = rope.values.get("rope_type", rope.values.get("type", "default"))
        if method in ("default", "mrope", None):
            return Rotary(dimensions, theta)
        return Rotary(dimensions, theta, self._scaling(rope, str(method), dimensions))

    def _scaling(self, rope: Config, method: str, dimensions: int) -> RotaryScaling:
        context = self.integer("max_position_embeddings", 2048)
        original = rope.integer("original_max_position_embeddings", None) or self.integer("original_max_position_embeddings", context)
        attention = rope.number("attention_factor", None)
        if method == "linear":
            return RotaryScaling("linear", rope.number("factor"))
        if method == "llama3":
            return RotaryScaling("llama3", rope.number("factor"), original, rope.number("low_freq_factor"), rope.number("high_freq_factor"))
        if method == "yarn":
            return RotaryScaling(
                "yarn",
                rope.number("factor"),
                original,
                rope.number("beta_slow", 1.0),
                rope.number("beta_fast", 32.0),
                attention,
                rope.flag("truncate", True),
                mscale=rope.number("mscale", 0.0),
                mscale_all_dim=rope.number("mscale_all_dim", 0.0),
            )
        if method in ("longrope", "su"):
            factor = rope.number("factor", None) or context / original
            divisors = [self._divisors(rope, key, dimensions // 2) for key in ("long_factor", "short_factor")]
            return RotaryScaling(
                "longrope", factor, original, attention_factor=attention, long_factors=divisors[0], short_factors=divisors[1]
            )
        raise ModelFileError(f"rotary scaling `{method}` is not known", where=rope.where, do="Known: linear, llama3, yarn, longrope.")

    def _divisors(self, rope: Config, key: str, count: int) -> tuple[float, ...]:
        value = rope.values.get(key)
        if not isinstance(value, list | tuple) or len(value) != count or not all(isinstance(v, int | float) and v for v in value):
            raise rope._refuse(key, value, f"a list of {count} numbers")
        return tuple(float(v) for v in value)
