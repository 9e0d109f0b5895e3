"""A recipe's weight levers, pulled in order, each with a run directory of its own so that a killed one goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.fingerprint import digest
from steelyard.core.levers import Lever
from steelyard.core.run import Run
from steelyard.model.model import Model


def weight_levers(levers: Sequence[Lever]) -> list[Lever]:
    """Those that act on samples or weights."""
    return [lever for lever in levers if "weights" in lever.stages()]


def look_ahead(levers: Sequence[Lever]) -> None:
    """Asks every lever that `pull` would pull whether what it will read is there.

    Raises:
        RecipeError: see `pull`.
        SteelyardError: something is not; the step's place in the list is named.
    """
    _check_order(weight_levers(levers))
    for number, lever in enumerate(weight_levers(levers), start=1):
        try:
            lever.ready()
        except SteelyardError as error:
            raise error.at(f"step {number} ({lever.name})") from error


def pull(levers: Sequence[Lever], model: Model, run: Run) -> Model:
    """The model after the `data`, `train` and `compress` hooks of all levers; decode and wrap levers are left alone.

    Data levers gather until a lever trains on what they make of its samples. A lever's directory is named by everything that
    decides its outcome, so a changed setting begins anew and an unchanged one goes on.

    Raises:
        RecipeError: samples are changed that no lever trains on, or an adapter is kept apart before another step.
        SteelyardError: a step failed; its place in the list is named.
    """
    pulled = weight_levers(levers)
    _check_order(pulled)
    streams: list[Callable[[Any], Any]] = []
    trail = [model.fingerprint] if pulled else []
    for number, lever in enumerate(pulled, start=1):
        trail.append(lever.fingerprint)
        name = f"{number:02d}-{lever.name}"
        inner = run.inner(f"{name}-{digest([trail, run.seed])[:8]}", seed=run.derive_seed(name))
        hooks: Any = lever
        try:
            if "data" in lever.hooks():
                streams.append(hooks.data)
            if "train" in lever.hooks():
                model = hooks.train(model, _composed(streams), inner)
                streams = []
            if "compress" in lever.hooks():
                model = hooks.compress(model, None, inner)
        except SteelyardError as error:
            raise error.at(f"step {number} ({lever.name})") from error
    return model


def _check_order(pulled: Sequence[Lever]) -> None:
    """Refuses, before anything is pulled, an adapter kept apart before another step, and samples changed that no later step trains on."""
    kept_apart = [lever.name for lever in pulled[:-1] if getattr(lever, "merge", True) is False]
    if kept_apart:
        raise RecipeError(
            f"`{kept_apart[0]}` keeps its adapter apart (`merge: false`) but is not the last step", do="Merge it: `merge: true`."
        )
    hooks = [lever.hooks() for lever in pulled]
    trained = max((number for number, each in enumerate(hooks) if "train" in each), default=-1)
    if late := [lever.name for lever, each in zip(pulled[trained + 1 :], hooks[trained + 1 :], strict=True) if "data" in each]:
        raise RecipeError(f"`{late[0]}` changes samples that no later step trains on", do="Put it before the step that trains.")


def _composed(streams: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any] | None:
    taken = tuple(streams)

    def apply(samples: Any) -> Any:
        for data in taken:
            samples = data(samples)
        return samples

    return apply if taken else None
