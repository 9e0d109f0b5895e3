"""What a person sees of long work where no terminal can draw bars."""

from __future__ import annotations

import io

from rich.console import Console

from steelyard.core.progress import Lines, about, shown


def test_lines_come_every_half_minute_with_the_time_left():
    now, lines = [0.0], []
    told = Lines(lines.append, every=30.0, clock=lambda: now[0])
    for second in range(0, 100, 5):
        now[0] = float(second)
        told("base: facts", 20 + second, 200, "step 3" if second > 40 else "")
    assert lines == [
        "base: facts: 50 of 200, about 2 min left",
        "base: facts: 80 of 200, about 2 min left; step 3",
        "base: facts: 110 of 200, about 90 s left; step 3",
    ]


def test_where_the_time_for_everything_is_told_no_second_one_stands_beside_it():
    now, lines = [0.0], []
    told = Lines(lines.append, every=1.0, clock=lambda: now[0])
    screen = io.StringIO()
    with shown(Console(file=screen, force_terminal=True, width=200)) as drawn:
        for done in (0, 2, 4):
            now[0] += 2
            for one in (told, drawn):
                one("base: facts", done, 4, "about 9 min left in all")
    assert lines == [f"base: facts: {done} of 4; about 9 min left in all" for done in (0, 2, 4)]
    assert screen.getvalue().splitlines()[-1].count("left") == 0, "a bar that stays tells nothing of what was left then"


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


def test_time_is_told_no_finer_than_it_is_known():
    told = [about(seconds) for seconds in (0.4, 44, 94, 95, 3600, 5399, 5400, 7200)]
    assert told == [f"about {what}" for what in ("10 s", "40 s", "90 s", "2 min", "60 min", "90 min", "1.5 h", "2.0 h")]
