"""Compiles a grammar in a process of its own first, where it can take too long or fall over without taking anything along.

Grammars come from users. llguidance limits most that can go wrong, but not all of it: an intersection of terminals may compile
for minutes, and thousands of rules that name one another overflow the stack, which would end the whole program. The process
(0.1 s to start) stays for the next grammar and ends with this one.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading

from steelyard.core.errors import UnsupportedError

LONGEST = 3.0
"""Seconds a grammar may take to compile; those of maskbench take 0.05 at most."""
STACK = 2**22
"""Bytes of stack in the trial: half of what the real compilation usually has, so that what passes here has room there."""

_lock = threading.Lock()
_children: list[subprocess.Popen[bytes]] = []


def survive(compiled: str, where: str) -> None:
    """Refuses a grammar that takes too long to compile or breaks the library.

    Raises:
        UnsupportedError: it did; what the library itself refuses is left to the compilation that follows.
    """
    late = threading.Event()
    with _lock:
        child = _child()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(LONGEST, stop)
        timer.daemon = True
        timer.start()
        try:
            answer = _ask(child, compiled)
        finally:
            timer.cancel()
            if child.poll() is not None or late.is_set():
                _end()
    if late.is_set():
        raise UnsupportedError(
            f"compiling it takes longer than {LONGEST:g} s", where=where, do="Make it smaller: fewer alternatives, shorter repetitions."
        )
    if not answer:
        raise UnsupportedError("it is too deep or too large to compile", where=where, do="Make it smaller: fewer rules that name others.")


def _ask(child: subprocess.Popen[bytes], compiled: str) -> bytes:
    """A line once the grammar is compiled, or nothing where the process has ended over it."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(compiled).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        child.wait()
        return b""
    answer = child.stdout.readline()
    if not answer:
        child.wait()
    return answer


def _child() -> subprocess.Popen[bytes]:
    if not _children:
        command = [sys.executable, "-m", __name__]
        _children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    return _children[0]


@atexit.register
def _end() -> None:
    """Ends the process."""
    while _children:
        child = _children.pop()
        child.kill()
        child.communicate()


def _compile(compiled: str) -> None:
    from llguidance import LLMatcher

    from steelyard.generate.constraints.tokens import byte_table

    matcher = LLMatcher(byte_table(), compiled, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()


def _serve() -> None:
    """Compiles what comes, one line each, until nobody asks any more."""
    threading.stack_size(STACK)
    for line in sys.stdin.buffer:
        thread = threading.Thread(target=_compile, args=(json.loads(line),))
        thread.start()
        thread.join()
        sys.stdout.buffer.write(b"done\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
