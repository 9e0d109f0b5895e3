"""`steelyard levers [NAME]`: everything that can be pulled, or one lever in full, from the class and the recorded results."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.completion import lever_names
from steelyard.cli.output import console, print_json


def levers(
    name: Annotated[str | None, typer.Argument(help="A lever or preset; left out, all are listed.", autocompletion=lever_names)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """List the levers, or show one in full.

    In full: idea, equation, paper, cost, settings with their defaults, and the evidence recorded so far.
    """
    from steelyard.core import levers as registry

    if name is not None:
        kind, preset = registry.find(name)
        facts = described(kind) | ({"preset": {name: preset}} if name != kind.name else {})
        return print_json(facts) if as_json else _show(facts)
    rows = [described(kind) for kind in registry.all_levers().values()]
    if as_json:
        return print_json({"levers": rows, "broken": registry.broken()})
    _list(rows, registry.broken())


def described(kind: Any) -> dict[str, Any]:
    """A lever's class as plain data; a preset whose name another lever had first is not among its own."""
    from steelyard.core import levers as registry

    return {
        "name": kind.name,
        "stages": list(kind.stages()),
        "hooks": list(kind.hooks()),
        "maturity": kind.maturity,
        "evidence": kind.evidence,
        "idea": kind.idea,
        "equation": kind.equation,
        "paper": kind.paper,
        "cost": kind.cost,
        "presets": {name: dict(settings) for name, (lever, settings) in registry.presets().items() if lever is kind},
        "main": kind.main,
        "settings": settings_of(kind),
        "identity": kind.identity if isinstance(kind.identity, str) else dict(kind.identity),
        "needs": sorted(kind.needs),
        "provides": sorted(kind.provides),
        "conflicts": sorted(kind.conflicts),
        "per_request": kind.per_request,
        "results": (found := results(kind.name))[0],
        "notes": found[1],
    }


