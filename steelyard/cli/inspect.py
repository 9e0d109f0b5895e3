"""`steelyard inspect MODEL`: what a model is, and with `--check` whether its files can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from steelyard.cli.completion import model_names
from steelyard.cli.output import console, print_json


def inspect(
    model: Annotated[str, typer.Argument(help="A got name, a directory, a .gguf file or hf:org/name.", autocompletion=model_names)],
    check: Annotated[bool, typer.Option("--check", help="Read every tensor: shapes, numbers that are none, files that lie.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Show what a model is made of and what it was made from.

    With --check every tensor is read: wrong shapes, numbers that are none, files that lie about themselves. Problems end it
    with status 1.
    """
    from steelyard.core.get import locate
    from steelyard.model import inspect as inspecting

    found = inspecting.inspect(locate(model), check)
    if as_json:
        print_json(found)
    else:
        out = console()
        for key, value in found.items():
            _show(out, str(key), value, 0)
    if found.get("problems"):
        raise typer.Exit(1)


def _show(out: Any, key: str, value: Any, depth: int) -> None:
    from rich.text import Text

    from steelyard.weigh.report.visible import visible

    indent = "  " * depth
    name = Text(f"{indent}{visible(key.replace('_', ' '))}: ", style="bold" if depth == 0 else "")
    if isinstance(value, Mapping) and value:
        out.print(name)
        for inner, each in value.items():
            _show(out, str(inner), each, depth + 1)
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        out.print(name)
        for number, each in enumerate(value, 1):
            _show(out, str(number), each, depth + 1)
    elif isinstance(value, list | tuple) and any(isinstance(each, str) and " " in each for each in value):
        out.print(name)
        for sentence in value:
            out.print(Text(f"{indent}  - {visible(_words(sentence))}"))
    else:
        out.print(name + Text(visible(_words(value))))


def _words(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    return str(value)
