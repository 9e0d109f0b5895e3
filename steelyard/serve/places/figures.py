"""The figures of a selection, computed from all rows of its table: what a small model cannot work out, so that it need only read it.

Sums are exact to the last bit of a double (`math.fsum`); what a double cannot hold is left out rather than written as infinity. Texts
round to six significant digits, whole numbers stay whole, and a number's text is exactly what a model is given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from steelyard.serve.places.table import Table

MOST_GROUPS = 8
"""Most groups that are compared; a column of words with more is no grouping."""
_COMMON = 5  # words of a column that are counted by name
_COMPARED = 8  # columns whose means are compared
_NAME = 80  # characters of a name in a text


@dataclass(frozen=True)
class Figure:
    """One figure. Told as a sentence of its own, because small models repeat sentences better than lists: see docs/lab-notes.md.

    Attributes:
        name: what it is, in words that go between "The" and "is".
        text: as it is told.
        value: the number itself, None where it is none.
    """

    name: str
    text: str
    value: float | None = None

    @property
    def sentence(self) -> str:
        return f"The {self.name} is {self.text}."


def written(value: float) -> str:
    """A number as it is told: six significant digits, never fewer than two decimals, whole numbers whole."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    size = math.floor(math.log10(abs(value)))
    if not -7 <= size < 15:
        return f"{value:.6g}"
    return f"{value:.{max(2, 5 - size)}f}".rstrip("0").rstrip(".")


def figure(name: str, value: float | None, more: str = "", unit: str = "") -> list[Figure]:
    """A figure, or nothing where a double cannot hold it."""
    if value is None or not math.isfinite(value):
        return []
    return [Figure(name, written(value) + unit + more, value)]


def name_of(table: Table, column: int) -> str:
    """A column's name on one line; one without a name is called by its number, one of a name that is there twice by both."""
    name = short(table.columns[column])
    if not name:
        return f"column {column + 1}"
    return f"{name} (column {column + 1})" if table.columns.count(table.columns[column]) > 1 else name


