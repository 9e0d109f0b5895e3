"""`steelyard serve [MODEL ...]`: an OpenAI-compatible server and the page, until Ctrl-C or SIGTERM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.completion import lever_names, model_names
from steelyard.core.errors import SteelyardError, UnsupportedError

if TYPE_CHECKING:
    from steelyard.serve.served import ServedModel

DEFAULT_MODEL = "smollm2-135m-instruct"
PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "alembic", "prometheus_client")


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"What to serve, as PATH or NAME=PATH: a got name, a directory, a .gguf file or hf:org/name; {DEFAULT_MODEL} by default.",
            autocompletion=model_names,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need --key or --users.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")] = 8000,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of conversations and feedback; by default beside what `steelyard get` keeps.", file_okay=False),
    ] = None,
    database: Annotated[str | None, typer.Option(help="postgresql://... instead of a file in the folder.")] = None,
    key: Annotated[str | None, typer.Option(help="Name of the environment variable that holds the key clients must send.")] = None,
    users: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON file of users, name: key (or name: sha256:HEX). Each finds only what is theirs.", dir_okay=False),
    ] = None,
    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try", help='Levers pulled on every answer, in order: prompt_lookup,"prompt:Be concise".', autocompletion=lever_names
        ),
    ] = None,
    documents: Annotated[
        list[str] | None, typer.Option(help="An index that everybody's levers may search, besides their own documents; may be repeated.")
    ] = None,
    calibration: Annotated[
        list[str] | None,
        typer.Option(help="A file that `steelyard calibrate` made: answers tell their chance of being right. May be repeated."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder whose reports can be read.", file_okay=False)] = Path("runs"),
    name: Annotated[list[str] | None, typer.Option(help="A further name that clients call this server by; may be repeated.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="A further origin whose pages may ask, https://host; may be repeated.")] = None,
    slots: Annotated[int, typer.Option(min=1, max=256, help="Answers of one model written at once.")] = 8,
    context: Annotated[int | None, typer.Option(min=16, help="Most tokens of a conversation with its answer.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine.")] = None,
    device: Annotated[str, typer.Option(help="Where models answer: cpu, cuda, cuda:1.")] = "cpu",
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait for a slot; more are told to come again.")] = 64,
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds an answer may take to begin; then its client is told to come again.")] = 120,
    spare: Annotated[
        bool, typer.Option(help="Keep a process (some 160 MB) waiting, so that answers are given again sooner if the engine's dies.")
    ] = True,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that answers under way may still take once the server is told to end.")] = 30,
) -> None:
    """Serve models over OpenAI's API, with a page to talk.

    On loopback and without a key by default. Ctrl-C or SIGTERM lets answers under way finish, then ends.
    """
    import importlib.util

    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise UnsupportedError(
            f"serving needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            where="steelyard serve",
            do='Run: pip install "steelyard[serve]"',
        )
    from steelyard.core.get import home
    from steelyard.serve.server import run
    from steelyard.serve.settings import ServeSettings, key_from
    from steelyard.serve.users import users_from

    settings = ServeSettings.model_validate(
        dict(
            host=host,
            port=port,
            data=data or home() / "serve",
            database=database,
            key=key_from(key),
            users=users_from(users) if users else {},
            documents=tuple(documents or ()),
            runs=runs,
            hosts=tuple(name or ()),
            origins=tuple(text.rstrip("/") for text in origin or ()),
            queue=queue,
            wait_seconds=wait,
            spare=spare,
            drain_seconds=grace,
        )
    )
    settings.check()
    files = _files(calibration or [])
    served = [
        replace(_model(text, tries or [], threads, slots, context), calibrations=files, device=device) for text in models or [DEFAULT_MODEL]
    ]
    run(settings, served, say=_note)


def _model(text: str, tries: list[str], threads: int | None, slots: int, context: int | None) -> ServedModel:
    """What one argument asks to serve: `NAME=PATH`, or a path that is its own name (a folder's or file's own, without the way to it)."""
    from steelyard.core.levers import parse_try
    from steelyard.serve.served import ServedModel

    name, equals, source = text.partition("=")
    if not equals:
        name, source = Path(text).name if Path(text).exists() else text, text
    if not name or not source or not name.isprintable() or name != name.strip() or len(name) > 200:
        raise SteelyardError(f"`{text[:80]}` names no model", where="steelyard serve", do="Write PATH or NAME=PATH.")
    levers = tuple(lever for one in tries for lever in parse_try(one))
    return ServedModel(name=name, source=source, levers=levers, threads=threads, slots=slots, context=context)


def _files(names: list[str]) -> tuple[str, ...]:
    """Files as whole paths: the engine's process may have another folder."""
    if missing := [name for name in names if not Path(name).is_file()]:
        raise SteelyardError("there is no such file", where=f"--calibration {missing[0]}", do="Make one: `steelyard calibrate MODEL`.")
    return tuple(str(Path(name).absolute()) for name in names)


def _note(line: str) -> None:
    """A line for the person who started the server, on standard error."""
    from rich.text import Text

    from steelyard.cli.output import console
    from steelyard.weigh.report.visible import visible

    console(stderr=True).print(Text(visible(line)), soft_wrap=True)
