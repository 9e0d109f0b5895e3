"""Weighing: from a recipe to a report. `steelyard.weigh(recipe)` is `steelyard.weigh.runner.weigh(recipe)`.

The folder and the function share their name, and Python puts a folder's module in its parent's namespace as soon as anything
inside is imported. So the module itself can be called; whichever a person meets under `steelyard.weigh` does the same.
"""

import sys
import types
from typing import Any


class _Weigh(types.ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """See `steelyard.weigh.runner.weigh`."""
        from steelyard.weigh.runner import weigh

        return weigh(*arguments, **settings)


sys.modules[__name__].__class__ = _Weigh
