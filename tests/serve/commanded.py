"""A server as a person starts it: `steelyard serve` in a process of its own, which can be told to end, or killed."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import httpx

COMMAND = [sys.executable, "-m", "steelyard.cli.main", "serve"]


@dataclass
class Commanded:
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)

    def client(self, key: str | None = None) -> httpx.Client:
        """A client, with the key if there is one."""
        return httpx.Client(base_url=self.url, timeout=240, headers={"Authorization": f"Bearer {key}"} if key else {})

    def told(self) -> str:
        """All it has written to standard error so far."""
        return "".join(self.lines)


@contextlib.contextmanager
def commanded(options: Sequence[str], patience: float = 300, **environment: str) -> Iterator[Commanded]:
    """Starts it on a free port, and kills it in the end or when `patience` seconds are over: it must not hold up the tests."""
    command = [*COMMAND, *options, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        assert process.stderr is not None
        timer = threading.Timer(patience, process.kill)
        timer.start()
        try:
            lines: list[str] = []
            while (found := re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))) is None:
                line = process.stderr.readline()
                assert line, "".join(lines)
                lines.append(line)
            threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
            yield Commanded(process, found[0], lines)
        finally:
            timer.cancel()
            process.kill()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something to hold; a test that waits in vain fails."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.01)
