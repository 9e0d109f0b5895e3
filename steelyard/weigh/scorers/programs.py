"""Running a program that a model wrote, and whether it ends without an error, in a process of its own under limits.

The process is started without the user's packages and environment, in an empty folder that is deleted afterwards, and may use so many
seconds of the processor, so many of the clock, so much memory, no file larger than a megabyte and few open ones. Inside it an audit
hook refuses sockets, other processes, signals to them, foreign libraries and every write outside its folder; where Linux allows it the
process also has no network at all. That stops accidents and naive malice, not an attacker who knows Python's insides: weigh a model you
do not trust inside a container.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from steelyard.core.errors import UnsupportedError

SECONDS = 10.0  # of the clock; half as many of the processor's would do for every HumanEval solution
MEMORY = 1 << 30  # bytes
LONGEST = 200_000  # characters of a program
SHOWN = 400  # characters of what it said at its end

_GUARD = r"""
import resource, sys, os
seconds, memory, folder = int(sys.argv[1]), int(sys.argv[2]), os.path.realpath(".")
for what, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 1 << 20),
                   (resource.RLIMIT_NOFILE, 32), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(what, (most, most))
try:
    import ctypes
    ctypes.CDLL(None).unshare(0x40000000 | 0x10000000)  # no network, where a user may have a namespace of one's own
    del ctypes
except (OSError, AttributeError, ImportError):
    pass
program = sys.stdin.read()
sys.setrecursionlimit(2000)
refused = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "os.putenv", "pty.",
           "ctypes.", "resource.", "signal.pthread_kill", "shutil.", "os.chmod", "os.chown", "os.link", "os.symlink", "webbrowser.",
           "urllib.", "ftplib.", "http.", "smtplib.", "telnetlib.", "sys.settrace", "sys.setprofile")
written = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.utime")

def inside(path):
    return isinstance(path, (str, bytes)) and os.path.realpath(os.fsdecode(path)).startswith(folder + os.sep)

def hook(event, arguments):
    if event.startswith(refused):
        raise PermissionError(f"a weighed program may not: {event}")
    if event in written and not inside(arguments[0]):
        raise PermissionError(f"a weighed program may not: {event} outside its folder")
    if event == "open":
        path, mode, flags = arguments
        if (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND) and not inside(path):
            raise PermissionError("a weighed program may not write outside its folder")

code = compile(program, "<program>", "exec")
sys.argv, sys.stdin = ["program"], open(os.devnull)
sys.addaudithook(hook)
exec(code, {"__name__": "__main__"})
print("\n" + MARK, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """How a program ended: `passed` whether it ran to its end without an error, `why` the reason where it did not."""

    passed: bool
    why: str = ""


def run_program(program: str, seconds: float = SECONDS, memory: int = MEMORY) -> Run:
    """Runs a Python program in a process under limits.

    Args:
        program: its source.
        seconds: most seconds of the clock.
        memory: most bytes.

    Raises:
        UnsupportedError: this system has no limits for processes (Windows).
    """
    if os.name != "posix":
        raise UnsupportedError("programs of a model are run only where a process can be limited", do="Use Linux or macOS.")
    if len(program) > LONGEST:
        return Run(False, f"longer than {LONGEST} characters")
    try:
        source = program.encode()
    except UnicodeEncodeError:
        return Run(False, "half a surrogate pair")
    mark = f"reached the end {os.urandom(16).hex()}"  # a program that leaves early with status 0 has not passed
    with tempfile.TemporaryDirectory(prefix="steelyard-program-", ignore_cleanup_errors=True) as folder:
        return _run(source, mark, Path(folder), seconds, memory)


def _run(source: bytes, mark: str, folder: Path, seconds: float, memory: int) -> Run:
    guard = _GUARD.replace("MARK", repr(mark))
    command = [sys.executable, "-I", "-S", "-c", guard, str(max(1, round(seconds))), str(memory)]
    with (folder.parent / f"{folder.name}.out").open("w+b") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            process.communicate(source, timeout=seconds)
        except subprocess.TimeoutExpired:
            return Run(False, f"took longer than {seconds:g} seconds")
        finally:
            _end(process)
            os.unlink(said.name)
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - 4096))
        end = said.read().decode("utf-8", "replace").rstrip()
    if process.returncode == 0 and end.endswith(mark):
        return Run(True)
    if process.returncode == -signal.SIGXCPU:
        return Run(False, f"computed for more than {seconds:g} seconds")
    return Run(False, end.splitlines()[-1][-SHOWN:] if end else f"ended with status {process.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
