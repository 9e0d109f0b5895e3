"""`details/*.js` beside the page: the text of every record, loaded on demand.

A page opened from a disk may not read files, but it may run scripts beside it; so each file is a script that hands its rows,
as JSON, to a function of the page. A file holds one arm on one task, or a part of it where that would be too much to load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steelyard.core.files import write_text
from steelyard.weigh.report.json import plain
from steelyard.weigh.report.visible import clip, visible

FOLDER = "details"
PART = 1_500_000  # characters of JSON in one file, about
LONGEST = 200_000  # characters of one text; a browser has to hold all answers of an arm on a task at once
_OURS = re.compile(r"\d{3,}-[a-z0-9-]*\.js")


def write_details(directory: Path, details: Mapping[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Writes the files and removes those of an earlier writing.

    Args:
        directory: where the page lies.
        details: (arm, task) -> rows with `question`, `expected`, `text`, `values` (metric -> number) and, to find the same
            sample in two arms, `sample`.

    Returns:
        What the page needs to know to load them: one entry per arm and task with `arm`, `task`, `rows` and `files`.
    """
    folder, manifest, written = directory / FOLDER, [], set()
    for (arm, task), rows in details.items():
        files = []
        for part in _parts(_row(place, row) for place, row in enumerate(rows)):
            name = f"{len(written):03d}-{_slug(arm)}-{_slug(task)}.js"
            write_text(folder / name, f"steelyardDetails({_literal(arm)},{_literal(task)},[\n{','.join(part)}\n]);\n")
            written.add(name)
            files.append(f"{FOLDER}/{name}")
        manifest.append({"arm": visible(arm), "task": visible(task), "rows": len(rows), "files": files})
    for old in folder.glob("*.js"):
        if _OURS.fullmatch(old.name) and old.name not in written:
            old.unlink()
    return manifest


def _row(place: int, row: Mapping[str, Any]) -> str:
    """A row as JSON. Texts are made visible here, so that the page need only show them."""
    kept = {key: _shown(row.get(key, "")) for key in ("question", "expected", "text")}
    values = {visible(key): value for key, value in dict(row.get("values") or {}).items()}
    return _literal({"sample": visible(row.get("sample", row.get("id", place))), **kept, "values": values})


def _shown(text: Any) -> str:
    text, left = clip(str(text), LONGEST)
    return visible(text) + (f" … {left:,} more characters in records.sqlite" if left else "")


def _parts(rows: Iterable[str]) -> Iterable[list[str]]:
    part, size = [], 0
    for row in rows:
        if part and size + len(row) > PART:
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row)
    if part:
        yield part


def _literal(value: Any) -> str:
    """JSON in ASCII, which is the same in JavaScript and cannot end a script element."""
    text = json.dumps(plain(visible(value) if isinstance(value, str) else value), ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
