"""How far long work is, with the time left, fed through `Run.progress`: bars on a terminal, a line every half minute elsewhere.

A note that ends in `LEFT` tells the time that everything takes; the time that this task alone takes is then not told beside it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

EVERY = 30.0  # seconds between two lines
LEFT = " left in all"


class Lines:
    """Progress as plain lines, one in so many seconds at most, for logs and for output that is read later.

    Args:
        say: receives the lines.
        every: seconds between two of them, and before the first.
        clock: tells seconds.
    """

    def __init__(self, say: Callable[[str], object], every: float = EVERY, clock: Callable[[], float] = time.monotonic):
        self._say, self._every, self._clock = say, every, clock
        self._last = clock()
        self._task, self._begun, self._first = "", 0.0, 0

    def __call__(self, task: str, done: int, total: int, note: str) -> None:
        now = self._clock()
        if task != self._task:
            self._task, self._begun, self._first = task, now, done
        if now - self._last < self._every:
            return
        self._last = now
        new, left = done - self._first, ""
        if new > 0 and done < total and not note.endswith(LEFT):
            left = f", {about((total - done) * (now - self._begun) / new)} left"
        self._say(f"{task}: {done} of {total}{left}" + (f"; {note}" if note else ""))


def about(seconds: float) -> str:
    """A guess at a stretch of time as a person would say it, no finer than it is known."""
    if seconds < 95:
        return f"about {max(round(seconds / 10), 1) * 10} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


class _Left(ProgressColumn):
    """The time left: a task's own, or what its note tells of everything."""

    def render(self, task: Task) -> Text:
        note, seconds = task.fields["note"], task.time_remaining
        if note.endswith(LEFT) or seconds is None or task.finished:
            return Text("")
        return Text(f"{about(seconds)} left")


@contextlib.contextmanager
def shown(console: Console | None = None) -> Iterator[Callable[[str, int, int, str], None]]:
    """Yields what `Run.progress` wants. Standard error gets a bar for each task if it is a terminal, and lines if it is not."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        _Left(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bar:

        def update(task: str, done: int, total: int, note: str) -> None:
            if task not in tasks:
                tasks[task] = bar.add_task(task, total=total, completed=done, note=note)
            over = done >= total and note.endswith(LEFT)  # a bar that stays must not go on telling what was left then
            bar.update(tasks[task], completed=done, total=total, note="" if over else note)

        yield update
