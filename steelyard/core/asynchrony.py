"""Asynchronous work from plain code, wherever that runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


def run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine from plain code, also where an event loop already turns (a notebook): then on a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    failures: list[BaseException] = []

    def turn() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # carried over to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=turn, name="steelyard-weigh")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
