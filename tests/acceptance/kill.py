"""kill -9 at random moments: what was finished is there, and the report is that of a weighing which was never killed.

A process weighs a small random model with every kind of request and says the key of each record once it is kept. It is killed a random
time after its first new record, and another one goes on in the same directory; where a weighing ends first, the next begins anew.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tiny_weighing import tiny_weighing

from acceptance.experiment import Bench, Claim, Experiment, Finding, counted
from steelyard.core.errors import SteelyardError
from steelyard.weigh.records import Records
from steelyard.weigh.report.json import quality_part
from steelyard.weigh.runner import weigh

LATE = 1.5  # seconds after the first new record at which a process is killed at the latest
HELD = 50  # records that the control keeps in memory before it writes them; answers come in rounds of 8

WORKER = """
import sys
from steelyard.weigh.records import Records
from steelyard.weigh.runner import weigh
put, held, most = Records.put, [], int(sys.argv[3])
def told(self, key, output):
    held.append((key, output))
    if len(held) >= most:
        while held:
            put(self, *held.pop(0))
    sys.stdout.write(key.text + chr(10))
    sys.stdout.flush()
Records.put = told
weigh(sys.argv[1], sys.argv[2], say=lambda line: None, progress=lambda *how_far: None)
"""


def written(folder: Path) -> Path:
    """A recipe about a tiny random model, with every kind of request, and levers on weights, decoding and nothing."""
    return tiny_weighing(folder, problems=100, rows=60, pieces=40)


def killed(recipe: Path, directory: Path, after: float, held: int) -> tuple[list[str], bool]:
    """Starts a weighing and kills it; the records it said it had kept, and whether it was killed (it may have ended first)."""
    with subprocess.Popen([sys.executable, "-c", WORKER, recipe, directory, str(held)], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        first = worker.stdout.readline()
        time.sleep(after if first else 0)
        worker.send_signal(signal.SIGKILL)
        rest = worker.stdout.read()
    keys = (first + rest).split("\n")[:-1]  # what follows the last line end was being said, and is not counted
    return keys, worker.returncode == -signal.SIGKILL


def missing(directory: Path, keys: set[str]) -> int:
    """How many of these records are not there."""
    with Records(directory / "records.sqlite") as records:
        return len(keys - {address["key"] for address, _ in records})


def run(bench: Bench) -> Finding:
    times, draw = bench.pick(20, 2), random.Random(bench.seed)
    recipe = written(bench.directory / "recipe")
    lost, said, kills, resumed = 0, 0, 0, 0
    directory, keys, number = bench.directory / "run-0", set(), 0
    while kills < times:
        new, was_killed = killed(recipe, directory, draw.uniform(0, LATE), 1)
        keys |= set(new)
        lost, said = lost + missing(directory, set(new)), said + len(new)
        kills += was_killed
        bench.say(f"kill {kills}: {len(new)} records said, {len(keys)} in all, {lost} lost")
        if not was_killed:  # this one is done: the next begins anew
            resumed, number, keys = resumed + 1, number + 1, set()
            directory = bench.directory / f"run-{number}"
    whole = quality_part(weigh(recipe, bench.directory / "whole", say=lambda line: None, progress=lambda *told: None))
    same = quality_part(weigh(recipe, directory, say=lambda line: None, progress=lambda *told: None)) == whole
    gone, told = 0, 0
    for turn in range(bench.pick(4, 2)):
        new, _ = killed(recipe, bench.directory / f"held-{turn}", draw.uniform(0.1, 0.4), HELD)
        told += len(new)
        try:
            gone += missing(bench.directory / f"held-{turn}", set(new))
        except SteelyardError:  # killed before the store was whole
            gone += len(new)
    task = f"{kills} processes killed within {LATE:g} s of their first record"
    return Finding(
        [
            Claim(
                "no record that was kept is lost",
                counted("every record at once", task, "kept", said - lost, said, "equivalent" if not lost else "worse"),
                ("equivalent",),
            ),
            Claim(
                "the resumed weighing's quality part is that of one that was never killed, byte for byte",
                counted("resumed", "quality part of the report", "equal", int(same), 1, "identical" if same else "worse"),
                ("identical",),
            ),
            Claim(
                f"a store that writes {HELD} at a time loses some",
                counted(f"{HELD} at a time", "killed likewise", "kept", told - gone, max(told, 1), "worse" if gone else "equivalent"),
                ("worse",),
                control=True,
            ),
        ],
        notes=[
            f"{resumed} weighings were ended by a process that went on after kills; {kills} kills, {said} records said to be kept, {lost} of them lost."
        ],
    )


EXPERIMENT = Experiment(
    "kill",
    "",
    "kill -9 at 20 random moments of weighings loses no finished record, and what goes on from there reports the same bytes.",
    "A store that holds 50 records in memory before it writes them must lose some of those it was given.",
    "mechanism",
    run,
    in_ci=False,
)
