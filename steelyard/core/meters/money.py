"""Money: what a stretch of work would cost on rented machines, as a range, from a dated price table.

The table below is of list prices and says when and where each was read; prices move, so weigh with your own: a YAML file of the
same form, named by the environment variable `STEELYARD_PRICES`, replaces it.

    currency: EUR
    kinds:
      core: {per: core, low: 0.01, high: 0.04, source: our cluster, date: "2026-01-01"}
      h100: {per: gpu, match: H100, low: 2.2, high: 2.2, source: contract 17, date: "2026-01-01"}
    tokens:                                     # endpoints: price per million tokens, by the model's name there
      big: {read: 0.5, written: 1.5, source: price list, date: "2026-01-01"}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from steelyard.core import recipe_yaml
from steelyard.core.errors import RecipeError
from steelyard.core.levers import explain

VARIABLE = "STEELYARD_PRICES"


class _Row(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class HourPrice(_Row):
    """The price of an hour of one logical core or of one GPU."""

    per: Literal["core", "gpu"] = pydantic.Field(description="what one unit is")
    match: str = pydantic.Field(default="", description="part of the GPU's name, any case; empty for cores")
    low: float = pydantic.Field(ge=0, allow_inf_nan=False, description="lowest price, currency per hour")
    high: float = pydantic.Field(ge=0, allow_inf_nan=False, description="highest price, currency per hour")
    source: str = pydantic.Field(description="where the price was read")
    date: str = pydantic.Field(description="when, YYYY-MM or YYYY-MM-DD")


class TokenPrice(_Row):
    """The price of an endpoint's tokens."""

    read: float = pydantic.Field(ge=0, allow_inf_nan=False, description="currency per million prompt tokens")
    written: float = pydantic.Field(ge=0, allow_inf_nan=False, description="currency per million generated tokens")
    source: str = pydantic.Field(default="", description="where the price was read")
    date: str = pydantic.Field(default="", description="when")


class Prices(_Row):
    """A price table."""

    currency: str = pydantic.Field(default="USD", min_length=1, max_length=8, description="ISO code")
    kinds: dict[str, HourPrice] = {}
    tokens: dict[str, TokenPrice] = {}


AWS = "AWS EC2 list prices, us-east-1"
MARKET = "mercatus-ai.com, survey of cloud prices"
TABLE = Prices(
    kinds={
        # low: m7g.large (2 cores, $0.0816/h) at the 72 % discount of the longest commitment; high: m7i.large ($0.1008/h) on demand
        "core": HourPrice(per="core", low=0.0114, high=0.0504, source=AWS, date="2026-06"),
        "a10g": HourPrice(per="gpu", match="A10G", low=1.006, high=1.006, source=AWS + ", g5.xlarge", date="2026-06"),
        "a100": HourPrice(per="gpu", match="A100", low=0.80, high=3.00, source=MARKET, date="2026-05"),
        "h100": HourPrice(per="gpu", match="H100", low=1.99, high=5.00, source=MARKET, date="2026-05"),
        "h200": HourPrice(per="gpu", match="H200", low=2.50, high=7.00, source=MARKET, date="2026-05"),
    }
)


def prices(path: Path | None = None) -> Prices:
    """The user's price table (`path`, or the file `STEELYARD_PRICES` names), else the one above.

    Raises:
        RecipeError: the file is missing, or not of the form the module's docstring shows.
    """
    named = path or (Path(value) if (value := os.environ.get(VARIABLE)) else None)
    if named is None:
        return TABLE
    document = recipe_yaml.read(named)
    try:
        return Prices.model_validate(document.value)
    except pydantic.ValidationError as error:
        inner, what, do = explain(error, Prices.model_fields)[0]
        raise RecipeError(
            what, where=document.where(inner), do=do or "Compare it with the docstring of steelyard.core.meters.money."
        ) from None


def per_hour(table: Prices, cores: int, gpus: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Price (low, high) of an hour of a machine; a GPU's price includes its host. None where the table has no price for it.

    Args:
        table: what things cost.
        cores: logical cores in use.
        gpus: as in `hardware.describe`; empty when the work runs on the processor.
    """
    low = high = 0.0
    kinds = table.kinds.values()
    for gpu in gpus:
        name = str(gpu.get("name", "")).lower()
        found = next((kind for kind in kinds if kind.per == "gpu" and kind.match and kind.match.lower() in name), None)
        if found is None:
            return None
        low, high = low + found.low, high + found.high
    if not gpus:
        found = next((kind for kind in kinds if kind.per == "core"), None)
        if found is None:
            return None
        low, high = found.low * cores, found.high * cores
    return low, high


def of_tokens(table: Prices, model: str, read: int, written: int) -> float | None:
    """Price of an endpoint's answers; None where the table does not name the model."""
    price = table.tokens.get(model)
    return None if price is None else (read * price.read + written * price.written) / 1e6
