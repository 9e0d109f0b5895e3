"""A terminal's progress bar with the time left, fed through `Run.progress`. Where nobody watches, nothing is drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def shown(console: Console | None = None) -> Iterator[Callable[[str, int, int, str], None]]:
    """Yields what `Run.progress` wants. Bars go to standard error, one for each task, and only if it is a terminal."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda task, done, total, note: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bar:

        def update(task: str, done: int, total: int, note: str) -> None:
            if task not in tasks:
                tasks[task] = bar.add_task(task, total=total, completed=done, note=note)
            bar.update(tasks[task], completed=done, total=total, note=note)

        yield update
