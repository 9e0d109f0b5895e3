"""`steelyard`: the verbs, and what happens when one of them fails.

A failure the user can do something about is told on standard error, without a traceback, and ends with status 2; Ctrl-C
ends with 130.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import steelyard
from steelyard.cli import arena, calibrate, chat, detect, doctor, get, inspect, levers, make, report, runs, serve, tasks, weigh
from steelyard.core.errors import SteelyardError

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class _Verbs(TyperGroup):
    """Runs a verb and turns its failures into messages."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SteelyardError as error:
            fail(str(error))
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            fail(f"{error.filename or 'the disk'}: {(error.strerror or 'cannot be written').lower()}")

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)  # in the order a person needs them


def fail(message: str) -> None:
    """Prints a message on standard error and ends with status 2."""
    from steelyard.weigh.report.visible import visible

    sys.stdout.flush()
    print(
        f"steelyard: {visible(message)}".encode(sys.stderr.encoding or "utf-8", "replace").decode(sys.stderr.encoding or "utf-8"),
        file=sys.stderr,
    )
    raise typer.Exit(2)


def _version(asked: bool) -> None:
    if asked:
        print(f"steelyard {steelyard.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="steelyard",
    cls=_Verbs,
    help="Find out what a change to your language model really did.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _steelyard(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
) -> None:
    """Find out what a change to your language model really did."""


app.command("get")(get.get)
app.command("inspect")(inspect.inspect)
app.command("chat")(chat.chat)
app.command("weigh")(weigh.weigh)
app.command("report")(report.report)
app.command("merge")(runs.merge)
app.command("rescore")(runs.rescore)
app.command("make")(make.make)
app.command("calibrate")(calibrate.calibrate)
app.command("arena")(arena.arena)
app.command("serve")(serve.serve)
app.command("levers")(levers.levers)
app.command("tasks")(tasks.tasks)
app.command("detect")(detect.detect)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
