"""Letting go of weights that something else has its own copy of: an engine packs a model's matrices, and needs them once."""

from __future__ import annotations

from steelyard.model.model import Model
from steelyard.model.trunk import Trunk


def release(model: Model, running: Trunk) -> None:
    """From now on a model is what an engine made of it; the weights it was made from are let go.

    Its fingerprint stays that of what it was loaded from, and further engines can be made of it without another copy. It can no longer
    be saved: rounded and packed weights are no file's.

    Args:
        model: nobody else's.
        running: the trunk an engine made of it.
    """
    assert model.fingerprint  # it is told from the weights, once
    model.trunk = running
