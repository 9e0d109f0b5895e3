"""Where examples come from: a JSONL file, a folder of them, or a generator named `generated:NAME`.

`generated:json_forms` are questions with JSON answers, `generated:reversal` sentences about invented people; `generated:copying:4-16` exercises over distances (`generated/long_range.py`), of
lengths drawn from the range behind the second colon.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steelyard.core.errors import DataError, nearest
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import Message
from steelyard.core.seeds import derive
from steelyard.data.formats import Example, Kind, Turn, read_jsonl, settle
from steelyard.data.generated import long_range

GENERATED = "generated:"
GENERATORS: Mapping[str, str] = {
    "json_forms": "steelyard.data.generated.forms:training_pair",
    "reversal": "steelyard.data.generated.reversal:training_pair",
    "toy_language": "steelyard.data.generated.toy_language:training_pair",
}
"""Generator name -> function (random.Random) -> (question, answer). Each draws from its training split only, so a task of the
same name stays unseen (of `reversal`, whose people are meant to be learned, the order that is never told)."""


@dataclass(frozen=True)
class Source:
    """Examples with their origin.

    Attributes:
        name: as the recipe names it.
        examples: in the source's order.
        fingerprint: digest over the content of every example, in order.
        notes: lines for a person (rows left out and why).
    """

    name: str
    examples: tuple[Example, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()


def look_for(name: str) -> None:
    """Raises DataError where there is no such source; it is not read."""
    if name.startswith(GENERATED):
        generator(name.removeprefix(GENERATED))
    else:
        _files(Path(name).expanduser())


def open_source(
    name: str,
    *,
    kind: Kind | Literal["auto"] = "auto",
    count: int | None = None,
    seed: int = 0,
    bad_rows: Literal["stop", "skip"] = "stop",
    quarantine: Path | None = None,
) -> Source:
    """Reads or generates examples.

    Args:
        name: a .jsonl file, a folder with .jsonl files (all are read, by name), or `generated:NAME`.
        kind: the files' kind of rows; "auto" recognises it in each file.
        count: at most this many examples (the first ones); how many to generate, 200 if None.
        seed: of the generator.
        bad_rows: whether rows that cannot be used stop the run or are skipped; either way they are all named.
        quarantine: file that receives the bad rows.

    Raises:
        DataError: nothing to read, bad rows under "stop", or an unknown generator.
    """
    if name.startswith(GENERATED):
        examples, notes = _generate(name.removeprefix(GENERATED), 200 if count is None else count, seed), []
    else:
        examples, notes = _read(Path(name).expanduser(), kind, bad_rows, quarantine)
        examples = examples[:count]
    if not examples:
        raise DataError("there is no example to learn from", where=name)
    return Source(name, tuple(examples), digest([example.fingerprint for example in examples]), tuple(notes))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise DataError("the folder holds no .jsonl file", where=str(path), do="Put the examples there, one JSON object a line.")
        return files
    if path.exists():
        return [path]
    known = ", ".join(f"{GENERATED}{generator}" for generator in GENERATORS)
    raise DataError(
        "there is no such file or folder", where=str(path), do=f"Name a JSONL file, a folder of them, or a generator ({known})."
    )


def _read(
    path: Path, kind: Kind | Literal["auto"], bad_rows: Literal["stop", "skip"], quarantine: Path | None
) -> tuple[list[Example], list[str]]:
    read = [read_jsonl(file, kind) for file in _files(path)]
    if len(read) == 1:
        notes = settle(read[0], bad_rows, quarantine)
        return read[0].examples, notes
    notes = []
    failures: list[DataError] = []
    for rows in read:
        # Every file's bad rows are named before anything stops, each file with a quarantine of its own.
        aside = quarantine and quarantine.with_name(f"{quarantine.stem}-{Path(rows.origin).stem}{quarantine.suffix}")
        try:
            notes += settle(rows, bad_rows, aside)
        except DataError as failure:
            failures.append(failure)
    if failures:
        raise DataError("\n".join(f"{failure.where}: {failure.what}" for failure in failures), where=str(path), do=failures[0].do)
    return [example for rows in read for example in rows.examples], notes


def _generate(name: str, count: int, seed: int) -> list[Example]:
    draw, examples = generator(name), []
    for number in range(count):
        question, answer = draw(random.Random(derive(seed, name, "training", number)))
        turns = (Turn(Message("user", question), learned=False), Turn(Message("assistant", answer), learned=True))
        examples.append(Example(turns, f"{GENERATED}{name}:{number + 1}"))
    return examples


def generator(name: str) -> Callable[[random.Random], tuple[str, str]]:
    """What draws a question and its answer.

    Raises:
        DataError: nothing is called so, or the lengths of an exercise are no range.
    """
    where = f"{GENERATED}{name}"
    if name in GENERATORS:
        module, _, function = GENERATORS[name].partition(":")
        return getattr(importlib.import_module(module), function)
    kind, _, span = name.partition(":")
    if kind not in long_range.EXERCISES:
        raise DataError(f"no generator is called `{kind}`", where=where, do=nearest(kind, [*GENERATORS, *long_range.EXERCISES]))
    found = re.fullmatch(r"(\d{1,6})-(\d{1,6})", span)
    low, high = (int(found[1]), int(found[2])) if found else (0, -1)
    if not 1 <= low <= high:
        raise DataError(f"`{span}` is no range of lengths", where=where, do=f"For example: {GENERATED}{kind}:4-16.")

    def draw(rng: random.Random) -> tuple[str, str]:
        made = long_range.make_exercise(kind, rng, rng.randint(low, high))
        return made.prompt, made.first

    return draw
