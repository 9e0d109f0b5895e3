"""Columns of text in tables: Parquet files (extra `parquet`) and Hugging Face data sets (extra `datasets`), a batch of rows at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steelyard.core.errors import DataError
from steelyard.data.formats import BadRow, UnusableRow
from steelyard.data.texts.document import Checked, Document
from steelyard.data.texts.files import MOST_BAD_ROWS, FilePart, add, long_text, usable

DATASETS = "datasets:"
"""What names of Hugging Face data sets begin with."""
ROWS = 256


@dataclass
class ParquetPart(FilePart):
    """A Parquet file, one of whose columns holds texts."""

    column: str

    def check(self) -> Checked:
        import_pyarrow(self.where)
        import pyarrow

        try:
            self.state.mark()
            return check_rows(self._values(), self.column)
        except pyarrow.ArrowException as error:
            return Checked(unusable=f"not readable as Parquet: {str(error)[:200]}")
        except OSError as error:
            return Checked(unusable=f"cannot be read: {error.strerror or str(error)[:200]}")
        except UnusableRow as problem:
            return Checked(unusable=str(problem))

    def documents(self) -> Iterator[Document]:
        self.state.verify()
        return row_documents(self._values(), self.column, self.where)

    def _values(self) -> Iterator[Any]:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path) as file:
            columns = file.schema_arrow.names
            if self.column not in columns:
                raise UnusableRow(f"no column `{self.column}` (it has {', '.join(columns)[:200]})")
            for batch in file.iter_batches(ROWS, columns=[self.column]):
                yield from values(batch.column(0))


@dataclass
class DatasetPart:
    """One split of a Hugging Face data set, read from the library's memory-mapped cache."""

    name: str
    config: str | None
    split: str
    column: str
    _loaded: Any = None

    @classmethod
    def named(cls, name: str, column: str) -> DatasetPart:
        """From `datasets:NAME`, `datasets:NAME:SPLIT` or `datasets:NAME:CONFIG:SPLIT`; the split is `train` unless named."""
        parts = name.removeprefix(DATASETS).split(":")
        if not all(parts) or len(parts) > 3:
            raise DataError(
                "not the name of a data set", where=name, do="Write datasets:NAME, datasets:NAME:SPLIT or datasets:NAME:CONFIG:SPLIT."
            )
        config = parts[1] if len(parts) == 3 else None
        return cls(parts[0], config, parts[-1] if len(parts) > 1 else "train", column)

    @property
    def where(self) -> str:
        return DATASETS + ":".join(part for part in (self.name, self.config, self.split) if part)

    def check(self) -> Checked:
        columns = self._table().column_names
        if self.column not in columns:
            what = f"it has no column `{self.column}`, but {', '.join(columns)}"
            raise DataError(what, where=self.where, do="Name the text's column: `column: ...`.")
        return check_rows(self._values(), self.column)

    def documents(self) -> Iterator[Document]:
        return row_documents(self._values(), self.column, self.where)

    def _values(self) -> Iterator[Any]:
        table = self._table()
        for start in range(0, len(table), ROWS):
            yield from table[start : start + ROWS][self.column]

    def _table(self) -> Any:
        if self._loaded is None:
            try:
                import datasets
                from datasets.exceptions import DatasetsError
            except ImportError as error:
                raise DataError(
                    "datasets:... needs the package datasets, which is not installed",
                    where=self.where,
                    do='Install the extra: pip install "steelyard[datasets]"',
                ) from error
            try:
                self._loaded = datasets.load_dataset(self.name, self.config, split=self.split)
            except (OSError, ValueError, DatasetsError) as error:
                raise DataError(
                    f"the data set cannot be had: {str(error)[:400]}",
                    where=self.where,
                    do="Check its name, its configuration, its split and the network.",
                ) from error
        return self._loaded


def import_pyarrow(where: str) -> None:
    """Says what to install where Parquet cannot be read.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DataError(
            "reading Parquet needs the package pyarrow, which is not installed",
            where=where,
            do='Install the extra: pip install "steelyard[parquet]"',
        ) from error


def values(column: Any) -> Iterator[Any]:
    """A column's values; text that is no UTF-8 is given as its bytes, so that one bad row does not take the file with it."""
    for value in column:
        try:
            yield value.as_py()
        except UnicodeDecodeError:
            yield b""


def check_rows(rows: Iterator[Any], column: str) -> Checked:
    """What reading a column through found out. Rows are numbered from 1."""
    content, bad, good = hashlib.sha256(), [], 0
    for number, value in enumerate(rows, start=1):
        try:
            add(content, _usable(value, column))
            good += 1
        except UnusableRow as problem:
            bad.append(BadRow(number, str(problem)))
            if len(bad) == MOST_BAD_ROWS:
                return Checked(unusable=f"more than {MOST_BAD_ROWS} rows cannot be used; row {bad[0].line}: {bad[0].reason}")
    if not good and not bad:
        return Checked(unusable="empty")
    return Checked(f"rows:{content.hexdigest()}", good, tuple(bad))


def row_documents(rows: Iterator[Any], column: str, where: str) -> Iterator[Document]:
    """The usable rows of a column."""
    for number, value in enumerate(rows, start=1):
        try:
            text = _usable(value, column)
        except UnusableRow:  # named by `check_rows`
            continue
        yield from long_text(text, f"{where}:{number}")


def _usable(value: Any, column: str) -> str:
    if isinstance(value, bytes):
        raise UnusableRow(f"`{column}` is not UTF-8 text")
    return usable(value, column)
