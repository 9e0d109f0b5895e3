"""`steelyard report RUN`: a run's report again, in other forms; `steelyard report A B`: two runs of different days, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.output import console, print_json, say_on
from steelyard.core.errors import SteelyardError

if TYPE_CHECKING:
    from steelyard.weigh.kept.between import Between
    from steelyard.weigh.report.report import Report

FORMS = ("markdown", "csv", "lm-eval", "html", "json")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [OTHER]", help="A run's directory; two to compare them.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="All cells as CSV.")] = False,
    lm_eval: Annotated[bool, typer.Option("--lm-eval", help="In lm-eval's layout, one arm; with -o DIRECTORY all, with samples.")] = False,
    html: Annotated[bool, typer.Option("--html", help="As a page; needs -o.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False,
    arms: Annotated[list[str] | None, typer.Option("--arm", metavar="NAME", help="Only this arm; of two runs also NAME=OTHER.")] = None,
    tasks: Annotated[list[str] | None, typer.Option("--task", metavar="NAME", help="Only this task.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; standard output if left out.")] = None,
) -> None:
    """Show a report again, export it, or compare two runs.

    Two runs are compared sample by sample where both answered the same; runs with unequal tasks, settings or seeds are refused.
    """
    asked = [form for form, wanted in zip(FORMS, (markdown, csv, lm_eval, html, as_json), strict=True) if wanted]
    if len(asked) > 1:
        raise SteelyardError(f"--{asked[0]} and --{asked[1]} both say the form", where="command line", do="Give one of them.")
    if len(runs) > 2:
        raise SteelyardError(f"{len(runs)} runs are named", where="command line", do="Name one to show it, two to compare them.")
    form = asked[0] if asked else ""
    if form == "html" and out is None:
        raise SteelyardError("a page needs a file to go to", where="--html", do="Add -o FILE.html.")
    from steelyard.weigh.report.columns import task_key

    wanted = [task_key(name) for name in tasks or []]
    if len(runs) == 1:
        return _one(runs[0], form, arms or [], wanted, out)
    _two(runs[0], runs[1], form, arms or [], wanted, out)


def _one(run: Path, form: str, arms: list[str], tasks: list[str], out: Path | None) -> None:
    from steelyard.weigh.report.csv import to_csv
    from steelyard.weigh.report.html import write_html
    from steelyard.weigh.report.json import to_json
    from steelyard.weigh.report.markdown import to_markdown
    from steelyard.weigh.report.read import read_report
    from steelyard.weigh.report.terminal import table

    found = _narrowed(read_report(run), arms if form != "lm-eval" else [], tasks)
    if form == "lm-eval":
        _lm_eval(run, found, arms, out)
    elif form == "html":
        assert out is not None
        write_html(found, out)
    elif form or out is not None:
        _put({"markdown": to_markdown, "csv": to_csv, "json": lambda one: to_json(one) + "\n"}[form or "markdown"](found), out)
    else:
        page = run / "report.html"
        console().print(table(found, where=page if page.is_file() else None))


def _narrowed(found: Report, arms: list[str], tasks: list[str]) -> Report:
    """The report of some arms and tasks alone; the base stays.

    Raises:
        SteelyardError: there is no such arm or task.
    """
    import dataclasses

    known = list(dict.fromkeys(cell.task for cell in found.cells if cell.task))
    for name, there, option in [(arm, list(found.arms), "--arm") for arm in arms] + [(task, known, "--task") for task in tasks]:
        if name not in there:
            raise SteelyardError(f"the run has nothing called `{name}`", where=option, do=f"It has: {', '.join(there) or 'none'}.")
    base = next(iter(found.arms), "")
    kept = {name: arm for name, arm in found.arms.items() if not arms or name in (base, *arms)}

    def fits(one: Any) -> bool:
        return one.arm in kept and (not tasks or one.task in (*tasks, ""))

    return dataclasses.replace(
        found,
        arms=kept,
        cells=[cell for cell in found.cells if fits(cell)],
        flips=[flip for flip in found.flips if fits(flip)],
        curves=[curve for curve in found.curves if fits(curve)],
    )


def _lm_eval(run: Path, found: Report, arms: list[str], out: Path | None) -> None:
    """To standard output or a .json file one arm; to a directory all, with their samples."""
    from steelyard.core.files import write_text
    from steelyard.weigh.kept.stored import Stored
    from steelyard.weigh.report.lm_eval import as_text, name_for_file, sample_lines, to_lm_eval

    folder = out is not None and out.suffix != ".json"
    if not folder and len(arms) > 1:
        raise SteelyardError("a file holds one arm", where="--lm-eval", do="Name one arm, or a directory: -o DIRECTORY.")
    try:
        stored = Stored.open(run)
        rows = {arm: stored.rows(arm) for arm in arms or (list(found.arms) if folder else list(found.arms)[:1]) if arm in found.arms}
    except SteelyardError as error:  # records gone, or the task's data: the figures are there all the same
        rows = {}
        say_on(True)(f"Without samples, so standard errors are N/A: {error}")
    if not folder:
        arm = (arms or list(found.arms))[0]
        return _put(as_text(to_lm_eval(found, arm, rows.get(arm))), out)
    assert out is not None
    for arm in arms or list(found.arms):
        place = out / name_for_file(arm)
        layout = to_lm_eval(found, arm, rows.get(arm))
        stamp = found.started[:19].replace(":", "-") or "undated"  # as lm-eval writes it, without an offset
        write_text(place / f"results_{stamp}.json", as_text(layout))
        for task, samples in rows.get(arm, {}).items():
            if task in layout["results"]:
                write_text(place / f"samples_{name_for_file(task)}_{stamp}.jsonl", sample_lines(samples))


def _two(first: Path, second: Path, form: str, arms: list[str], tasks: list[str], out: Path | None) -> None:
    from steelyard.weigh.kept.between import between
    from steelyard.weigh.report.csv import cells_csv
    from steelyard.weigh.report.html import write_html

    if form == "lm-eval":
        raise SteelyardError("lm-eval's layout holds one run", where="--lm-eval", do="Export each run by itself.")
    found = between(first, second, arms, tasks)
    if form == "html":
        assert out is not None
        write_html(found.report(), out)
    elif form == "csv":
        _put(cells_csv(found.cells), out)
    elif form == "json" and out is None:
        from steelyard.weigh.report.json import plain

        print_json(plain(found.as_dict()))
    elif form == "json":
        import json

        from steelyard.weigh.report.json import plain

        _put(json.dumps(plain(found.as_dict())) + "\n", out)
    elif form == "markdown" or out is not None:
        _put(_markdown(found), out)
    else:
        _show(found)


def _markdown(found: Between) -> str:
    from steelyard.weigh.report.markdown import cells_table, said

    lines = [f"# {said(_title(found))}", "", "## What differs", ""]
    lines += [f"- {said(text)}" for text in found.differences or ["Nothing that is recorded."]]
    lines += ["", "## Cells", "", *cells_table(found.cells, "First run", "Second run")]
    if found.notes:
        lines += ["", "## Notes", "", *(f"- {said(text, 1000)}" for text in found.notes)]
    return "\n".join(lines) + "\n"


def _title(found: Between) -> str:
    from steelyard.weigh.report.figures import moment

    sides = [f"{side.directory} ({moment(side.report.started) or 'undated'})" for side in (found.second, found.first)]
    return " against ".join(sides)


def _show(found: Between) -> None:
    """In a terminal: what differs, then a line for each figure."""
    from steelyard.weigh.report.columns import measure
    from steelyard.weigh.report.figures import words
    from steelyard.weigh.report.verdicts import MARKS, legend
    from steelyard.weigh.report.visible import visible

    screen = console()
    ascii_only = screen.encoding.lower() not in ("utf-8", "utf8")

    def line(text: str, style: str = "") -> None:
        text = visible(text)
        screen.print(text.encode("ascii", "replace").decode() if ascii_only else text, style=style, markup=False, soft_wrap=True)

    line(_title(found), "bold")
    line("What differs:")
    for text in found.differences or ["nothing that is recorded"]:
        line(f"  {text}")
    for _, arm in found.pairs:
        line("")
        line(arm, "bold")
        for cell in (cell for cell in found.cells if cell.arm == arm):
            shown, mark = words(cell, ascii_only), MARKS[cell.verdict]
            change = f", {shown.difference} {shown.interval}".rstrip() if shown.difference and cell.verdict != "identical" else ""
            arrow = "->" if ascii_only else "→"
            primary = " (primary)" * cell.primary
            value = f"{shown.base} {shown.base_interval}".strip() + f" {arrow} " + f"{shown.value} {shown.value_interval}".strip()
            line(
                f"  {mark.plain if ascii_only else mark.glyph} {cell.axis}, {measure(cell)}: {value}{change}, n {cell.n:,}: {cell.verdict}{primary}"
            )
    line("")
    line(legend(ascii_only, {cell.verdict for cell in found.cells}), "dim")
    for text in dict.fromkeys([*found.notes, *_remarks(found)]):
        line(text, "dim")


def _remarks(found: Between) -> list[str]:
    """What is noted beside figures: each remark once, with the arms and the measures that it is about."""
    from steelyard.weigh.report.columns import measure

    about: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for cell in (cell for cell in found.cells if cell.note):
        arms, measures = about.setdefault(cell.note, ({}, {}))
        arms[cell.arm] = measures[measure(cell)] = None
    return [f"{', '.join(arms)} · {', '.join(measures)}: {note}" for note, (arms, measures) in about.items()]


def _put(text: str, out: Path | None) -> None:
    """To a file, or to standard output."""
    import sys

    from steelyard.core.files import write_text

    if out is None:
        sys.stdout.write(text)
    elif out.is_dir():
        raise SteelyardError("this is a directory", where=str(out), do="Name a file.")
    else:
        write_text(out, text)
