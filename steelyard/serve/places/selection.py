"""What can be pointed at: a column, a cell, a point of a chart or rows of a table, and a stretch of a message."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from steelyard.serve.bounded import Bounded

MOST_ROWS = 1000
"""Most rows that are pointed at together."""
Index = Annotated[int, Field(ge=0, lt=2**31)]


class _Fixed(Bounded):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


class FileSource(_Fixed):
    """A table in an attached file."""

    attachment: str = Field(max_length=64, description="id of the attachment")


class MessageSource(_Fixed):
    """A stretch of a message: a sentence, or the table that it is."""

    message: str = Field(max_length=64, description="id of the message")
    start: Index = Field(description="first character of the stretch in the message's text, counted in Unicode code points")
    end: Index = Field(description="the character after its last")


class ColumnSelection(_Fixed):
    """A whole column."""

    kind: Literal["column"]
    column: Index = Field(description="which, from 0")


class CellSelection(_Fixed):
    """One cell."""

    kind: Literal["cell"]
    row: Index = Field(description="which, from 0, without the heading")
    column: Index


class PointSelection(_Fixed):
    """One point of a chart: a cell, and the column that is drawn along the other axis."""

    kind: Literal["point"]
    row: Index
    column: Index
    along: Index = Field(description="the column along which it is drawn")


class RowsSelection(_Fixed):
    """Some rows."""

    kind: Literal["rows"]
    rows: tuple[Index, ...] = Field(min_length=1, max_length=MOST_ROWS, description="which, from 0", strict=False)


class SentenceSelection(_Fixed):
    """The stretch itself, as it reads on the page."""

    kind: Literal["sentence"]


TableSelection = ColumnSelection | CellSelection | PointSelection | RowsSelection
Selection = Annotated[TableSelection | SentenceSelection, Field(discriminator="kind")]
Source = FileSource | MessageSource
