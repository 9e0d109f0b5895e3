"""`steelyard merge RUN RUN -o RUN` and `steelyard rescore RUN`: what becomes of records once they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.output import console, print_json, say_on


def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of weighings of one recipe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes; a run that is there counts as one of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Bring the records of several machines together, in any order. Different recipes and different arms are refused."""
    from steelyard.weigh.kept import merge as merging

    found = merging.merge(runs, out, say=say_on(True))
    if as_json:
        return print_json(found)
    say_on(False)(f"{found['taken']} records taken over, {found['records']} in {out}.")
    say_on(False)(f"Next: steelyard weigh {out / 'recipe.resolved.yaml'} -o {out} (asks what is missing), or steelyard rescore {out}.")


def rescore(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A weighing's directory: runs/NAME.")],
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON: the report.")] = False,
) -> None:
    """Write a run's report anew from its records.

    No model is opened, nothing is asked or timed.
    """
    from steelyard.weigh import runner
    from steelyard.weigh.report.json import to_json
    from steelyard.weigh.report.terminal import table

    report = runner.rescore(run, say=say_on(True))
    if as_json:
        print(to_json(report))
    else:
        console().print(table(report, where=run / "report.html"))
