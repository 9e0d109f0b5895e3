"""A report as Markdown: for a pull request, a model card, a mail. Every number with unit, interval and n, as on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from steelyard.weigh.report import scaling
from steelyard.weigh.report.checks import checks
from steelyard.weigh.report.columns import BY_ARM, Column, all_columns, base_name, base_spans, grid, headline, measure, others
from steelyard.weigh.report.figures import from_to, moment, scale, words
from steelyard.weigh.report.findings import limits
from steelyard.weigh.report.heading import change_text, machine_text, model_name, parameters_text, seeds_text, title, took
from steelyard.weigh.report.report import Cell, Report
from steelyard.weigh.report.verdicts import MARKS
from steelyard.weigh.report.visible import clip, visible

LONGEST = 300  # characters of a cell of a table
_MARKUP = re.compile(r"([\\`*_<>|~&]|\](?=[(\[:])|^[#+=-](?=\s|$)|(?<=^\d)[.)](?=\s|$)|(?<=^\d\d)[.)](?=\s|$))")
_SCHEME = re.compile(r"(?i)\b(https?|ftp|www)(?=[:.])")


def to_markdown(report: Report) -> str:
    """The report in GitHub's Markdown: findings, the primary results of every axis, checks, all cells, limits, what it ran on."""
    arms, cells = others(report), grid(report)
    lines = [f"# {said(title(report))}", "", *_facts(report), ""]
    for check in checks(report):
        lines.append(f"- {said(f'{check.title}: {check.outcome}. {check.sentence}')}")
    heads = headline(report)
    for name, columns in (("What it answers", [c for c in heads if not c.is_cost]), ("What it costs", [c for c in heads if c.is_cost])):
        if columns:
            lines += ["", f"## {name}", "", *_headline(report, columns, cells)]
    if arms:
        lines += ["", f"Each entry: value, difference from the base with its {100 * report.confidence:g}% interval, verdict, n. ◆: the arm's "
                  "primary result, its interval adjusted (Holm). pp: percentage points."]  # fmt: skip
        if any(column in base_spans(report) for column in heads):
            lines[-1] += f" By arm: {BY_ARM}; it stands beside each arm's value."
    for line in scaling.lines(report):
        lines += ["", said(line)]
    lines += ["", "## All cells", "", *cells_table(_ordered(report))]
    lines += ["", "## What this cannot tell you", ""]
    lines += [f"- {'**' + said(limit.title) + '.** ' if limit.title else ''}{said(limit.text, 3000)}" for limit in limits(report)]
    lines += ["", "## Arms", "", *table(["Arm", "Levers", "Fingerprint"], [
        [name, change_text(report, name) or "none", summary.fingerprint] for name, summary in report.arms.items()
    ])]  # fmt: skip
    return "\n".join(lines) + "\n"


def _facts(report: Report) -> list[str]:
    summary = report.arms.get(base_name(report))
    parameters = f", {parameters_text(summary.parameters)} parameters" if summary and summary.parameters else ""
    facts = [
        ("Base", model_name(report) + parameters),
        ("Machine", machine_text(report)),
        ("Started", moment(report.started)),
        ("Took", took(report)),
        ("Seed", seeds_text(report)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
    return [f"- {name}: {said(text)}" for name, text in facts if text]


def _headline(report: Report, columns: Sequence[Column], cells: dict[tuple[Column, str], Cell]) -> Iterable[str]:
    base, spans = base_name(report), _said_spans(report)
    heads = [
        "Arm",
        *(f"{c.axis}: {c.name}, {scale(c.unit).unit} ({'higher' if c.higher_is_better else 'lower'} is better)" for c in columns),
    ]
    rows = []
    for arm in [base, *others(report)]:
        rows.append([arm, *(_entry(cells.get((column, arm)), arm == base, spans.get(column)) for column in columns)])
    return table(heads, rows)


def _said_spans(report: Report) -> dict[Column, str]:
    """The base's values in words, where they depend on the arm."""
    return {column: from_to(*span, column.unit) for column, span in base_spans(report).items()}


def _entry(cell: Cell | None, is_base: bool, span: str | None) -> str:
    if cell is None:
        return ""
    if is_base and span:
        return f"{span}, by arm; n {cell.n:,}"
    shown = words(cell)
    level = f"{shown.value} {shown.value_interval}" if is_base else shown.value
    change = "" if is_base or cell.verdict == "identical" else f"{shown.difference} {shown.interval}".strip()
    verdict = "" if is_base else f"{MARKS[cell.verdict].glyph} {cell.verdict}"
    parts = [
        level.strip(),
        change,
        verdict,
        f"n {cell.n:,}" + " ◆" * cell.primary,
        f"beside base {shown.base}" * bool(span),
        "modelled" * (cell.source == "modelled"),
    ]
    return "; ".join(part for part in parts if part)


def _ordered(report: Report) -> list[Cell]:
    rank = {column: place for place, column in enumerate(all_columns(report))}
    order = {arm: place for place, arm in enumerate(report.arms)}
    key = {id(cell): (order.get(cell.arm, len(order)), rank[_column(cell)]) for cell in report.cells}
    return sorted(report.cells, key=lambda cell: key[id(cell)])


def _column(cell: Cell) -> Column:
    return Column(cell.axis, cell.task, cell.metric, cell.unit, cell.higher_is_better)


def cells_table(cells: Sequence[Cell], first: str = "Base", second: str = "Arm's value") -> list[str]:
    """Cells as a table, one row each."""
    rows = []
    for cell in cells:
        shown = words(cell)
        remarks = [cell.note, "modelled" * (cell.source == "modelled"), "primary" * cell.primary]
        remarks.append(f"about {cell.samples_to_settle:,} more samples would settle it" if cell.samples_to_settle else "")
        rows.append([
            cell.arm, cell.axis, measure(cell), f"{shown.base} {shown.base_interval}", f"{shown.value} {shown.value_interval}",
            "every record equal" if cell.verdict == "identical" else f"{shown.difference} {shown.interval}", shown.margin, f"{cell.n:,}", cell.verdict, "; ".join(filter(None, remarks)),
        ])  # fmt: skip
    return table(["Arm", "Axis", "Measure", first, second, "Difference", "Margin", "n", "Verdict", "Remarks"], rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines; what stands in it is text, never markup."""
    lines = ["| " + " | ".join(said(text) for text in heads) + " |", "|" + " --- |" * len(heads)]
    return lines + ["| " + " | ".join(said(text) for text in row) + " |" for row in rows]


def said(text: str, limit: int = LONGEST) -> str:
    """Text that Markdown shows as it is, on one line: nothing in it is markup, a link, or an image that would be fetched."""
    text, left = clip(" ".join(visible(text).split()), limit)
    text = _SCHEME.sub(lambda found: found[0] + "\u2060", _MARKUP.sub(r"\\\1", text))
    return text + "…" * bool(left)