def short(text: str, most: int = _NAME) -> str:
    """A text on one line, cut where it is very long, which the sign … tells."""
    text = " ".join(text[: 8 * most].split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def naming_column(table: Table) -> int | None:
    """The first column that names each row: words, none of them empty, no two alike."""
    for index in range(len(table.columns)):
        seen: set[str] = set()
        for row in range(len(table.rows)):
            cell = table.cell(row, index)
            if not cell or cell in seen:
                break
            seen.add(cell)
        else:
            if not table.column(index).numeric:
                return index
    return None


def row_name(table: Table, row: int, naming: int | None) -> str:
    """A row by the word that names it, else by its number from 1, the heading not counted."""
    return f"row {row + 1}" if naming is None else short(table.cell(row, naming))


def grouping_column(table: Table, without: int) -> int | None:
    """The first column of words that has 2 to 8 different ones, each in two rows or more."""
    for index in range(len(table.columns)):
        if index == without:
            continue
        counts: Counter[str] = Counter()
        for row in range(len(table.rows)):
            counts[table.cell(row, index)] += 1
            if len(counts) > MOST_GROUPS + 1:
                break
        counts.pop("", None)
        if 2 <= len(counts) <= MOST_GROUPS and min(counts.values()) > 1 and not table.column(index).numeric:
            return index
    return None


def summed(numbers: Sequence[float]) -> float | None:
    """The sum, None where a double cannot hold it."""
    try:
        return math.fsum(numbers)
    except OverflowError:
        return None


def mean(numbers: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    if not numbers:
        return None
    total = summed(numbers)
    return total / len(numbers) if total is not None else math.fsum(number / len(numbers) for number in numbers)


def median(numbers: Sequence[float]) -> float | None:
    """The middle number, or the mean of the two in the middle; None of nothing."""
    if not numbers:
        return None
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else ordered[middle - 1] / 2 + ordered[middle] / 2


def of_column(table: Table, index: int, naming: int | None) -> list[Figure]:
    """Figures of a column: of its numbers, else of its words."""
    column, name = table.column(index), name_of(table, index)
    rows = [row for row, value in enumerate(column.values) if value is not None]
    numbers = [value for value in column.values if value is not None]
    if not column.numeric:
        return _of_words(table, index, len(numbers))
    lowest, highest = min(rows, key=lambda row: column.values[row] or 0.0), max(rows, key=lambda row: column.values[row] or 0.0)
    out = _by_group(table, index) + figure("number of rows", len(table.rows))
    out += figure(f"number of missing values of {name}", len(table.rows) - len(numbers))
    out += (
        figure(f"sum of {name}", summed(numbers)) + figure(f"mean of {name}", mean(numbers)) + figure(f"median of {name}", median(numbers))
    )
    out += figure(f"minimum of {name}", column.values[lowest], f" ({row_name(table, lowest, naming)})")
    return out + figure(f"maximum of {name}", column.values[highest], f" ({row_name(table, highest, naming)})")


def _of_words(table: Table, index: int, numbers: int) -> list[Figure]:
    name = name_of(table, index)
    cells = [cell for row in range(len(table.rows)) if (cell := table.cell(row, index))]
    counts = Counter(cells)
    out: list[Figure] = []
    for word, count in counts.most_common(_COMMON) if len(counts) < len(cells) else ():
        share = written(100 * count / len(cells))
        out += figure(f"number of rows where {name} is {short(word)}", count, f" ({share} % of the filled cells)")
    out += figure(f"number of cells of {name} that are numbers", numbers) if numbers else []
    out += figure("number of rows", len(table.rows)) + figure(f"number of empty cells of {name}", len(table.rows) - len(cells))
    return out + figure(f"number of different values of {name}", len(counts))


def _by_group(table: Table, index: int) -> list[Figure]:
    """The mean of a column of numbers in each group of rows."""
    grouping = grouping_column(table, index)
    if grouping is None:
        return []
    groups: dict[str, list[float]] = {}
    for row, value in enumerate(table.column(index).values):
        if value is not None and (word := table.cell(row, grouping)):
            groups.setdefault(word, []).append(value)
    name, by = name_of(table, index), name_of(table, grouping)
    return [
        one
        for word, values in groups.items()
        for one in figure(f"mean of {name} where {by} is {short(word)}", mean(values), f" (of {len(values)} rows)")
    ]


def of_cell(table: Table, row: int, index: int, naming: int | None) -> list[Figure]:
    """Figures of one cell among those of its column."""
    return _of_group(table, row, index) + _beside(table, row, index, naming) + _of_value(table, row, index, naming)


def _of_value(table: Table, row: int, index: int, naming: int | None) -> list[Figure]:
    column, value = table.column(index), table.column(index).values[row]
    name, whose = name_of(table, index), row_name(table, row, naming)
    if value is None:
        return _of_word(table, row, index)
    numbers = [other for other in column.values if other is not None]
    larger, as_large = sum(other > value for other in numbers), sum(other == value for other in numbers)
    ties = f", together with {as_large - 1} of the same size" if as_large > 1 else ""
    average, total = mean(numbers), summed(numbers)
    out = figure(f"mean of {name}", average) + figure(f"median of {name}", median(numbers))
    out += figure(f"difference of {whose} from the mean of {name}", None if average is None else value - average)
    if total and min(numbers) >= 0:
        out += figure(f"share of {whose} in the sum of {name}", 100 * value / total, unit=" %")
    out += [Figure(f"rank of {whose} by {name}, the largest first,", f"{larger + 1} of {len(numbers)}{ties}", float(larger + 1))]
    return [*out, Figure(f"{name} of {whose}", table.cell(row, index), value)]


def _of_group(table: Table, row: int, index: int) -> list[Figure]:
    """The mean of the rows that are in the same group as a row."""
    column, grouping = table.column(index), grouping_column(table, index)
    if grouping is None or column.values[row] is None or not (group := table.cell(row, grouping)):
        return []
    alike = [v for other, v in enumerate(column.values) if v is not None and table.cell(other, grouping) == group]
    return figure(
        f"mean of {name_of(table, index)} where {name_of(table, grouping)} is {short(group)}", mean(alike), f" (of {len(alike)} rows)"
    )


def _beside(table: Table, row: int, index: int, naming: int | None) -> list[Figure]:
    """The cells above and below."""
    name, values, out = name_of(table, index), table.column(index).values, []
    for word, other in (("before", row - 1), ("after", row + 1)):
        if values[row] is not None and 0 <= other < len(table.rows):
            out += figure(f"{name} in the row {word}", values[other], f" ({row_name(table, other, naming)})")
    return out


def _of_word(table: Table, row: int, index: int) -> list[Figure]:
    """Figures of a cell of words: how often it is there, and what the numbers beside it are like."""
    word, name = table.cell(row, index), name_of(table, index)
    if not word:
        return [Figure(f"value of {name}", "empty")]
    alike = [other for other in range(len(table.rows)) if table.cell(other, index) == word]
    where = f"where {name} is {short(word)}"
    out = _of_rows_beside_others(table, alike, where) if len(alike) > 1 else []
    out += figure(f"number of rows {where}", len(alike), f" of {len(table.rows)}")
    return out + figure(f"share of the rows {where}", 100 * len(alike) / len(table.rows), unit=" %")


def of_point(table: Table, row: int, index: int, along: int, naming: int | None) -> list[Figure]:
    """Figures of a point of a chart: those of its cell, and the points beside it along the other axis."""
    name, way = name_of(table, index), name_of(table, along)
    values, out = table.column(index).values, _of_group(table, row, index)
    ways = table.column(along).values if table.column(along).numeric else tuple(map(float, range(len(table.rows))))
    drawn = sorted((at, other) for other, at in enumerate(ways) if at is not None and values[other] is not None)
    place = next((at for at, (_, other) in enumerate(drawn) if other == row), None)
    for word, at in (("before", None if place is None else place - 1), ("after", None if place is None else place + 1)):
        if at is not None and 0 <= at < len(drawn):
            other = drawn[at][1]
            out += figure(f"{name} at the point {word}", values[other], f" ({way} {short(table.cell(other, along))})")
    out += _of_value(table, row, index, naming)
    return [*out, Figure(f"{way} of this point", table.cell(row, along) or "empty", table.column(along).values[row])]


def of_rows(table: Table, rows: Sequence[int]) -> list[Figure]:
    """Figures of some rows beside the others."""
    chosen = "of the selected rows"
    return _of_rows_beside_others(table, rows, chosen) + figure("number of selected rows", len(rows), f" of {len(table.rows)}")


def _of_rows_beside_others(table: Table, rows: Sequence[int], which: str) -> list[Figure]:
    chosen, out = set(rows), []
    numeric = (index for index in range(len(table.columns)) if table.column(index).numeric)
    for index in islice(numeric, _COMPARED):
        values, name = table.column(index).values, name_of(table, index)
        ours = [value for row, value in enumerate(values) if value is not None and row in chosen]
        others = [value for row, value in enumerate(values) if value is not None and row not in chosen]
        out += figure(f"mean of {name} of the other rows", mean(others)) if others else []
        out += figure(f"mean of {name} {which}", mean(ours)) + figure(f"sum of {name} {which}", summed(ours)) if len(ours) > 1 else []
    return out
