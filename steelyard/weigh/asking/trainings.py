"""Trainings from nothing as scaling laws take them: size, tokens, operations, loss, and what else they were."""

from __future__ import annotations

from typing import Any

from steelyard.core.fingerprint import digest
from steelyard.core.recipe import Arm, NewSource
from steelyard.model.model import Model
from steelyard.train.budget import UNITS
from steelyard.weigh.report.report import Training

SIZES = ("width", "depth", "heads", "key_value_heads", "head_width")
"""What members of a family may differ in, of their plans and of the parts in them."""
PACE = (*UNITS, "tokens_per_parameter", "learning_rate", "rates", "trial", "batch", "accumulation", "validate_every", "sample_every")
"""The same, of how they were trained: how long, and how fast."""


def trainings_of(arm: Arm, model: Model, seed: int) -> list[Training]:
    """The one pretraining that made an arm's model from nothing.

    Returns:
        [] where it was made otherwise: of a model that was there, what it had read is not known; after a second step, what the first one
        cost is not all; and without text kept aside there is no loss to compare.
    """
    history = model.record.get("training", [])
    others = [lever for lever in arm.levers if "train" in lever.hooks() or "compress" in lever.hooks()]
    if not isinstance(arm.source, NewSource) or len(history) != 1 or len(others) != 1 or others[0].name != "pretrain":
        return []
    (entry,) = history
    result = entry["result"]
    if result["validation_loss"] is None or not result["flops"]:
        return []
    kind = _without_sizes(arm.source.shaped(arm.levers).written())
    settings = {key: value for key, value in entry["settings"].items() if key not in PACE}
    return [
        Training(
            digest([kind, settings, entry["data"]["fingerprint"], _read_aside(entry["settings"])]),
            " and ".join(dict.fromkeys(name for mixer in kind["mixer"] for name in mixer)),
            model.trunk.parameter_count(),
            result["tokens"],
            float(result["flops"]),
            result["validation_loss"],
            seed,
        )
    ]


def _without_sizes(value: Any) -> Any:
    """A plan's plain data without the settings that follow its sizes."""
    if isinstance(value, list):
        return [_without_sizes(item) for item in value]
    return {key: _without_sizes(item) for key, item in value.items() if key not in SIZES} if isinstance(value, dict) else value


def _read_aside(settings: dict[str, Any]) -> Any:
    """How much of the text kept aside the loss was taken on: batches of one size, or all of it."""
    most = settings["validation_batches"]
    return None if most is None else most * settings["batch"]
