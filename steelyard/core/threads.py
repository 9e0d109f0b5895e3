"""Work in a thread that ends with it.

GNU's OpenMP keeps worker threads for every thread that ever multiplied in parallel. As soon as all of them together outnumber the
cores, its workers no longer wait actively for their next piece, and each small product costs a wake-up: decoding in an engine's
thread took 1.5 times as long after the main thread had merely loaded the model (SmolLM2-135M, 2 cores: 42 ms a token instead of
28). The workers of a thread that has ended are gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def apart(function: Callable[[], T]) -> T:
    """What a function returns or raises, from a thread of its own. An interrupt is heard at once: the work is then abandoned."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # raised again where it is waited for
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name="steelyard-apart", daemon=True)
    thread.start()
    result = outcome.result()
    thread.join()
    return result


def compute_alone() -> None:
    """PyTorch's operations in the calling thread use no other threads from now on; those of other threads are as they were.

    For a thread whose large products somebody else computes: PyTorch's workers would wait actively between its small operations and
    take the cores from those who work. (Sampled decoding with the C++ routines took 8.8 ms a token instead of 4.3.)
    """
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)  # for this thread, and for threads that begin to compute after it
    apart(lambda: torch.set_num_threads(count))  # for the latter, as before
