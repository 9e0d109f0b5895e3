"""Speed, memory, energy and money: measured apart from quality, each arm in a fresh process, arms interleaved.

Machines drift: they warm up, other programs come and go. So no arm is measured in one piece. Blocks of a few answers go through
the arms forward and back (A B B A, A B C C B A, ...), every arm's block is paired with the base's block of the same pass, and
the difference is judged on the pairs. Nothing here is ever read from stored records.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.core import hardware
from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import Message
from steelyard.weigh.cells.costs import Measured
from steelyard.weigh.tasks.perturbed import TAG
from steelyard.weigh.tasks.task import Ask, Sample

PASSES = 4  # forward, back, forward, back
MAX_TOKENS = 40
PATIENCE = 600.0  # seconds a worker may take to load or to answer a block
ROOM = 0.6  # share of the machine's memory that workers may fill together

PROMPTS = (
    "Explain in a few sentences why the sky is blue by day and red in the evening.",
    "Write these names again, one on each line, in the same order: Ada Lovelace, Grace Hopper, Alan Turing, Edsger Dijkstra, "
    "Barbara Liskov, Donald Knuth, Radia Perlman, Tony Hoare.",
)
"""One free answer and one that repeats its prompt, beside two of the user's own questions."""


def prompts_of(tasks: Sequence[Sequence[Sample]]) -> list[tuple[Message, ...]]:
    """What every arm is timed on: a question of the first two tasks that ask any, then the built-in prompts."""
    asked = [[s.request for s in samples if TAG not in s.tags] for samples in tasks]  # questions in other words are no further task
    own = [next((request.conversation for request in requests if isinstance(request, Ask)), None) for requests in asked]
    return [tuple(turns) for turns in own if turns][:2] + [(Message("user", text),) for text in PROMPTS]


class Worker:
    """A process that holds one arm. Lines go in and out; whatever it prints besides is kept for the note if it dies."""

    def __init__(self, directory: Path, arm: str):
        self.arm = arm
        self._heard: collections.deque[str] = collections.deque(maxlen=50)
        command = [sys.executable, "-m", "steelyard.weigh.measure_worker", str(directory), arm]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", errors="replace")
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._listeners = [threading.Thread(target=listen, daemon=True) for listen in (self._listen, self._overhear)]
        for listener in self._listeners:
            listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _overhear(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._heard.append(line.strip())

    def hear(self) -> dict[str, Any]:
        """The next line.

        Raises:
            SteelyardError: it reports a failure, has died, or is silent for too long.
        """
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise SteelyardError(f"its process gave no sign of life for {PATIENCE:.0f} seconds", where=f"arm `{self.arm}`") from None
        if line is None:
            raise SteelyardError(f"its process ended with status {self._process.wait()}: {self._last_words()}", where=f"arm `{self.arm}`")
        value = json.loads(line)
        if "error" in value:
            raise SteelyardError(value["error"])
        return value

    def ask(self, conversations: Sequence[Sequence[Message]], max_tokens: int = MAX_TOKENS) -> dict[str, Any]:
        """Has a block answered."""
        assert self._process.stdin is not None
        turns = [[{"role": m.role, "content": m.content} for m in conversation] for conversation in conversations]
        with contextlib.suppress(BrokenPipeError):  # `hear` says why it died
            self._process.stdin.write(json.dumps({"conversations": turns, "max_tokens": max_tokens}) + "\n")
            self._process.stdin.flush()
        return self.hear()

    def _last_words(self) -> str:
        self._listeners[1].join(5)
        return next((line for line in reversed(self._heard) if line), "it said nothing")

    def close(self) -> None:
        """Ends the process, if need be by force."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for listener in self._listeners:
            listener.join(5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def measure(
    directory: Path,
    arms: Sequence[str],
    conversations: Sequence[Sequence[Message]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[tuple[str, str], tuple[Measured, Measured]]:
    """Measures every arm beside the base.

    Args:
        directory: the run's, with `recipe.resolved.yaml`.
        arms: names; the first is the base.
        conversations: what every arm answers in every pass.
        progress: told (blocks done, blocks in all).

    Returns:
        (base, arm) -> the two sides, measured in the same passes.
    """
    base, *rest = arms
    out: dict[tuple[str, str], tuple[Measured, Measured]] = {}
    total, done = PASSES * (len(rest) + 1), itertools.count(1)
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}

        def start(name: str) -> Mapping[str, Any]:
            workers[name] = Worker(directory, name)
            stack.callback(workers[name].close)
            ready = workers[name].hear()
            workers[name].ask(conversations[-1:], 8)  # the first answer pays for warming up
            return ready

        try:
            ready = {base: start(base)}
        except SteelyardError as error:
            failed = Measured(failure=str(error))
            return {(base, arm): (failed, failed) for arm in rest or [base]}
        size = ready[base].get("resident") or 1
        beside = min(max(1, int(ROOM * hardware.memory_total() / size) - 1), 8)
        for group in [rest[i : i + beside] for i in range(0, len(rest), beside)] or [[]]:
            sides: dict[str, list[Mapping[str, Any]]] = {name: [] for name in (base, *group)}
            failures: dict[str, str] = {}
            for name in group:
                try:
                    ready[name] = start(name)
                except SteelyardError as error:
                    failures[name] = str(error)
            for turn in range(PASSES):
                order = [base, *group] if turn % 2 == 0 else [*reversed(group), base]
                for name in order:
                    if name not in failures:
                        try:
                            sides[name].append(workers[name].ask(conversations))
                        except SteelyardError as error:
                            failures[name] = str(error)
                    progress(next(done), total)
            for name in group:
                workers[name].close()
            parts = {name: _measured(sides[name], ready.get(name, {}), failures.get(name)) for name in (base, *group)}
            out |= {(base, name): (parts[base], parts[name]) for name in group or [base]}
    return out


def _measured(blocks: Sequence[Mapping[str, Any]], ready: Mapping[str, Any], failure: str | None) -> Measured:
    return Measured(() if failure else tuple(blocks), ready.get("weight_bytes"), ready.get("seconds"), failure)
