"""`steelyard tasks [NAME]`: everything an arm can be weighed on, or one task in full, from its class."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from steelyard.cli.completion import task_names
from steelyard.cli.levers import settings_of, settings_table
from steelyard.cli.output import console, print_json


def tasks(
    name: Annotated[str | None, typer.Argument(help="A task; left out, all are listed.", autocompletion=task_names)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """List the tasks, or show one in full.

    In full: what it asks, its metrics and settings, and how far it has been tried.
    """
    from steelyard.weigh.tasks import registry

    if name is not None:
        facts = described(registry.find(name, f"task `{name}`"))
        return print_json(facts) if as_json else _show(facts)
    rows = [described(task) for task in registry.all_tasks().values()]
    if as_json:
        return print_json({"tasks": rows})
    _list(rows)


def described(task: Any) -> dict[str, Any]:
    """A task's class as plain data; metrics that depend on the rows are told by the module's text alone."""
    metrics = task.metrics if isinstance(task.metrics, tuple) else ()
    return {
        "name": task.name,
        "summary": task.summary,
        "evidence": task.evidence,
        "about": inspect.getdoc(inspect.getmodule(task)) or "",
        "metrics": [
            {"name": each.name, "axis": each.axis, "unit": each.unit, "higher_is_better": each.higher_is_better} for each in metrics
        ],
        "settings": settings_of(task),
    }


def _list(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    out, grid = console(), Table.grid(padding=(0, 2))
    for row in rows:
        summary = Text(row["summary"])
        if row["evidence"]:
            summary.append(f"  {row['evidence'].partition(':')[0]}", style="dim")
        grid.add_row(Text(row["name"], style="bold", no_wrap=True), summary)
    out.print(grid)
    out.print(Text("One in full: steelyard tasks NAME. Your own, as a YAML file: steelyard tasks task_file", style="dim"))


def _show(facts: dict[str, Any]) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(facts["name"], style="bold"), Text(facts["summary"]))
    out.print(Text(facts["about"]))
    if facts["evidence"]:
        out.print(Text(f"evidence  {facts['evidence']}"))
    for metric in facts["metrics"]:
        better = "higher" if metric["higher_is_better"] else "lower"
        out.print(Text(f"metric  {metric['name']} ({metric['axis']}, {metric['unit']}, {better} is better)"))
    settings_table(out, facts["settings"])
