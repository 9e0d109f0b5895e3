"""Numbers as a person should read them: scaled, rounded to what the interval supports, with unit and sign.

A number gets as many decimals as give half its interval's width one significant digit, or two where it begins below 3.55
(the rule of the Particle Data Group): more would claim a precision that was not measured. A bound that is not zero is never
rounded to zero, since whether an interval excludes zero is the point. Of a level nobody reads more than four digits, however
narrow its interval; differences keep theirs.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from steelyard.weigh.report.report import Cell

MOST_DECIMALS = 8
MISSING = "—"
LARGEST = 1e300
LEVEL_DIGITS = 4
Interval = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """How a unit is shown: stored numbers times `factor`, the unit of values, and the unit of differences."""

    factor: float
    unit: str
    difference_unit: str
    least_decimals: int = 0


def scale(unit: str) -> Scale:
    """Shares are read as percent, and differences between them as percentage points (pp); other units stay as they are."""
    return Scale(100.0, "%", "pp", 1) if unit == "share" else Scale(1.0, unit, unit)


def finite(value: float | None) -> float | None:
    """The number, or None where there is none to show (not finite, or so large that percent would not be)."""
    return value if value is not None and abs(value) < LARGEST else None


def pair(low: float | None, high: float | None) -> Interval | None:
    """An interval, or None where a bound is missing."""
    low, high = finite(low), finite(high)
    return (low, high) if low is not None and high is not None else None


def decimals(value: float, interval: Interval | None = None, least: int = 0) -> int:
    """How many decimals a number of this size and uncertainty deserves.

    Args:
        value: the number, already scaled.
        interval: its interval, already scaled.
        least: fewest decimals.
    """
    half = abs(interval[1] - interval[0]) / 2 if interval else 0.0
    if half > 0 and math.isfinite(half):
        count = -_magnitude(half) + (half / 10.0 ** _magnitude(half) < 3.55)
    else:
        count = 3 - _magnitude(value) if value else 0
        count = min(count, 3) if abs(value) >= 1e-3 else count
    count = max(least, min(count, MOST_DECIMALS))
    for bound in interval or ():
        while bound and count < MOST_DECIMALS and round(bound, count) == 0:
            count += 1
    return count


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def number(value: float, places: int, signed: bool = False, plain: bool = False) -> str:
    """A number with grouped thousands and a true minus sign (`plain`: ASCII only)."""
    sign = "+" if signed and round(value, places) != 0 else ""
    extreme = abs(value) >= 1e9 or (value != 0 and round(value, places) == 0 and places >= MOST_DECIMALS)
    text = f"{value:{sign}.3g}" if extreme else f"{value:{sign},.{places}f}"
    if not extreme and round(value, places) == 0:
        text = text.lstrip("-+")
    return text if plain else text.replace("-", "−")


def span(interval: Interval, places: int, signed: bool = False, plain: bool = False) -> str:
    """An interval in brackets; "" where it has no width: bytes that are counted, not measured, need none."""
    if interval[0] == interval[1]:
        return ""
    low, high = (number(bound, places, signed, plain) for bound in interval)
    return f"[{low}, {high}]"


def from_to(low: float, high: float, unit: str, plain: bool = False) -> str:
    """Two values of a unit, told apart: `33.3 to 33.8%`."""
    shown = scale(unit)
    low, high = low * shown.factor, high * shown.factor
    places = max(shown.least_decimals, min(MOST_DECIMALS, -_magnitude(high - low))) if high > low else shown.least_decimals
    return with_unit(f"{number(low, places, plain=plain)} to {number(high, places, plain=plain)}", shown.unit)


def with_unit(text: str, unit: str) -> str:
    """A number and its unit: percent signs touch, other units stand off."""
    return f"{text}{unit}" if unit == "%" else f"{text} {unit}".rstrip()


def relative(cell: Cell, plain: bool = False) -> tuple[str, str]:
    """The difference and its interval in percent of the base's measured value, or ("", "") where that says nothing: of shares,
    and of scores, whose zero is no absence of anything. What is left is never less than nothing, so no more than all can be lost."""
    base, difference = finite(cell.base), finite(cell.difference)
    if not base or difference is None or cell.unit in ("share", "score") or base < 0 or abs(difference) > 1e4 * base:
        return "", ""
    change, interval = 100 * difference / abs(base), _scaled(pair(cell.low, cell.high), 100 / abs(base))
    if interval and not all(math.isfinite(bound) for bound in interval):  # the base is next to nothing
        return "", ""
    if interval and (finite(cell.value) or 0.0) >= 0:
        interval = (max(interval[0], -100.0), max(interval[1], -100.0))
    deserved = decimals(change, interval)
    places = min(deserved, 1 if abs(change) < 100 else 0)
    while places < deserved and any(bound and round(bound, places) == 0 for bound in interval or ()):
        places += 1
    text = span(interval, places, True, plain) if interval else ""
    return number(change, places, True, plain) + "%", text and text + "%"


@dataclass(frozen=True)
class Words:
    """A cell in words. What is not there is "" (or a dash for the value itself).

    Attributes:
        value, base: with unit; `value_interval`, `base_interval` in brackets, in the same unit.
        difference: value - base, signed, with unit; `interval` its interval; `relative` and `relative_interval` the same
            as a share of the base's measured value ("" for shares).
        margin: the equivalence margin, with unit.
        unit: as shown; `difference_unit` that of differences.
    """

    value: str
    value_interval: str
    base: str
    base_interval: str
    difference: str
    interval: str
    relative: str
    relative_interval: str
    margin: str
    unit: str
    difference_unit: str

    @property
    def short_value(self) -> str:
        """The value without its unit, where the unit is no percent sign."""
        return self.value if self.unit == "%" else self.value.removesuffix(self.unit).rstrip()

    @property
    def short_base(self) -> str:
        return self.base if self.unit == "%" else self.base.removesuffix(self.unit).rstrip()

    @property
    def short_difference(self) -> str:
        """The difference without its unit."""
        return self.difference.removesuffix(self.difference_unit).rstrip()

    @property
    def move(self) -> str:
        """From the base's value to the arm's, the unit said once."""
        return f"{self.short_base} → {self.value}"


def words(cell: Cell, plain: bool = False) -> Words:
    """A cell's numbers, each rounded to what its own interval supports."""
    shown = scale(cell.unit)

    def level(value: float | None, interval: Interval | None) -> tuple[str, str]:
        value, interval = finite(value), pair(*interval) if interval else None
        if value is None:
            return ("-" if plain else MISSING), ""
        value, interval = value * shown.factor, _scaled(interval, shown.factor)
        places = decimals(value, interval, shown.least_decimals)
        if abs(value) >= 1:
            places = min(places, max(shown.least_decimals, LEVEL_DIGITS - 1 - _magnitude(value)))
        text = with_unit(number(value, places, plain=plain), shown.unit)
        return text, span(interval, places, plain=plain) if interval else ""

    value, value_interval = level(cell.value, cell.value_interval)
    base, base_interval = level(cell.base, cell.base_interval)
    difference = interval_text = ""
    if (change := finite(cell.difference)) is not None:
        change, interval = change * shown.factor, _scaled(pair(cell.low, cell.high), shown.factor)
        places = decimals(change, interval, shown.least_decimals)
        difference = with_unit(number(change, places, signed=True, plain=plain), shown.difference_unit)
        interval_text = span(interval, places, signed=True, plain=plain) if interval else ""
    margin = ""
    if (half := finite(cell.margin)) is not None:
        margin = with_unit(f"{'+/-' if plain else '±'}{half * shown.factor:.3g}", shown.difference_unit)
    units = (shown.unit, shown.difference_unit)
    return Words(value, value_interval, base, base_interval, difference, interval_text, *relative(cell, plain), margin, *units)


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return (interval[0] * factor, interval[1] * factor) if interval else None


def duration(seconds: float | None) -> str:
    """Wall time as a person says it: `48 s`, `3 min 42 s`, `2 h 5 min`."""
    if (seconds := finite(seconds)) is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest if not hours else 0, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def moment(text: str) -> str:
    """An ISO 8601 time to the minute; what is not one stays as it is."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = when.strftime("%z")
    return when.strftime("%Y-%m-%d %H:%M") + ("" if not zone else " UTC" if zone == "+0000" else f" UTC{zone[:3]}:{zone[3:]}")
