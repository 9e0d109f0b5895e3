"""A table: read from a file with separators, or from what an answer holds (a Markdown table, a block of CSV or JSON).

The first row names the columns. Rows may be shorter or longer than it: what is missing is empty, and what is too much gets a column
of its own without a name, so that nothing in a file is left out. Reading has limits of size and time.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pydantic
from pydantic import Field

from steelyard.core.errors import DataError, UnsupportedError
from steelyard.serve.places.cells import Column, bare, column_of

SEPARATORS = (",", ";", "\t", "|")
_LOOK = 1024  # rows between two looks at the clock
_DO = "Attach a smaller table, or only the columns and rows that matter."


class TableLimits(pydantic.BaseModel):
    """How large a table may be that is pointed at."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(default=16 * 1024 * 1024, ge=1, description="largest file, in bytes")
    rows: int = Field(default=200_000, ge=1, description="most rows")
    columns: int = Field(default=1000, ge=1, description="most columns")
    cells: int = Field(default=2_000_000, ge=1, description="most cells")
    seconds: float = Field(default=10.0, gt=0, description="longest time to read it, in seconds")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of the file, or of what it is in an answer.
        columns: the headings; one may be empty.
        rows: cells as they stand; a row may be shorter than the headings.
        separator: between the cells of a row.
    """

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    separator: str = ","
    _read: dict[int, Column] = field(default_factory=dict, repr=False, compare=False)

    def cell(self, row: int, column: int) -> str:
        """A cell as it stands, without the spaces at its ends; empty where the row is too short."""
        cells = self.rows[row]
        return bare(cells[column]) if column < len(cells) else ""

    def column(self, index: int) -> Column:
        """What the cells of a column are."""
        if index not in self._read:
            cells = [row[index] if index < len(row) else "" for row in self.rows]
            self._read[index] = column_of(cells, self.separator)
        return self._read[index]


def read_csv(content: str, name: str, limits: TableLimits) -> Table:
    """A table from text with commas, semicolons, tabs or bars between its cells.

    Raises:
        DataError: it has no rows below its heading, or a cell without end.
        UnsupportedError: it is larger than the limits allow, or takes longer to read.
    """
    if len(content) > limits.bytes or len(content.encode("utf-8", "surrogatepass")) > limits.bytes:
        raise UnsupportedError(f"a table of more than {limits.bytes:,} bytes", where=name, do=_DO)
    content = content.removeprefix("\ufeff")
    separator = separator_of(content)
    try:
        return table_of(csv.reader(io.StringIO(content, newline=""), delimiter=separator), name, limits, separator)
    except csv.Error as error:
        raise DataError(f"this is no table: {error}", where=name, do="Look for a quotation mark that is never closed.") from error


def separator_of(content: str) -> str:
    """What stands most often, outside quotation marks, in the first line that holds anything."""
    counts, quoted = dict.fromkeys(SEPARATORS, 0), False
    for character in content.lstrip("\r\n"):
        if character == '"':
            quoted = not quoted
        elif not quoted and character in "\r\n":
            break
        elif not quoted and character in counts:
            counts[character] += 1
    return max(SEPARATORS, key=counts.__getitem__)


def table_of(cells: Iterable[Sequence[str]], name: str, limits: TableLimits, separator: str = ",") -> Table:
    """A table of rows of which the first is the heading; rows without any cell are left out.

    Raises:
        DataError: there are no rows below the heading.
        UnsupportedError: it is larger than the limits allow, or takes longer to read.
    """
    filled = (row for row in _within(cells, name, limits) if len(row) > 1 or (row and row[0] != ""))
    heading = next(filled, None)
    rows = list(filled)
    if heading is None or not rows:
        raise DataError("there are no rows below the heading", where=name, do="Its first row should name the columns.")
    width = max(len(heading), max(map(len, rows)))
    columns = tuple(bare(cell) for cell in heading) + ("",) * (width - len(heading))
    return Table(name, columns, rows, separator)


def _within(rows: Iterable[Sequence[str]], name: str, limits: TableLimits) -> Iterator[Sequence[str]]:
    began, cells = time.monotonic(), 0
    for number, row in enumerate(rows):
        cells += len(row)
        if number > limits.rows or len(row) > limits.columns or cells > limits.cells:
            most = f"{limits.rows:,} rows, {limits.columns:,} columns and {limits.cells:,} cells"
            raise UnsupportedError(f"the table is larger than {most}", where=name, do=_DO)
        if number % _LOOK == 0 and time.monotonic() - began > limits.seconds:
            raise UnsupportedError(f"reading the table took longer than {limits.seconds:g} s", where=name, do=_DO)
        yield row


_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n]*\n(.*)", re.DOTALL)
_RULE = re.compile(r"[ \t]*:?-+:?[ \t]*")
_CELL_END = re.compile(r"(?<!\\)\|")
_MARKS = re.compile(r"(\*\*|__|\*|`)(.+?)\1")


def table_in(text: str, name: str, limits: TableLimits) -> Table:
    """The table that a stretch of an answer is: a Markdown table, or a fenced block of `csv`, `tsv` or `json`.

    Raises:
        DataError: it is neither, or the block cannot be read.
        UnsupportedError: it is larger than the limits allow.
    """
    if len(text) > limits.bytes:
        raise UnsupportedError(f"a table of more than {limits.bytes:,} bytes", where=name, do=_DO)
    if fenced := _FENCE.fullmatch(text):
        mark, language, content = fenced.groups()
        content = re.sub(rf"\n? {{0,3}}{re.escape(mark[0])}{{{len(mark)},}}\s*\Z", "", content)
        match language.lower():
            case "csv" | "tsv":
                return read_csv(content, name, limits)
            case "json":
                return table_of(_json_rows(content, name), name, limits)
    lines = text.strip("\n").split("\n")
    if len(lines) > 2 and all(map(_RULE.fullmatch, _split(lines[1]))):
        return table_of((_split(line) for number, line in enumerate(lines) if number != 1 and line.strip()), name, limits, "|")
    raise DataError(
        "there is no table at this place of the message", where="source", do="Point at a Markdown table or a block of CSV or JSON."
    )


def _split(line: str) -> list[str]:
    """The cells of a line of a Markdown table, without the marks of emphasis and code around their words."""
    line = line.strip()
    cells = _CELL_END.split(line.removeprefix("|"))
    if len(cells) > 1 and line.endswith("|") and not cells[-1].strip():
        cells.pop()
    return [_MARKS.sub(r"\2", bare(cell.replace("\\|", "|"))) for cell in cells]


def _json_rows(content: str, name: str) -> list[list[str]]:
    """The rows of a JSON list of objects, of lists, or of an object whose values are lists of one length."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError("the block is no JSON", where=name, do="Point at another table.") from error
    if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
        columns = list(value.values())
        if len({len(one) for one in columns}) == 1:
            return [list(value), *([_json_cell(cell) for cell in row] for row in zip(*columns, strict=True))]
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        keys = list(dict.fromkeys(key for row in value for key in row))
        return [keys, *([_json_cell(row.get(key)) for key in keys] for row in value)]
    elif isinstance(value, list) and value and all(isinstance(one, list) for one in value):
        return [[_json_cell(cell) for cell in row] for row in value]
    raise DataError("this JSON is no table", where=name, do="A table is a list of objects, a list of lists, or lists by name.")


def _json_cell(value: object) -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
