"""Steelyard: find out what a change to your language model really did.

    import steelyard as sy
    model = sy.load("smollm2-135m-instruct")
    engine = sy.Engine(model)
    report = sy.weigh("recipe.yaml")

Everything here is imported at its first use, so that `import steelyard` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steelyard.core.errors import SteelyardError
    from steelyard.core.levers import Lever
    from steelyard.core.levers import all_levers as levers
    from steelyard.generate.engine import Engine
    from steelyard.model.load import load
    from steelyard.train.make import make
    from steelyard.weigh.runner import weigh

__version__ = "0.1.0"
__all__ = ["Engine", "Lever", "SteelyardError", "__version__", "levers", "load", "make", "weigh"]

_HOMES = {
    "Engine": ("steelyard.generate.engine", "Engine"),
    "Lever": ("steelyard.core.levers", "Lever"),
    "SteelyardError": ("steelyard.core.errors", "SteelyardError"),
    "levers": ("steelyard.core.levers", "all_levers"),
    "load": ("steelyard.model.load", "load"),
    "make": ("steelyard.train.make", "make"),
}


def __getattr__(name: str) -> Any:
    if name == "weigh":  # the folder itself, which can be called (see its `__init__`)
        return importlib.import_module("steelyard.weigh")
    if name not in _HOMES:
        raise AttributeError(f"module `steelyard` has no attribute `{name}`")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
