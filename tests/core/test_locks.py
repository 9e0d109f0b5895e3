"""A lock on a file keeps others out, is let go of however its holder ends, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.core.locks import alone


def test_only_one_is_in_at_a_time_and_the_file_goes_with_the_last(tmp_path):
    file, inside, seen = tmp_path / "a.lock", [], []

    def work() -> None:
        for _ in range(50):
            with alone(file):
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert seen == [1] * 200 and not file.exists()


def test_a_lock_of_a_process_that_was_killed_or_of_work_that_failed_is_free(tmp_path):
    file = tmp_path / "a.lock"
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom steelyard.core.locks import alone\n"
        "with alone(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "in\n"
    holder.kill()
    holder.communicate()
    assert file.exists()
    with pytest.raises(ZeroDivisionError), alone(file):
        1 / 0  # noqa: B018
    with alone(file):
        assert file.exists()
    assert not file.exists()


def test_a_lock_where_nobody_may_write_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SteelyardError, match="cannot be written"), alone(tmp_path / "file" / "a.lock"):
        pass
