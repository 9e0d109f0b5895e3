"""A process that has nothing to do hands freed memory back, once, and never while it works."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from steelyard.serve import resting


@pytest.mark.parametrize("own_threads", [True, False])
def test_memory_is_handed_back_once_nothing_is_under_way(monkeypatch: pytest.MonkeyPatch, own_threads: bool) -> None:
    async def run() -> None:
        handed, under_way = asyncio.Event(), {1, 2}
        loop, rested = asyncio.get_running_loop(), []

        def trim() -> None:
            rested.append(set(under_way))
            loop.call_soon_threadsafe(handed.set)

        monkeypatch.setattr(resting.memory, "trim", trim)
        monkeypatch.setattr(resting, "REST", 0.0)
        with ThreadPoolExecutor(1) as threads:
            rests = resting.Resting(lambda: not under_way, threads if own_threads else None)
            under_way.discard(1)
            rests.after_work()  # 2 is under way
            under_way.discard(2)
            rests.after_work()
            under_way.add(3)  # before the second is over
            for _ in range(5):
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert rested == []
            under_way.discard(3)
            for _ in range(2):
                rests.after_work()
            await asyncio.wait_for(handed.wait(), 60)
            assert rested == [set()]
            rests.after_work()
            rests.end()
            await asyncio.sleep(0.01)
        assert rested == [set()]

    asyncio.run(run())
