"""Regular expressions that cannot hang: a user's pattern is tried in a process of its own, under a time limit.

Python's `re` backtracks, and a pattern such as `(a+)+$` can need longer than the universe on forty letters. Threads
cannot be stopped, alarms work on the main thread of some systems only, and other engines know other patterns; a process
can always be ended, and inside it the patterns are exactly Python's. One worker is kept for many checks (about a
millisecond each) and replaced when it had to be ended. The limit is of its processor time, so that a machine that does much
else decides as one that is idle; the clock only ends what computes nothing, or what no timer of the processor can end.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass, field

from steelyard.core.errors import SteelyardError

SECONDS = 2.0  # of the processor: a pattern that has not answered by then counts as one that cannot be decided
PROBE_SECONDS = 1.0
PATIENCE = 60.0 if hasattr(signal, "setitimer") else 1.0  # as many seconds of the clock for each of these; Windows counts no others
LONGEST_PATTERN = 2_000  # characters
LONGEST_TEXT = 200_000  # characters

_WORKER = """
import json, re, signal, sys
limit = getattr(signal, "setitimer", lambda which, seconds: None)
which = getattr(signal, "ITIMER_PROF", None)  # its signal ends the process, even in the middle of a search
print(flush=True)
for line in sys.stdin:
    pattern, text, seconds = json.loads(line)
    limit(which, seconds)
    found = re.search(pattern, text) is not None
    limit(which, 0)
    print(json.dumps(found), flush=True)
"""


class PatternTimeout(SteelyardError):
    """A pattern that took too long on a text."""


@dataclass
class _Worker:
    """The process that tries patterns, started when first needed."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    process: subprocess.Popen[str] | None = None

    def ask(self, pattern: str, text: str, seconds: float) -> bool | None:
        """Whether the pattern is found; None where it took too long."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _WORKER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    encoding="ascii",
                )
                assert self.process.stdout is not None
                self.process.stdout.readline()  # it has started, however long that takes
            assert self.process.stdin is not None and self.process.stdout is not None
            timer = threading.Timer(PATIENCE * seconds, self.process.kill)
            timer.start()
            try:
                print(json.dumps([pattern, text, seconds]), file=self.process.stdin, flush=True)
                reply = self.process.stdout.readline()
            except BrokenPipeError:
                reply = ""
            finally:
                timer.cancel()
            if not reply:  # ended by a timer, or by a pattern that needed too much memory
                self.close()
            return json.loads(reply) if reply else None

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@functools.lru_cache(maxsize=1)
def _worker(process_id: int) -> _Worker:
    """This process's worker: a forked copy of this process must not share its parent's."""
    worker = _Worker()
    atexit.register(worker.close)
    return worker


def pattern_problem(pattern: str) -> str | None:
    """Why a text is no usable pattern; None where it is one."""
    if len(pattern) > LONGEST_PATTERN:
        return f"a pattern of more than {LONGEST_PATTERN} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression: {error}"
    return None


def probably_endless(pattern: str) -> bool:
    """Whether a pattern runs out of time on a few short texts made to trip nested repeats. Not finding it proves nothing."""
    own = "".join(dict.fromkeys(c for c in pattern if c.isalnum() or c in " _-"))[:12]
    for probe in dict.fromkeys([*own, "a", "0", " ", own or "a0"]):
        try:
            search_within(pattern, probe * (64 // len(probe)) + "\n\x00", PROBE_SECONDS)
        except PatternTimeout:
            return True
    return False


def search_within(pattern: str, text: str, seconds: float = SECONDS) -> bool:
    """Whether a pattern is found anywhere in a text, as `re.search` would say.

    Raises:
        PatternTimeout: where it is not decided within `seconds` of a processor.
        SteelyardError: for a text that is no pattern, or texts that are too long.
    """
    if problem := pattern_problem(pattern):
        raise SteelyardError(problem, where=f"pattern {pattern[:80]!r}", do="See the syntax of Python's `re`.")
    if len(text) > LONGEST_TEXT:
        raise SteelyardError(f"a text of {len(text)} characters is too long to search", where=f"pattern {pattern[:80]!r}")
    found = _worker(os.getpid()).ask(pattern, text, seconds)
    if found is None:
        raise PatternTimeout(
            f"the pattern was not decided within {seconds:g} seconds",
            where=f"pattern {pattern[:80]!r}",
            do="Write it without nested repeats, such as `(a+)+`.",
        )
    return found
