"""kill -9 in the middle of a weighing with a real engine, real files and a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_weighing import tiny_weighing

from steelyard.core.errors import SteelyardError
from steelyard.weigh.records import Records
from steelyard.weigh.report.json import quality_part
from steelyard.weigh.report.report import Report
from steelyard.weigh.runner import weigh

PATIENCE = 240.0  # seconds for a process to start and answer on a busy machine


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe about a tiny model, with every kind of request, and levers on weights, decoding and nothing."""
    return tiny_weighing(tmp_path_factory.mktemp("recipe"), problems=16, rows=8, pieces=6)


@pytest.fixture(scope="module")
def whole(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return quiet(written, tmp_path_factory.mktemp("whole"))


def quiet(recipe: Path, directory: Path) -> Report:
    return weigh(recipe, directory, say=lambda line: None, progress=lambda *_: None)


def recorded(directory: Path) -> int:
    if not (directory / "records.sqlite").exists():
        return 0
    try:
        with Records(directory / "records.sqlite") as records:
            return len(records)
    except SteelyardError:  # the other process is just creating it
        return 0


def start(recipe: Path, directory: Path) -> subprocess.Popen[bytes]:
    listens = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"  # shells make background jobs deaf to it
    code = f"{listens}; from steelyard.weigh.runner import weigh; weigh(sys.argv[1], sys.argv[2])"
    return subprocess.Popen([sys.executable, "-c", code, recipe, directory], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(worker: subprocess.Popen[bytes], directory: Path, records: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while recorded(directory) < records and worker.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.poll() is None and recorded(directory) >= records, "it ended before it could be stopped"


def test_a_weighing_killed_and_then_interrupted_resumes_to_the_same_bytes(written: Path, whole: Report, tmp_path: Path) -> None:
    worker = start(written, tmp_path)
    wait_for(worker, tmp_path, 10)
    worker.kill()  # kill -9: nothing can be tidied up
    worker.communicate()
    kept = recorded(tmp_path)
    worker = start(written, tmp_path)
    wait_for(worker, tmp_path, kept + 20)
    os.kill(worker.pid, signal.SIGINT)  # Ctrl-C
    _, said = worker.communicate(timeout=PATIENCE)
    assert worker.returncode not in (0, None) and b"KeyboardInterrupt" in said
    assert recorded(tmp_path) >= kept + 20 and not (tmp_path / "report.json").exists()
    kept = recorded(tmp_path)
    assert quality_part(quiet(written, tmp_path)) == quality_part(whole)
    assert recorded(tmp_path) > kept
