"""What was weighed, how, and on what: the words over a report."""

from __future__ import annotations

import dataclasses
from typing import Any

from steelyard.weigh.report.columns import base_name, others
from steelyard.weigh.report.figures import duration
from steelyard.weigh.report.report import ArmSummary, Report


def parameters_text(count: int) -> str:
    """A parameter count as it is spoken of: 135M, 1.5B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def title(report: Report) -> str:
    """What was weighed, as a heading."""
    if report.title:
        return report.title
    arms, base = others(report), model_name(report)
    if not arms:
        return f"{base} alone"
    listed = arms[0] if len(arms) == 1 else ", ".join(arms[:-1]) + " and " + arms[-1]
    return f"{listed if len(arms) <= 6 else f'{len(arms)} arms'} against {base}"


def model_name(report: Report) -> str:
    """The base as the recipe names it."""
    base = report.recipe.get("base") or report.recipe.get("endpoint")
    if isinstance(base, dict):
        base = base.get("name") or base.get("model") or base.get("base")
    return str(base) if base else base_name(report)


def seeds_text(report: Report) -> str:
    """The seeds everything random was drawn from."""
    seeds = report.recipe.get("seeds", report.recipe.get("seed"))
    return ", ".join(map(str, seeds)) if isinstance(seeds, list | tuple) else "" if seeds is None else str(seeds)


def levers_text(summary: ArmSummary) -> str:
    """An arm's levers as one would write them: `quantize(bits=8) + retrieve(documents=encyclopedia)`."""
    return " + ".join(_lever_text(lever) for lever in summary.levers)


def _lever_text(lever: dict) -> str:
    """A lever is `{name: settings}`, or has keys `name` and `settings`."""
    if "name" in lever:
        inline = {key: value for key, value in lever.items() if key not in ("name", "settings", "fingerprint")}
        name, settings = lever["name"], lever.get("settings") or inline
    elif len(lever) == 1:
        ((name, settings),) = lever.items()
    else:
        name, settings = "", lever
    if not isinstance(settings, dict):
        return f"{name}({settings})" if settings not in (None, "") else str(name)
    inside = ", ".join(f"{key}={_written(value)}" for key, value in settings.items() if value not in (None, "", [], {}))
    return f"{name}({inside})" if inside else str(name)


def _written(value: Any) -> str:
    """A setting's value; texts with spaces or commas in quotation marks."""
    return f'"{value}"' if isinstance(value, str) and (" " in value or "," in value) else str(value)


def change_text(report: Report, arm: str) -> str:
    """What makes an arm another than the base: its own model or endpoint, if it has one, and its levers without those of the base."""
    written = report.recipe.get("arms")
    entry = written.get(arm) if isinstance(written, dict) else None
    source = ""
    if isinstance(entry, dict) and isinstance(entry.get("endpoint"), dict):
        source = f"{entry['endpoint'].get('model', 'a model')} at {entry['endpoint'].get('url', 'an endpoint')}"
    elif isinstance(entry, dict) and "new" in entry:
        source = "a new model"
    elif isinstance(entry, dict) and entry.get("base"):
        source = str(entry["base"])
    summary, base = report.arms[arm], report.arms.get(base_name(report))
    if base is not None and summary is not base:
        summary = dataclasses.replace(summary, levers=[lever for lever in summary.levers if lever not in base.levers])
    return " + ".join(filter(None, (source, levers_text(summary))))


def took(report: Report) -> str:
    """How long the weighing took; of one that went on from answers that were there, that this is not the whole of it."""
    text = duration(report.seconds)
    return f"{text}, going on from {report.earlier:,} answers of earlier calls" if text and report.earlier else text


def machine_text(report: Report) -> str:
    """The machine in a line: processor, cores, memory, accelerators."""
    machine = report.machine
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    parts = [machine.get("cpu"), f"{cores} core{'s' * (cores != 1)}" if cores else None, _bytes(memory) if memory else None]
    parts += [gpu.get("name") if isinstance(gpu, dict) else gpu for gpu in machine.get("gpus") or []]
    return ", ".join(str(part) for part in parts if part) or "not recorded"


def machine_rows(report: Report) -> list[tuple[str, str]]:
    """Everything recorded of the machine, in words; versions have a list of their own."""
    return [(_words(key), _plain(key, value)) for key, value in report.machine.items() if key != "versions" and value not in (None, [], "")]


def cost_rows(summary: ArmSummary) -> list[tuple[str, str]]:
    """What weighing an arm cost, in words."""
    return [(_words(key), _plain(key, value)) for key, value in summary.cost.items() if value is not None]


def _words(key: Any) -> str:
    return str(key).removesuffix("_bytes").replace("_", " ")


def _plain(key: Any, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and str(key).endswith("_bytes"):
        return _bytes(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{_words(inner)} {_plain(inner, item)}" for inner, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(key, item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
