"""What comes in for one who waits: each look takes all that has come since the last one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Arrivals(Generic[T]):
    """Items on their way to a single reader of the same event loop.

    Whoever falls behind takes more at a time. A queue would wake its reader for every item, and with some thousand items a second
    that costs more than all else that is done for them. Nobody who puts is ever held up: what there is to come has to have an end.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: list[T] = []
        self._waking: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """Adds an item."""
        self._items.append(item)
        if self._waking is not None:
            if not self._waking.done():  # whoever waited may have been cancelled
                self._waking.set_result(None)
            self._waking = None

    async def take(self) -> list[T]:
        """All that has come, at least one item, in order."""
        if not self._items:
            self._waking = self._loop.create_future()
            await self._waking
        items, self._items = self._items, []
        return items


async def each(batches: AsyncIterator[Sequence[T]]) -> AsyncGenerator[T]:
    """The items of batches, one after the other. To close `batches` is left to whoever made them."""
    async for items in batches:
        for item in items:
            yield item
