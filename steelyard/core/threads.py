"""Work in a thread that ends with it.

GNU's OpenMP keeps worker threads for every thread that ever multiplied in parallel. As soon as all of them together outnumber the
cores, its workers no longer wait actively for their next piece, and each small product costs a wake-up: decoding in an engine's
thread took 1.5 times as long after the main thread had merely loaded the model (SmolLM2-135M, 2 cores: 42 ms a token instead of
28). The workers of a thread that has ended are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def apart(function: Callable[[], T]) -> T:
    """What a function returns or raises, from a thread of its own."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="steelyard-apart") as pool:
        return pool.submit(function).result()
