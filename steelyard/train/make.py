"""`steelyard make`: a recipe's base and steps become a model directory that says how it came to be.

The directory appears whole or not at all, and takes the place of an older one only if that was made here too. Steps keep their
checkpoints under `runs/NAME/make/`, so the same command goes on where a killed one was.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from steelyard.core import recipe as recipes
from steelyard.core.errors import RecipeError, SteelyardError, UnsupportedError, nearest
from steelyard.core.files import write_json, write_text, writing
from steelyard.core.hardware import describe, versions
from steelyard.core.levers import Lever
from steelyard.core.progress import shown
from steelyard.core.recipe import EndpointSource, ModelSource, NewSource, Recipe
from steelyard.core.recipe_parts import written_lever
from steelyard.core.references import ModelRef, Reference
from steelyard.core.run import Run
from steelyard.model.adapters import save_adapter
from steelyard.model.linears.lora import branches
from steelyard.model.load import device_of, load
from steelyard.model.model import Model
from steelyard.model.save import put_in_place
from steelyard.train.card import model_card
from steelyard.train.parallel.launched import company
from steelyard.train.pretrain.new import look_for_texts, new_model
from steelyard.train.steps import look_ahead, pull


def make(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    arm: str | None = None,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Model:
    """Makes the model a recipe describes and saves it.

    Args:
        recipe: a recipe file, or one already read.
        out: directory to write; `runs/NAME/model` if None.
        overrides: `key.path=value`, as on the command line.
        arm: make this arm of the recipe instead of its `steps`. A recipe without steps and with one arm makes that arm.
        device: where to train; None = where the recipe says (`run: {device: cuda}`), else on the CPU.
        say: receives lines for a person; a terminal also gets a progress bar on standard error.

    Returns:
        The model as saved, with its branches where the adapter is kept apart.

    Raises:
        RecipeError: the recipe has nothing to make, or its base has no weights here.
        SteelyardError: `out` holds something that was not made here; or whatever a step raises.
    """
    recipe = recipe if isinstance(recipe, Recipe) else recipes.read(recipe, overrides)
    arm, source, levers = chosen(recipe, arm)
    folder = Path("runs") / recipe.name
    out = Path(out) if out is not None else folder / "model"
    check_place(out, source.name)
    if isinstance(source, NewSource):
        look_for_texts(source.shaped(levers))
    look_ahead(levers)
    device = device or recipe.run.place
    device_of(device)
    crew = company(torch.device(device))  # under torchrun all of its processes make the model; the first one writes and speaks
    say = say if crew.first else _silent
    with shown() as progress:
        run = Run(folder / "make", seed=recipe.seed, device=device, resolve=References(), say=say, progress=progress)
        if crew.first:
            write_text(run.path("recipe.resolved.yaml"), recipe.text())
        else:
            crew.wait()  # what the first one has learned or downloaded is read
        begun = time.perf_counter()
        base = new_model(source.shaped(levers), run) if isinstance(source, NewSource) else load(source.name)
        if crew.first:
            crew.wait()
        levers = [lever.bind(run.resolve) for lever in levers]
        model = pull(levers, base, run)
    made = with_record(model, base, source.name, levers, recipe, arm, time.perf_counter() - begun)
    if crew.first:
        write(made, out, source.name)
    crew.wait()
    say(f"saved {out}")
    return made


def _silent(line: str) -> None:
    """For the processes that leave speaking to the first."""


def chosen(recipe: Recipe, arm: str | None) -> tuple[str | None, ModelSource | NewSource, Sequence[Lever]]:
    """The arm that is made (None: the recipe's steps), what to start from and which levers to pull."""
    arms = {name: value for name, value in recipe.arms.items() if name != "base"}
    if arm is None and not recipe.steps and len(arms) == 1:
        (arm,) = arms
    if arm is not None:
        if arm not in arms:
            raise RecipeError(f"no arm is called `{arm}`", where=recipe.name, do=nearest(arm, arms))
        source, levers = arms[arm].source, arms[arm].levers
    else:
        source, levers = recipe.base, recipe.steps
    if not levers:
        one = f"Name one of its arms: {', '.join(arms)}." if arms else "Add `steps: [{sft: {...}}]`."
        raise RecipeError("the recipe has no steps, so there is nothing to make", where=recipe.name, do=one)
    if isinstance(source, EndpointSource):
        raise UnsupportedError("a server's model cannot be made into another", where=recipe.name, do="Name one that is here as `base`.")
    return arm, source, levers


def check_place(out: Path, base: str) -> None:
    """Refuses, before any work, a place that must not be overwritten or cannot be written."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
        if not out.exists():
            return
        if not out.is_dir():
            raise SteelyardError("a file stands there", where=str(out), do="Choose another folder.")
        if any(out.iterdir()) and not (out / "steelyard.json").exists():
            raise SteelyardError(
                "the folder holds something that was not made here", where=str(out), do="Choose another folder, or empty it."
            )
    if Path(base).exists() and out.resolve() == Path(base).resolve():
        raise SteelyardError("the new model would take its own base's place", where=str(out), do="Choose another folder.")


class References:
    """Turns references in settings into models; the same name is the same model."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}

    def __call__(self, reference: Reference) -> Any:
        if not isinstance(reference, ModelRef):
            raise UnsupportedError(f"`make` has no {reference.kind} called `{reference.name}`", do="Leave the lever that asks for it out.")
        if reference.name not in self.models:
            self.models[reference.name] = load(reference.name)
        return self.models[reference.name]


def with_record(
    model: Model, base: Model, base_name: str, levers: Sequence[Lever], recipe: Recipe, arm: str | None, seconds: float
) -> Model:
    """The model with `steelyard.json`'s content: where it comes from, what was done, with what, and what was measured."""
    training = model.record.get("training", [])[len(base.record.get("training", [])) :]
    record: dict[str, Any] = {
        "parents": [{"name": base_name, "fingerprint": base.fingerprint, "parents": base.record.get("parents", [])}]
        if base_name != "new"
        else [],
        "recipe": recipe.resolved(),
        **({"arm": arm} if arm else {}),
        "steps": [written_lever(lever) for lever in levers if "weights" in lever.stages()],
        "serve": [written_lever(lever) for lever in levers if not {"weights", "new"} & set(lever.stages())],
        "training": [*base.record.get("training", []), *training],
        "seed": recipe.seed,
        "versions": versions(),
        "machine": describe(),
        "measurements": {"seconds": round(seconds, 1), "weight_bytes": model.trunk.weight_bytes()},
    }
    return dataclasses.replace(model, name=recipe.name, record=record | {"card": model_card(model, recipe.name, record)})


def write(model: Model, out: Path, base: str) -> None:
    """Saves the model, or its adapter where that was kept apart."""
    if not branches(model.trunk):
        model.save(out)
        return
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        temporary.chmod(0o755)
        save_adapter(model.family, model.trunk, temporary, base)
        if model.tokenizer is not None:
            model.tokenizer.save(temporary)
        if model.template is not None:
            model.template.save(temporary)
        write_json(temporary / "steelyard.json", {key: value for key, value in model.record.items() if key != "card"})
        write_text(temporary / "README.md", model.record["card"])
        with writing(out):
            put_in_place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
