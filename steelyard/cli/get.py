"""`steelyard get [NAME]`: download a model or corpus, or list what is known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from steelyard.cli.completion import known_names
from steelyard.cli.output import console, print_json, say_on, size


def get(
    name: Annotated[
        str | None, typer.Argument(help="A known name or hf:org/name; left out, all known ones are listed.", autocompletion=known_names)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read every byte again and compare it with what was pinned.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Download a model or corpus, or list what is known.

    What is downloaded is verified against pinned digests and kept; what is there already is left alone.
    """
    from steelyard.core import get as getting

    if name is None:
        return _list(as_json)
    if check:
        path = getting.verify(name)
    else:
        with _progress() as progress:
            path = getting.get(name, say_on(as_json), progress)
    if as_json:
        print_json({"name": name, "path": str(path), "bytes": _bytes(path)})
    else:
        print(f"{name} is at {path} ({size(_bytes(path))})")


def _list(as_json: bool) -> None:
    from steelyard.core.get import KNOWN, is_got

    rows = [
        {"name": each.name, "kind": each.kind, "about": each.about, "license": each.license, "bytes": each.size, "got": is_got(each.name)}
        for each in KNOWN.values()
    ]
    if as_json:
        return print_json({"known": rows})
    from rich.table import Table

    table = Table("name", "kind", "size", "here", "about", box=None, header_style="bold")
    for row in rows:
        table.add_row(row["name"], row["kind"], size(row["bytes"]), "yes" if row["got"] else "no", row["about"])
    console().print(table)
    console().print("Anything on the Hugging Face Hub: steelyard get hf:org/name", style="dim")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error, where somebody watches; else nothing."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    with Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=out, transient=True) as bar:
        task = bar.add_task("download", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bytes(path: Any) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