def results(name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """What the reports kept under `docs/results` (in a checkout) say of arms that pulled this lever alone.

    Returns:
        The primary cells, an experiment's each with its `claim` and whether it `holds`; and the reports' notes.
    """
    import steelyard

    cells, notes = [], []
    for path in sorted((Path(steelyard.__file__).parents[1] / "docs" / "results").glob("*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            arms = {arm for arm, facts in report["arms"].items() if [next(iter(lever)) for lever in facts["levers"]] == [name]}
            found = [{"report": path.stem, **cell} for cell in report["cells"] if cell["arm"] in arms and cell["primary"]]
            notes += [f"{path.stem}: {note}" for note in report.get("notes", ()) if found]
            cells += found
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):  # some other JSON: not a report
            continue
    return cells, notes


def settings_of(kind: Any) -> list[dict[str, Any]]:
    """The settings of a lever or a task as plain data."""
    return [_setting(key, field) for key, field in kind.model_fields.items()]


def _setting(key: str, field: Any) -> dict[str, Any]:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return {
        "name": key,
        "type": _type(field.annotation),
        "required": field.is_required(),
        "default": _plain(default),
        "description": field.description or "",
    }


def _type(annotation: Any) -> str:
    """A type as a person would say it."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "none"
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if origin is Annotated:
        return _type(inner[0])
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type(inner[0])}" if inner else "list"
    if origin is None and isinstance(annotation, type):
        return {"str": "text", "int": "whole number", "float": "number", "bool": "true | false"}.get(
            annotation.__name__, annotation.__name__
        )
    return " | ".join(map(_type, inner)) if inner else str(annotation)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return getattr(value, "name", None) or str(value)


def _list(rows: list[dict[str, Any]], broken: dict[str, str]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    out = console()
    head = ("lever", "stage", "hooks", "maturity", "evidence")
    cells = [(_named(row), ", ".join(row["stages"]), ", ".join(row["hooks"]), row["maturity"], row["evidence"]) for row in rows]
    widths = [max(len(line[column]) for line in (head, *cells)) for column in range(len(head))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in (head, *cells)]
    out.print(Text(lines[0], style="dim"))
    for row, line in zip(rows, lines[1:], strict=True):
        text = Text(line)
        text.stylize("bold", 0, len(row["name"]))
        out.print(text)
        out.print(Padding(Text(row["idea"].split(". ")[0].rstrip(".") + ".", style="dim"), (0, 0, 0, 4)))
    for name, reason in broken.items():
        out.print(Text(f"broken: {name}: {reason}", style="red"))
    out.print(Text("One in full: steelyard levers NAME", style="dim"))


def _named(row: Mapping[str, Any]) -> str:
    return row["name"] + (f" ({', '.join(row['presets'])})" if row["presets"] else "")


def _show(facts: dict[str, Any]) -> None:
    from rich.text import Text

    out = console()
    out.print(
        Text(facts["name"], style="bold"),
        Text(f"stage {', '.join(facts['stages'])} · hook {', '.join(facts['hooks'])} · {facts['maturity']}", style="dim"),
    )
    out.print(Text(facts["idea"]))
    for preset, settings in (facts["presets"] | facts.get("preset", {})).items():
        _line(out, "preset", f"{preset} = {facts['name']} with {_settings(settings)}")
    _line(out, "equation", facts["equation"])
    _line(out, "paper", facts["paper"])
    _line(out, "cost", facts["cost"])
    _line(out, "identity", facts["identity"] if isinstance(facts["identity"], str) else _settings(facts["identity"]) or "its defaults")
    for key in ("needs", "provides", "conflicts"):
        _line(out, key, ", ".join(facts[key]))
    if facts["main"]:
        _line(out, "main value", f"{facts['main']}, so `--try {facts['name']}:VALUE` sets it")
    _line(out, "evidence", facts["evidence"] + ("" if facts["results"] or facts["evidence"] == "not shown" else "; no result is kept here"))
    for cell in facts["results"]:
        _line(out, "result", _result(cell))
    for note in facts["notes"]:
        _line(out, "note", note)
    settings_table(out, facts["settings"])


def settings_table(out: Any, settings: list[dict[str, Any]]) -> None:
    """Prints settings with their types and defaults; nothing where there are none."""
    from rich.table import Table
    from rich.text import Text

    if settings:
        table = Table("setting", "type", "default", "what it is", box=None, header_style="bold", pad_edge=False)
        for setting in settings:
            default = "required" if setting["required"] else json.dumps(setting["default"], ensure_ascii=False)
            table.add_row(*map(Text, (setting["name"], setting["type"], default, setting["description"])))
        out.print()
        out.print(table)


def _line(out: Any, name: str, value: str) -> None:
    from rich.table import Table
    from rich.text import Text

    if value:
        row = Table(box=None, show_header=False, pad_edge=False)
        row.add_column(width=11)
        row.add_column()
        row.add_row(Text(name, style="dim"), Text(str(value)))
        out.print(row)


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in settings.items())


def _result(cell: Mapping[str, Any]) -> str:
    """One stored cell: what it was to show, then the figures. The interval is the difference's, so the difference stands before it."""
    claim = cell.get("claim", "") and f"{cell['claim']}{'' if cell.get('holds', True) else ' (not borne out)'}: "
    what = f"{cell['report']}: {claim}{' · '.join(filter(None, (cell['task'], cell['metric'])))}"
    if cell["base"] is None or cell["value"] is None:
        return f"{what} not measurable"
    text = f"{what} {cell['base']:.4g} -> {cell['value']:.4g} {cell['unit']}".rstrip()
    if cell["difference"] is not None:
        text += f", difference {cell['difference']:+.3g}"
        if cell["low"] is not None and cell["high"] is not None and cell["low"] < cell["high"]:
            text += f" [{cell['low']:+.3g}, {cell['high']:+.3g}]"
    return f"{text}, n = {cell['n']}: {cell['verdict']}"
