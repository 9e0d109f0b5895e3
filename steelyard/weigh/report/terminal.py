"""The report in a terminal: one row per arm, one column per headline result, as many columns side by side as fit.

Each cell has two lines: the verdict's glyph with the arm's value, and below it the interval of the difference from the base.
What the model answers and what it costs are tables of their own. Where characters beyond ASCII or colours are not to be
had, plain ones say the same.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from steelyard.weigh.report import scaling
from steelyard.weigh.report.checks import checks
from steelyard.weigh.report.columns import BY_ARM, Column, base_name, base_spans, grid, headline, measure, others, task_title
from steelyard.weigh.report.figures import from_to, scale, words
from steelyard.weigh.report.heading import machine_text, title, took
from steelyard.weigh.report.report import Cell, Report
from steelyard.weigh.report.verdicts import MARKS, legend
from steelyard.weigh.report.visible import visible

LONGEST_ARM = 18
WIDEST = 16  # of a header's lines


def table(report: Report, width: int | None = None, where: Path | None = None) -> RenderableType:
    """The report as something Rich prints.

    Args:
        report: what to show.
        width: columns to draw for; None = as wide as the console.
        where: the page or folder to point to at the end.
    """
    return _Tables(report, width, where)


def lines(report: Report, plain: bool = False) -> list[str]:
    """The report for a log: one line per headline result and arm, then the checks."""
    columns, cells = headline(report), grid(report)
    out = []
    for arm in others(report):
        for column in columns:
            if cell := cells.get((column, arm)):
                out.append(_line(cell, plain))
    out += [f"{check.title}: {check.outcome}. {check.sentence}" for check in checks(report)]
    out += scaling.lines(report)
    return [_ascii(line) if plain else line for line in map(visible, out)]


def _line(cell: Cell, plain: bool) -> str:
    shown, arrow = words(cell, plain), "->" if plain else "→"
    text = f"{cell.arm}: {cell.axis}, {measure(cell)}: {shown.base} {arrow} {shown.value}"
    if shown.difference:
        text += f", {shown.difference} {shown.interval}".rstrip()
    marks = ["primary"] * cell.primary + ["modelled"] * (cell.source == "modelled")
    marks += [f"about {cell.samples_to_settle} more samples would settle it"] * (cell.samples_to_settle is not None)
    return f"{text}, n {cell.n}: {cell.verdict}" + (f" ({', '.join(marks)})" if marks else "")


@dataclass(frozen=True)
class _Tables:
    report: Report
    width: int | None
    where: Path | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(24, min(self.width or options.max_width, options.max_width))
        plain = options.ascii_only
        yield Text(_say(_heading(self.report), plain), style="bold")
        columns, cells = headline(self.report), grid(self.report)
        if not columns:
            yield Text("Nothing was measured.", style="dim")
        # Costs start on a line of their own, which keeps like with like.
        for group in ([c for c in columns if not c.is_cost], [c for c in columns if c.is_cost]):
            for part in self._parts(group, cells, width, plain):
                yield Text("")
                yield part
        yield Text("")
        yield from self._below(plain)

    def _parts(self, columns: list[Column], cells: dict[tuple[Column, str], Cell], width: int, plain: bool) -> Iterator[Table]:
        """Tables of as many columns as fit the width."""
        arms = [base_name(self.report), *others(self.report)]
        spans = base_spans(self.report)
        drawn = [_column(column, arms, cells, spans.get(column), plain) for column in columns]
        wide = [max(cell_len(line) for text in texts for line in text.plain.split("\n")) for texts in drawn]
        names = [_clip(_say(visible(arm), plain), LONGEST_ARM, plain) for arm in arms]
        first = max(map(cell_len, names))
        for start, stop in _fit(wide, width - first):
            out = Table(box=_PLAIN if plain else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
            out.add_column("", width=first, overflow="fold")
            tallest = max(texts[0].plain.count("\n") for texts in drawn[start:stop])
            for texts in drawn[start:stop]:
                # Rich lets headers stand on their last line; filled up, the axes' names stand in one row.
                out.add_column(texts[0].copy().append("\n" * (tallest - texts[0].plain.count("\n"))), overflow="fold")
            for place, name in enumerate(names):
                out.add_row(Text(name, style="bold"), *(texts[place + 1] for texts in drawn[start:stop]))
            yield out

    def _below(self, plain: bool) -> Iterator[RenderableType]:
        verdicts = {cell.verdict for cell in self.report.cells}
        yield Text(legend(plain, verdicts), style="dim")
        diamond, up, down = ("*", "higher", "lower") if plain else ("◆", "↑", "↓")
        yield Text(
            f"Second line: {100 * self.report.confidence:g}% interval of the difference from the base (costs: in percent of it). "
            f"{up} or {down}: which is better. {diamond} primary result.",
            style="dim",
        )
        if any(column in base_spans(self.report) for column in headline(self.report)):
            yield Text(f"By arm: {BY_ARM}; report.html has it beside each arm's value.", style="dim")
        for check in checks(self.report):
            glyph, style = {"passed": ("✔", ""), "failed": ("✘", "bold bright_red"), "absent": ("–", "dim")}[check.outcome]
            yield Text(_say(visible(f"{glyph} {check.title}: {check.outcome}. {check.sentence}"), plain), style=style)
        for line in scaling.lines(self.report):
            yield Text(_say(visible(line), plain))
        if self.where:
            yield Text(_say(visible(f"Report: {self.where}"), plain), style="bold", overflow="fold")


def _fit(wide: list[int], room: int) -> list[tuple[int, int]]:
    """Slices of columns, as few as fit the room and as even as may be."""
    for count in range(1, len(wide) + 1):
        edges = [round(len(wide) * part / count) for part in range(count + 1)]
        slices = list(zip(edges, edges[1:], strict=False))
        if count == len(wide) or all(sum(wide[start:stop]) + GAP * (stop - start) <= room for start, stop in slices):
            return slices
    return []


GAP = 2  # spaces between two columns of a table
_PLAIN = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def _heading(report: Report) -> str:
    parts = [title(report)]
    if text := took(report):
        parts.append(f"weighed in {text}")
    if report.machine:
        parts.append(f"on {machine_text(report)}")
    return visible(", ".join(parts))


def _column(
    column: Column, arms: list[str], cells: dict[tuple[Column, str], Cell], span: tuple[float, float] | None, plain: bool
) -> list[Text]:
    """A column's header and one text per arm, two lines each. `span` tells the base's values where they depend on the arm."""
    unit, mine = scale(column.unit).unit, [cell for arm in arms if (cell := cells.get((column, arm)))]
    better = ("↑" if column.higher_is_better else "↓") if not plain else ("higher" if column.higher_is_better else "lower")
    modelled = [cell.source == "modelled" for cell in mine]
    head = Text(_clip(_say(visible(column.axis), plain), WIDEST, plain), style="bold")
    said_once = column.task in ("", column.metric)
    below = [visible(task_title(column.task))] * (not said_once) + textwrap.wrap(
        visible(column.metric.replace("_", " ")), WIDEST, max_lines=2, placeholder="..."
    )
    below += [f"{visible(unit)} {better}"] + ["modelled" if all(modelled) else "partly modelled"] * any(modelled)
    if counts := sorted({cell.n for cell in mine}):
        below.append(f"n {counts[0]:,}" if len(counts) == 1 else f"n {counts[0]:,} to {counts[-1]:,}")
    for line in below:
        head.append("\n" + _clip(_say(line, plain), WIDEST, plain), style="dim")
    entries = [_entry(cells.get((column, arm)), column, place == 0, plain) for place, arm in enumerate(arms)]
    if span and entries:
        text = from_to(*span, column.unit, plain).removesuffix(unit).rstrip()
        entries[0] = Text(f"  {text}").append("\nby arm", style="dim")
    return [head, *entries]


def _entry(cell: Cell | None, column: Column, is_base: bool, plain: bool) -> Text:
    if cell is None:
        return Text("\n")
    shown, mark = words(cell, plain), MARKS[cell.verdict]
    value = shown.value.removesuffix(shown.unit).rstrip()
    if is_base:
        return Text(f"  {value}").append("\n" + shown.value_interval, style="dim")
    text = Text().append(mark.plain if plain else mark.glyph, style=mark.style)
    text.append(f" {value}", style=mark.style if cell.verdict in ("better", "worse") else "")
    if cell.primary:
        text.append(" *" if plain else " ◆", style="dim")
    below = shown.relative_interval if column.is_cost and shown.relative_interval else shown.interval or shown.difference
    return text.append("\n" + ("same records" if cell.verdict == "identical" else below), style="dim")


def _clip(text: str, limit: int, plain: bool) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..." if plain else text[: limit - 1] + "…"


_ASCII = str.maketrans({"−": "-", "±": "+/-", "→": "->", "·": "/", "—": "-", "≈": "~", "◆": "*", "…": "...", "✔": "+", "✘": "x", "–": "-"})


def _ascii(text: str) -> str:
    return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")


def _say(text: str, plain: bool) -> str:
    return _ascii(text) if plain else text
