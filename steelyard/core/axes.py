"""The axes a weighing may report. Each task's metrics belong to one; the last four belong to the arm as a whole."""

from __future__ import annotations

from typing import Literal, get_args

Axis = Literal[
    "quality",
    "truthfulness",
    "calibration",
    "robustness",
    "format",
    "position",
    "languages",
    "fairness",
    "safety",
    "repeatability",
    "diversity",
    "speed",
    "memory",
    "energy",
    "money",
]
AXES: tuple[Axis, ...] = get_args(Axis)
