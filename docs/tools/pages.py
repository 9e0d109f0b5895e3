"""Pages that are written while the site is built: one per lever, the tasks, and the command line, each from the code itself.

A hook of mkdocs (see mkdocs.yml): `on_config` puts the levers into the navigation, `on_files` adds the pages. Nothing of this is
kept in the repository, so nothing of it can be out of date.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

from steelyard.cli.levers import described
from steelyard.cli.main import app
from steelyard.core import levers as registry
from steelyard.weigh.tasks import registry as tasks

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
URL = re.compile(r"(?<![<(\[])(https?://[^\s,;)>]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the levers in the navigation."""
    pages = ["levers/index.md", *(f"levers/{name}.md" for name in registry.all_levers())]
    config.nav = [{"Levers": pages} if isinstance(entry, dict) and "Levers" in entry else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for path, content in written().items():
        files.append(File.generated(config, path, content=content))
    return files


def written() -> dict[str, str]:
    """Path -> Markdown of every page made here."""
    levers = {name: described(kind) for name, kind in registry.all_levers().items()}
    pages = {f"levers/{name}.md": lever_page(facts, registry.all_levers()[name]) for name, facts in levers.items()}
    return {"levers/index.md": levers_page(levers), **pages, "tasks.md": tasks_page(), "command-line.md": command_line_page()}


# Levers


def levers_page(levers: Mapping[str, Mapping[str, Any]]) -> str:
    """The list of all levers."""
    rows = [
        f"| [{name}]({name}.md) | {', '.join(facts['stages'])} | {', '.join(facts['presets']) or ''} | {facts['maturity']} | "
        f"{facts['evidence']} | {inert(first_sentence(facts['idea']))} |"
        for name, facts in levers.items()
    ]
    return "\n".join(
        [
            "# Levers",
            "",
            "A lever is one named change to a model or to how it is asked. `steelyard levers` lists those that are installed, "
            "`steelyard levers NAME` shows what the pages here show.",
            "",
            "| lever | stage | presets | maturity | evidence | idea |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "Stages have one order: `new`, then `weights`, `decode`, `wrap`. A list of levers out of that order, with a need that "
            "nothing meets, or with two that conflict, is refused when the recipe is read.",
            "",
            "*Maturity*: `stable` levers pass parity, acceptance with a negative control, and identity in CI. *Evidence* says how far the "
            "recorded claim reaches; the figures are in [open challenges](../challenges.md).",
        ]
    )


def lever_page(facts: Mapping[str, Any], kind: type) -> str:
    """One lever in full."""
    name = facts["name"]
    lines = [f"# {name}", "", inert(facts["idea"]), ""]
    if facts["equation"]:
        lines += ["```text", facts["equation"], "```", ""]
    identity = facts["identity"] if isinstance(facts["identity"], str) else shown(facts["identity"]) or "its defaults"
    about = {
        "stage": ", ".join(facts["stages"]),
        "hooks": ", ".join(f"`{hook}`" for hook in facts["hooks"]),
        "paper": linked(facts["paper"]),
        "cost": facts["cost"],
        "identity": identity,
        "presets": "; ".join(f"`{preset}` is {shown(settings)}" for preset, settings in facts["presets"].items()),
        "main value": f"`{facts['main']}`: `--try {name}:VALUE` sets it" if facts["main"] else "",
        "needs": ", ".join(facts["needs"]),
        "provides": ", ".join(facts["provides"]),
        "conflicts": ", ".join(facts["conflicts"]),
        "per request": "a server's client may switch it on" if facts["per_request"] else "",
        "maturity": facts["maturity"],
        "evidence": facts["evidence"],
        "source": f"`{kind.__module__}`",
    }
    lines += ["| what | value |", "| --- | --- |", *(f"| {key} | {cell(value)} |" for key, value in about.items() if value), ""]
    lines += ["## Settings", "", *settings_table(facts["settings"]), ""]
    required = {setting["name"]: "..." for setting in facts["settings"] if setting["required"]}
    lines += ["In a recipe:", "", "```yaml", "arms:", f"  mine: [{{{name}: {json.dumps(required)}}}]", "```", ""]
    if facts["results"]:
        lines += [
            "## Recorded results",
            "",
            "| report | claim | metric | base | arm | difference | n | verdict |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [result(row) for row in facts["results"]]
        lines += ["", *(f"* {inert(note)}" for note in facts["notes"]), ""]
    if notes := inspect.getdoc(importlib.import_module(kind.__module__)):
        lines += ["## Notes from the source", "", inert(notes), ""]
    return "\n".join(lines)


def result(row: Mapping[str, Any]) -> str:
    """A recorded cell as a row of a table."""
    numbers = [f"{row[key]:.4g}" if row[key] is not None else "" for key in ("base", "value")]
    difference = "" if row["difference"] is None else f"{row['difference']:+.3g}"
    if row["low"] is not None and row["low"] < row["high"]:
        difference += f" [{row['low']:+.3g}, {row['high']:+.3g}]"
    claim = row.get("claim", "") + ("" if row.get("holds", True) else " (not borne out)")
    what = " · ".join(filter(None, (row["task"], row["metric"])))
    figures = f"{numbers[0]} | {numbers[1]} | {difference} | {row['n']}"
    return f"| {row['report']} | {cell(claim)} | {cell(what)} ({row['unit']}) | {figures} | {row['verdict']} |"


# Tasks


def tasks_page() -> str:
    """Every task with its metrics and settings."""
    lines = [
        "# Tasks",
        "",
        "A task is a source of samples and a scorer. The first metric is the primary one unless a recipe says otherwise. An "
        "arm is *equivalent* where the interval of the difference lies inside the margin.",
        "",
    ]
    for name, kind in tasks.all_tasks().items():
        lines += [f"## {name}", "", kind.summary, ""]
        if isinstance(metrics := getattr(kind, "metrics", None), tuple):
            lines += ["| metric | axis | unit | better | margin |", "| --- | --- | --- | --- | --- |"]
            for metric in metrics:
                margin = f"{metric.margin:.0%} of the base's value" if metric.relative else f"{metric.margin:g}"
                better = "higher" if metric.higher_is_better else "lower"
                lines.append(f"| {metric.name} | {metric.axis} | {metric.unit} | {better} | {margin} |")
            lines.append("")
        fields = [described_field(key, field) for key, field in kind.model_fields.items()]
        lines += [*settings_table(fields), ""]
        lines += [inert(inspect.getdoc(importlib.import_module(kind.__module__)) or ""), ""]
    return "\n".join(lines)


def described_field(key: str, field: Any) -> dict[str, Any]:
    """A setting of a task, as `steelyard levers` describes those of levers."""
    from steelyard.cli.levers import _setting

    return _setting(key, field)


# Command line


def command_line_page() -> str:
    """What `--help` says, verb by verb."""
    runner = CliRunner()
    lines = [
        "# Command line",
        "",
        "With `--json` the last line of standard output is one JSON document. A failure that you can do something about is told on "
        "standard error, without a traceback, and ends with status 2; Ctrl-C ends with 130. "
        "`steelyard --install-completion` sets up completion for your shell.",
        "",
    ]
    for name in [command.name or "" for command in app.registered_commands]:
        text = runner.invoke(app, [name, "--help"], env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}).output
        lines += [f"## {name}", "", "```text", text.strip(), "```", ""]
    return "\n".join(lines)


# Words


def settings_table(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name, type, default and meaning of each setting."""
    if not settings:
        return ["It has no settings."]
    lines = ["| setting | type | default | what it is |", "| --- | --- | --- | --- |"]
    for setting in settings:
        default = "required" if setting["required"] else f"`{json.dumps(setting['default'], ensure_ascii=False)}`"
        lines.append(f"| `{setting['name']}` | {cell(setting['type'])} | {cell(default)} | {cell(setting['description'])} |")
    return lines


def first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."


def shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}: {json.dumps(value, ensure_ascii=False, default=str)}`" for key, value in settings.items())


def linked(text: str) -> str:
    """arXiv numbers and addresses as links."""
    return URL.sub(r"<\1>", ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text))


def cell(text: str) -> str:
    """Text for a table's cell."""
    return inert(text).replace("|", "\\|").replace("\n", " ")


def inert(text: str) -> str:
    """Text in which nothing outside code can pass for HTML; links made by `linked` stay."""
    parts = re.split(r"(`[^`]*`|<https?://[^>]*>)", text)
    return "".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))
