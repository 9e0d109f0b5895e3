"""What a person sees of long work where no terminal can draw bars."""

from __future__ import annotations

import io

from rich.console import Console

from steelyard.core.progress import Lines, shown, spoken


def test_lines_come_every_half_minute_with_the_time_left():
    now, lines = [0.0], []
    told = Lines(lines.append, every=30.0, clock=lambda: now[0])
    for second in range(0, 100, 5):
        now[0] = float(second)
        told("base: facts", 20 + second, 200, "all answers: 9 min left" if second > 40 else "")
    assert lines == [
        "base: facts: 50 of 200, 2 min left",
        "base: facts: 80 of 200, 2 min left; all answers: 9 min left",
        "base: facts: 110 of 200, 90 s left; all answers: 9 min left".replace("90 s", "2 min"),
    ]


def test_a_task_that_stands_still_or_is_done_foretells_nothing():
    now, lines = [0.0], []
    told = Lines(lines.append, every=1.0, clock=lambda: now[0])
    told("a", 3, 9, "")
    for done, total in ((3, 9), (9, 9), (0, 0)):
        now[0] += 2
        told("a" if total else "b", done, total, "")
    assert lines == ["a: 3 of 9", "a: 9 of 9", "b: 0 of 0"]


def test_where_output_is_no_terminal_short_work_prints_nothing():
    text = io.StringIO()
    with shown(Console(file=text)) as told:
        told("base: [facts]", 1, 2, "")
        told("base: [facts]", 2, 2, "")
    assert text.getvalue() == ""


def test_time_is_told_as_a_person_would():
    assert [spoken(seconds) for seconds in (0.4, 89, 90, 3600, 7200)] == ["0 s", "89 s", "2 min", "60 min", "2.0 h"]
