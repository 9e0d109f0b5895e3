"""What a report says of an arm that answered elsewhere: what the server calls the model, and what its answers have cost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from steelyard.augment import spending
from steelyard.core.meters.money import prices
from steelyard.core.recipe_parts import EndpointSource
from steelyard.weigh.cells.scoring import Scored


def remarks(source: EndpointSource, scored: Iterable[Scored], directory: Path) -> list[str]:
    """Sentences about a remote arm.

    Args:
        source: of the arm.
        scored: everything it answered.
        directory: the run's, with the account.
    """
    names = sorted({output.model for one in scored for trials in one.outputs for output in trials if output.model})
    said = [f"answered as {names[0]}"] if len(names) == 1 else []
    if len(names) > 1:
        said = [f"answers came from {len(names)} models, which may differ: {', '.join(names)}"]
    spent = sum(spending.of_account(directory / spending.FILE, source.url, source.model).values())
    return said + ([f"{spent:.4g} {prices().currency} spent on {source.model} by this run so far"] if spent else [])
