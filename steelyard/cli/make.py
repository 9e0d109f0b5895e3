"""`steelyard make RECIPE -o DIR`: train, adapt or shrink a model into a directory that anyone's tools open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.output import say_on


def make(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe with `base` and `steps`; its paths are relative to it.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, such as steps.0.sft.rank=8.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; runs/NAME/model if left out.")] = None,
    arm: Annotated[str | None, typer.Option(help="Make this arm instead of the recipe's `steps`.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to train: cpu, cuda, cuda:1, mps; by default where the recipe says.")] = None,
) -> None:
    """Train, adapt or shrink a model by a recipe.

    The recipe's steps are pulled on its base in order; what comes out is a directory that transformers opens.
    """
    from steelyard.train import make as making

    making.make(recipe, out, overrides or [], arm=arm, device=device, say=say_on(False))
