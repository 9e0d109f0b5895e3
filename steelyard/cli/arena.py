"""`steelyard arena FILE...`: ratings of arms whose answers were compared two at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.output import console, print_json

if TYPE_CHECKING:
    from steelyard.weigh.judged.arena import Arena


def arena(
    files: Annotated[
        list[Path],
        typer.Argument(help="JSONL: exported conversations with their choices, or one comparison a line; each export is one rater's."),
    ],
    least: Annotated[int, typer.Option(min=1, max=3, help="Choices less clear than this (1 to 3) count as ties.")] = 1,
    settings: Annotated[bool, typer.Option("--settings", help="Other sampler settings make another arm, too.")] = False,
    draws: Annotated[int, typer.Option(min=100, max=20_000, help="Resamples for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON: the arena.")] = False,
) -> None:
    """Rate what people (or a judge) compared two at a time.

    Ratings are of the Bradley-Terry model with ties; the order of the comparisons does not matter. Choices made on the page of `serve`
    come with `GET /api/export?kind=conversations`. Arms are called by the served model's name and the levers asked for.
    """
    import dataclasses

    from steelyard.core.errors import DataError
    from steelyard.weigh.judged.arena import arena as rate
    from steelyard.weigh.judged.comparisons import read_comparisons, weakened

    found = read_comparisons(files, settings=settings)
    if not found.all:
        left = "; ".join(f"{count}, because {reason}" for reason, count in sorted(found.left_out.items()))
        raise DataError(
            f"there are no comparisons{f' (left out: {left})' if left else ''}",
            where=", ".join(map(str, files)),
            do="Compare answers of two models on the page, or with other levers; --settings also tells sampler settings apart.",
        )
    rated = rate(weakened(found.all, least), seed=seed, draws=draws)
    changed = [
        f"{name} answered under {len(prints)} fingerprints: it was not the same model, or not run the same way, throughout."
        for name, prints in sorted(found.versions.items())
        if len(prints) > 1
    ]
    rated = dataclasses.replace(rated, notes=[*rated.notes, *changed], left_out=dict(sorted(found.left_out.items())))
    if as_json:
        return print_json(rated.as_dict())
    _show(rated)


def _show(rated: Arena) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from steelyard.weigh.report.visible import visible

    out, many = console(), max(arm.group for arm in rated.arms if arm.rating is not None or arm is rated.arms[0]) > 0
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")
    for heading in (
        "arm",
        *(["group"] if many else []),
        f"points [{rated.confidence:.0%}]",
        "expected share of wins",
        "n",
        "won/lost/tied",
    ):
        table.add_column(heading, justify="left" if heading == "arm" else "right", overflow="fold")
    for arm in rated.arms:
        points = "no rating" if arm.rating is None else f"{arm.rating:+.0f} {_span(arm.low, arm.high)}"
        share = "" if arm.share is None else f"{arm.share:.2f} {_span(arm.share_low, arm.share_high, '.2f')}"
        cells = [visible(arm.arm), *([str(arm.group)] if many else []), points, share, str(arm.n), f"{arm.wins}/{arm.losses}/{arm.ties}"]
        table.add_row(*map(Text, cells))
    out.print(table)
    for line in told(rated):
        out.print(Text(visible(line)), soft_wrap=True)


def told(rated: Arena) -> list[str]:
    """What stands below the table, in sentences."""
    drawn = " and ".join(f"{count} {name}" for name, count in rated.clusters.items())
    lines = [
        f"Comparisons: {rated.n}; intervals from {rated.draws} resamples of {drawn}. 400 points are odds of ten to one; the mean is 0."
    ]
    place = rated.place
    if place.value is not None:
        lines.append(
            f"Standing first: of two equal arms the first wins {place.value:.0%} {_span(place.low, place.high, '.0%')} of what is no tie "
            f"(n {place.n}); taken out of the ratings."
        )
    else:
        lines.append(f"What standing first is worth is not known, and is not taken out of the ratings: {place.reason}.")
    if rated.tie:
        lines.append(f"Two equal arms tie in {rated.tie:.0%}.")
    lines += [f"{arm.arm}: {arm.reason}." for arm in rated.arms if arm.reason]
    lines += rated.notes
    return [*lines, *(f"Left out: {count}, because {reason}." for reason, count in rated.left_out.items())]


def _span(low: Any, high: Any, form: str = "+.0f") -> str:
    """An interval; an open bound is said so."""
    ends = ["open" if bound is None else format(bound, form) for bound in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"
