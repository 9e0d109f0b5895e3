"""Rows of any table a task is made from: JSONL, JSON, CSV, TSV, or a data set of the hub by name and revision.

Every row is checked before anything runs, and all bad ones are named in one error, as `rows.read_rows` does for JSONL.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from steelyard.core.errors import DataError
from steelyard.data.checks.json_answers import read_json
from steelyard.data.formats import BadRow, describe
from steelyard.weigh.tasks.rows import LARGEST_ROW, BadValue, Numbering, Row, encodable, object_of, read_file

Form = Literal["jsonl", "json", "csv", "tsv"]
FORMS: Mapping[str, Form] = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
Check = Callable[[Mapping[str, Any]], None]
_REVISION = re.compile(r"[0-9a-f]{40}")
DEEPEST = 50  # levels that a row may nest


def read_table(path: Path, check: Check, *, form: Form | None = None, at: str = "", columns: Sequence[str] = ()) -> list[Row]:
    """Every row of a file.

    Args:
        path: the file.
        check: raises `BadValue` for a row that cannot be used.
        form: what the file is; by default what its name ends in says.
        at: for JSON, the keys to the list of rows, with dots between them; "" where the file is the list.
        columns: for CSV and TSV, the columns' names where the file has no line of them.

    Raises:
        DataError: the file cannot be read, or rows cannot be used; all of these are named.
    """
    form = form or FORMS.get(path.suffix.lower())
    if form is None:
        raise DataError(f"rows are not read from {path.suffix or 'a file without ending'}", where=str(path), do=f"Use {', '.join(FORMS)}.")
    content = read_file(path)
    if form == "jsonl":
        lines = ((number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip())
        return checked(str(path), ((number, lambda line=line: _mapping(object_of(line))) for number, line in lines), check)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 (byte {error.start + 1})", where=str(path), do=f"Convert it: iconv -t utf-8 {path.name}") from error
    items = _json_items(text, at, path) if form == "json" else _table_items(text, form, columns, path)
    return checked(str(path), ((number, lambda item=item: _mapping(item)) for number, item in items), check)


def checked(where: str, items: Iterable[tuple[int, Callable[[], Mapping[str, Any]]]], check: Check) -> list[Row]:
    """Rows with their ids, or one error that names every bad one.

    Args:
        where: what the rows come from.
        items: each row's number and what reads it.
        check: raises `BadValue` for a row that cannot be used.
    """
    rows, bad, ids = [], [], Numbering()
    for number, read in items:
        try:
            value = read()
            check(value)
        except BadValue as problem:
            bad.append(BadRow(number, str(problem)))
            continue
        rows.append(Row(number, value, ids.of(value)))
    if bad:
        what = f"{len(bad)} of {len(bad) + len(rows)} rows cannot be used:\n{describe(bad)}"
        raise DataError(what, where=where, do="Correct them or take them out.")
    if not rows:
        raise DataError("there are no rows in it", where=where, do="Give a file with rows.")
    return rows


def read_hub(name: str, check: Check, *, config: str | None = None, split: str = "test", revision: str | None = None) -> list[Row]:
    """Every row of a split of a Hugging Face data set (extra `datasets`).

    Args:
        name: such as `allenai/ai2_arc`.
        check: raises `BadValue` for a row that cannot be used.
        config: the configuration, where it has several.
        split: which split.
        revision: the commit, 40 hexadecimal digits: what is weighed must not change under its name.

    Raises:
        DataError: the library or the data set cannot be had, or rows cannot be used.
    """
    where = ":".join(part for part in (f"datasets:{name}", config, split) if part)
    if revision is None or not _REVISION.fullmatch(revision):
        raise DataError(
            f"{revision!r} is no commit" if revision else "it says no revision",
            where=where,
            do="Set `revision` to a commit of the data set (40 hexadecimal digits, shown on its page under Files), or give a local `path`.",
        )
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise DataError("the package datasets is not installed", where=where, do='Install it: pip install "steelyard[datasets]"') from error
    try:
        table = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(
            f"the data set cannot be had: {str(error)[:400]}", where=where, do="Check the network, or give a local `path` with its rows."
        ) from error
    return checked(where, ((number, lambda row=row: _mapping(row)) for number, row in enumerate(table, start=1)), check)


def _json_items(text: str, at: str, path: Path) -> list[tuple[int, Any]]:
    try:
        value = read_json(text)
    except (json.JSONDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=str(path), do="Is this the right file?") from None
    for key in at.split(".") if at else ():
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(sorted(value)) if isinstance(value, dict) else "none"
            raise DataError(f"there is no `{key}` in it (asked for by `at: {at}`)", where=str(path), do=f"Keys there: {known[:200]}.")
        value = value[key]
    if not isinstance(value, list):
        raise DataError("what should be the list of rows is none", where=str(path), do="Name the keys to it: `at: examples`.")
    return list(enumerate(value, start=1))


def _table_items(text: str, form: Form, columns: Sequence[str], path: Path) -> list[tuple[int, Any]]:
    before = csv.field_size_limit(LARGEST_ROW)  # the module's, not the reader's: others have their own
    # Tab-separated files are written without quotes; a quote in a text is a letter there.
    style: dict[str, Any] = {} if form == "csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **style)
    items: list[tuple[int, Any]] = []
    names = list(columns)
    try:
        for cells in reader:
            if not cells:
                continue
            if not names:
                names = cells
                if len(set(names)) != len(names):
                    raise DataError("two columns have the same name", where=f"{path}:1", do="Name them apart in its first line.")
                continue
            fits = len(cells) == len(names)
            items.append((reader.line_num, dict(zip(names, cells, strict=True)) if fits else BadValue(_unequal(cells, names))))
    except csv.Error as error:
        raise DataError(f"not {form.upper()}: {error}", where=f"{path}:{reader.line_num}", do="Is this the right file?") from None
    finally:
        csv.field_size_limit(before)
    return items


def _unequal(cells: list[str], names: list[str]) -> str:
    return f"has {len(cells)} cells where the columns are {len(names)}"


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, BadValue):
        raise value
    if not isinstance(value, dict):
        raise BadValue("not an object with columns")
    _encodable(value, "")
    return value


def _encodable(value: Any, key: str, level: int = 0) -> None:
    """Refuses half surrogate pairs, and nesting without end, wherever they stand in a row."""
    if level > DEEPEST:
        raise BadValue(f"nests more than {DEEPEST} levels deep")
    if isinstance(value, str):
        encodable(value, key)
    elif isinstance(value, dict):
        for name, each in value.items():
            encodable(str(name), "a key")
            _encodable(each, key or str(name), level + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            _encodable(each, key, level + 1)
