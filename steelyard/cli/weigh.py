"""`steelyard weigh RECIPE`, or `steelyard weigh --base M --data F --try ...` without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.completion import lever_names, model_names
from steelyard.cli.output import console, print_json, say_on
from steelyard.core.errors import RecipeError


def weigh(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE]...", help="A YAML recipe (its paths are relative to it), then values to change in it."
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Without a recipe: the model to start from.", autocompletion=model_names)] = None,
    data: Annotated[Path | None, typer.Option(help="Without a recipe: JSONL rows for chat, choices or bits_per_byte.")] = None,
    tries: Annotated[
        list[str] | None,
        typer.Option("--try", help='Without a recipe: levers, one arm each: int8,"prompt:Be concise".', autocompletion=lever_names),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would take and what it could show.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory; runs/NAME if left out. A killed run resumes.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most N samples of each task (recipe key `samples`).")] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Ask for at most S seconds, shared by the arms; the report says what is there.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where models answer: cpu, cuda, cuda:1 (recipe key `run.device`).")] = None,
    shard: Annotated[str | None, typer.Option(metavar="K/N", help="Only ask the K-th of N parts; `steelyard merge` joins them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON: the report.")] = False,
) -> None:
    """Weigh a model against changes to it.

    Writes report.html and report.json, with intervals and a verdict for each figure. A killed run resumes.
    """
    given = (("samples", limit), ("seconds", seconds), ("run.device", device))
    changes = [f"{key}={value}" for key, value in given if value is not None]
    recipe = _recipe([*(words or []), *changes], base, data, tries or [])
    if plan:
        return _plan(recipe, out, as_json)
    if shard is not None:
        return _part(recipe, out, shard, as_json)
    from steelyard.weigh import runner
    from steelyard.weigh.report.json import to_json
    from steelyard.weigh.report.terminal import table

    report = runner.weigh(recipe, directory=out, say=say_on(True))
    if as_json:
        print(to_json(report))
    else:
        console().print(table(report, where=(out or Path("runs") / recipe.name) / "report.html"))


def _part(recipe: Any, out: Path | None, shard: str, as_json: bool) -> None:
    from steelyard.weigh.asking.shard import collect, parsed

    records = collect(recipe, out, parsed(shard), say=say_on(True))
    if as_json:
        return print_json({"records": records})
    console().print(f"{records} records in {out or Path('runs') / recipe.name}; `steelyard merge` joins the parts.")


def _recipe(words: list[str], base: str | None, data: Path | None, tries: list[str]) -> Any:
    from steelyard.core import recipe

    without = [name for name, value in (("--base", base), ("--data", data), ("--try", tries)) if value]
    named = bool(words) and ("=" not in words[0] or Path(words[0]).exists())
    if named and without:
        raise RecipeError(f"a recipe and {without[0]} both say what to weigh", where="command line", do="Give one of them.")
    if named:
        return recipe.read(words[0], words[1:])
    if base is None:
        raise RecipeError("nothing says what to weigh", where="command line", do="Name a recipe, or give --base, --data and --try.")
    return recipe.from_command_line(base, data, tries, words)


def _plan(recipe: Any, out: Path | None, as_json: bool) -> None:
    from steelyard.weigh import plan as planning

    planned = planning.plan(recipe, out, say=say_on(True))
    if as_json:
        return print_json(planned.as_dict())
    console().print(planned)
