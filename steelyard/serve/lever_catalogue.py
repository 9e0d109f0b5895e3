"""The levers that act on answers, as a page shows them, told by a process of its own.

To describe every lever is to import every lever, PyTorch with them, which takes seconds and some hundred megabytes. The server stays
light: it asks a short-lived process once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

from steelyard.core.errors import SteelyardError
from steelyard.core.levers import Lever, all_levers

SECONDS = 600.0
"""What describing all levers may take: some seconds, minutes where the machine does much else, before which this stands back."""
NICE = 10
"""How far the process that describes them stands back behind those that answer."""


def described() -> list[dict[str, Any]]:
    """Every lever that acts on answers."""
    return [told(kind) for kind in all_levers().values() if {"decode", "wrap"} & set(kind.hooks())]


def told(kind: type[Lever]) -> dict[str, Any]:
    """What a lever is, and the JSON schema of its settings."""
    return {
        "name": kind.name,
        "idea": kind.idea,
        "paper": kind.paper,
        "cost": kind.cost,
        "hooks": list(kind.hooks()),
        "maturity": kind.maturity,
        "evidence": kind.evidence,
        "per_request": kind.per_request,
        "greedy": kind.greedy,
        "references": {setting: reference.kind for setting, reference in kind.naming().items()},
        "schema": kind.model_json_schema(),
    }


class Catalogue:
    """The same list, told by another process when it is first asked for, or before: a person who opens the page wants it soon."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] | None = None
        self._one = asyncio.Lock()
        self._early: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Has the list made already. Where that fails, whoever asks for it is told why."""
        if self._early is None:
            self._early = asyncio.create_task(self._begun())

    async def close(self) -> None:
        """Ends what was begun."""
        if self._early is not None:
            self._early.cancel()
            await asyncio.gather(self._early, return_exceptions=True)

    async def _begun(self) -> None:
        with contextlib.suppress(SteelyardError, OSError):
            await self.levers()

    async def levers(self) -> list[dict[str, Any]]:
        """The list.

        Raises:
            SteelyardError: the process failed, or did not end.
        """
        async with self._one:
            if self._told is None:
                self._told = await _asked()
            return self._told


async def _asked() -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, told = await asyncio.wait_for(process.communicate(), SECONDS)
    except BaseException as error:
        if process.returncode is None:
            process.kill()
        if isinstance(error, TimeoutError):
            raise SteelyardError(
                f"listing the levers took more than {SECONDS:.0f} s", do="Ask again when the machine does less."
            ) from error
        raise
    if process.returncode:
        reason = told.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no reason was told"]
        raise SteelyardError(f"the levers cannot be listed: {reason[0][:300]}", do="See `steelyard doctor`.")
    return json.loads(out)


if __name__ == "__main__":
    os.nice(NICE)
    json.dump(described(), sys.stdout)
