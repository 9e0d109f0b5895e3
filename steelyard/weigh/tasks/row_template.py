"""Templates over a row's columns: Jinja in the sandbox that chat templates run in (`model/template_sandbox.py`).

`{{ question }}` is the column of that name, `{{ row["any name"] }}` one whose name is no word. A column that is not there is an error,
white space is kept as it is written, and a template may not read files, run long or make much.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jinja2

from steelyard.core.errors import RecipeError
from steelyard.model import template_sandbox as sandbox
from steelyard.model.template import FAILURES, MOST_SOURCE
from steelyard.model.template_budget import metered
from steelyard.weigh.bad_value import BadValue


@functools.cache
def _environment() -> sandbox.TemplateEnvironment:
    plain = {"trim_blocks": False, "lstrip_blocks": False, "keep_trailing_newline": True, "undefined": jinja2.StrictUndefined}
    return sandbox.environment().overlay(**plain)  # type: ignore[return-value]


class RowTemplate:
    """A template over rows.

    Args:
        source: Jinja source.
        name: the key it stands under, for errors.
        where: its address, for errors.

    Raises:
        RecipeError: it is no template, or uses what the sandbox forbids.
    """

    def __init__(self, source: str, name: str, where: str):
        self.name = name
        if len(source) > MOST_SOURCE:
            raise RecipeError(f"`{name}` has {len(source)} characters; at most {MOST_SOURCE} are read", where=where)
        try:
            with metered():
                self._template = _environment().from_string(source)
        except FAILURES as error:
            raise RecipeError(f"`{name}` is no template: {error}", where=where, do="See the syntax of Jinja.") from None

    def render(self, row: Mapping[str, Any]) -> str:
        """The text of a row.

        Raises:
            BadValue: a column is missing, or the template fails on this row.
        """
        try:
            with metered() as budget:
                pieces, length = [], 0
                for piece in self._template.generate({**row, "row": dict(row)}):
                    pieces.append(piece)
                    length += len(piece)
                    budget.fits(length)
                return "".join(pieces)
        except FAILURES as error:
            raise BadValue(f"`{self.name}`: {str(error)[:300] or type(error).__name__}") from None
