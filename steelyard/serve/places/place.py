"""A place: what a person points at, with its figures and rows, as the text that goes to the model with the question.

The text is all that a model gets of it and all that is stored, so that the page can show a person exactly what is sent along.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.core.errors import DataError
from steelyard.serve.places.cells import bare, number_of
from steelyard.serve.places.figures import (
    Figure,
    name_of,
    naming_column,
    of_cell,
    of_column,
    of_point,
    of_rows,
    row_name,
    short,
)
from steelyard.serve.places.selection import CellSelection, ColumnSelection, PointSelection, RowsSelection, TableSelection
from steelyard.serve.places.table import Table

ROWS = 20
"""Most rows of which cells are sent along; how many there are is always said."""
COLUMNS = 24
"""Most columns of a row that are sent along."""
SENTENCE = 8000
"""Most characters of a sentence that is pointed at."""
_TEXT = 12_000  # characters of a table's place: rows are left out, and counted, beyond it


@dataclass(frozen=True)
class Told:
    """What there is to say of a place.

    Attributes:
        label: what was pointed at, in a few words.
        text: what the model reads.
        figures: the numbers in it.
    """

    label: str
    text: str
    figures: tuple[Figure, ...]


def of_table(table: Table, selection: TableSelection, shown: str | None = None) -> Told:
    """The place of a selection in a table.

    Args:
        table: as the server reads it.
        selection: what is pointed at.
        shown: what the page shows there: the column's name or the cell. Where that is not what the server reads, nothing is told.

    Raises:
        DataError: the selection is outside the table, or the page shows something else there.
    """
    _check(table, selection)
    naming = naming_column(table)
    match selection:
        case ColumnSelection(column=column):
            _agree(shown, table.columns[column])
            label, figures = f"column {name_of(table, column)}", of_column(table, column, naming)
            rows = [row for row in range(len(table.rows)) if table.cell(row, column)]
            listed = [f"{row_name(table, row, naming)}: {short(table.cell(row, column))}" for row in rows[:ROWS]]
            if naming == column:
                listed = [short(table.cell(row, column)) for row in rows[:ROWS]]
            heading = _counted("The cells", len(listed), len(rows))
        case CellSelection(row=row, column=column):
            _agree(shown, table.cell(row, column))
            label, figures = f"{name_of(table, column)} of {row_name(table, row, naming)}", of_cell(table, row, column, naming)
            heading, listed = "The row:", _row(table, row)
        case PointSelection(row=row, column=column, along=along):
            _agree(shown, table.cell(row, column))
            label = f"{name_of(table, column)} at {name_of(table, along)} {short(table.cell(row, along)) or 'empty'}"
            figures = of_point(table, row, column, along, naming)
            heading, listed = "The row:", _row(table, row)
        case RowsSelection(rows=chosen):
            rows = sorted(set(chosen))
            label = row_name(table, rows[0], naming) if len(rows) == 1 else f"{len(rows)} rows"
            figures = of_rows(table, rows)
            listed = ["; ".join(_row(table, row)) for row in rows[:ROWS]]
            heading = _counted("The rows", len(listed), len(rows))
    return Told(label, _text(table, label, figures, heading, listed), tuple(figures))


def quoting(sentences: Sequence[str]) -> str:
    """The regex of an answer that is one of the sentences, as `constraint` takes it."""
    return "|".join(re.sub(r"[\\.+*?()|\[\]{}^$]", lambda sign: "\\" + sign[0], sentence) for sentence in sentences)


def of_sentence(text: str) -> Told:
    """The place of a stretch of a message.

    Raises:
        DataError: it holds nothing, or too much.
    """
    if not text.strip():
        raise DataError("there is nothing at this place of the message", where="source", do="Point at some words.")
    if len(text) > SENTENCE:
        raise DataError(f"{len(text):,} characters, of which {SENTENCE:,} are allowed", where="source", do="Point at fewer words.")
    return Told(
        f"“{short(text, 60)}”", "About these words of an earlier message:\n" + "\n".join(f"> {line}" for line in text.split("\n")), ()
    )


def _text(table: Table, label: str, figures: list[Figure], heading: str, listed: list[str]) -> str:
    """Rows first, figures last: what is nearest to the question is repeated best (measured on 135M only)."""
    told = [f"Figures computed by the server from all {len(table.rows)} rows:", *(one.sentence for one in figures)]
    lines = [f"About {label} in {short(table.name)}.", heading]
    room = _TEXT - sum(len(line) + 1 for line in (*lines, *told))
    for number, line in enumerate(listed):
        room -= len(line) + 1
        if room < 0:
            lines.append(f"({len(listed) - number} more are too long to be listed)")
            break
        lines.append(line)
    return "\n".join(lines + told)


def _counted(what: str, listed: int, all: int) -> str:
    return f"{what}:" if listed == all else f"{what}, the first {listed} of {all}:"


def _row(table: Table, row: int) -> list[str]:
    """The filled cells of a row, each with its column's name."""
    filled = [index for index in range(len(table.columns)) if table.cell(row, index)]
    cells = [f"{name_of(table, index)}: {short(table.cell(row, index))}" for index in filled[:COLUMNS]]
    return cells + ([f"({len(filled) - COLUMNS} more columns)"] if len(filled) > COLUMNS else [])


def _check(table: Table, selection: TableSelection) -> None:
    columns = [value for name in ("column", "along") if (value := getattr(selection, name, None)) is not None]
    rows = (
        list(selection.rows)
        if isinstance(selection, RowsSelection)
        else [row for row in (getattr(selection, "row", None),) if row is not None]
    )
    for what, wanted, there in (("column", columns, len(table.columns)), ("row", rows, len(table.rows))):
        if outside := [one for one in wanted if one >= there]:
            raise DataError(
                f"there is no {what} {outside[0]} in {short(table.name)}: it has {there:,} {what}s, numbered from 0",
                where=f"selection.{what}",
                do="Point at something within the table.",
            )


def _agree(shown: str | None, read: str) -> None:
    """Holds the page to the server: numbers computed of other cells than those on the screen would be worse than none."""
    if shown is None or bare(shown) == read:
        return
    number = number_of(shown)
    if number is None or number != number_of(read):
        raise DataError(
            f"the page shows {short(shown, 40)!r} there, and the server reads {short(read, 40)!r}",
            where="shown",
            do="Open the table again; if that does not help, save it with quotation marks around every cell.",
        )
