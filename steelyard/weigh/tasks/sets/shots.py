"""Worked examples before a question, and the plain text in which lm-eval asks.

Examples are drawn by the seed, once for a set's file, from the rows of `examples` (a training split) or else from the set's other rows;
the asked row is never among them, nor any of its cluster's. They keep the order of their file. In a conversation they are turns; in plain text they
stand before the question as lm-eval writes them:

    description + (question + delimiter + answer + between) * k + question
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.core.errors import DataError
from steelyard.core.seeds import derive
from steelyard.weigh.tasks.rows import Row


@dataclass(frozen=True)
class Plain:
    """A row in plain text.

    Attributes:
        question: up to where the answer begins.
        answer: the right one, as an example shows it.
        stops: texts that end an answer.
        description: before everything.
        delimiter: between question and answer.
        between: between examples.
    """

    question: str
    answer: str
    stops: tuple[str, ...]
    description: str = ""
    delimiter: str = " "
    between: str = "\n\n"


def drawn(row: Row, pool: Sequence[Row], count: int, seed: int, name: str, where: str) -> list[Row]:
    """The examples of a row.

    Args:
        row: the one that is asked.
        pool: what examples are drawn from; where it is several files, only rows of the one that is called as the row's (`set`) are.
        count: how many.
        seed: equal seeds draw the same.
        name: of the task.
        where: the pool's address, for errors.

    Raises:
        DataError: there are not so many.
    """
    if not count:
        return []
    part, parts = row.value.get("set"), {other.value.get("set") for other in pool}
    mine = [place for place, other in enumerate(pool) if other.value.get("set") == part or len(parts) == 1]
    # One order for all rows of a file: they then begin alike, and what they share is computed once.
    order = random.Random(derive(seed, name, "shots", str(part))).sample(mine, len(mine))
    own = {key: value for key, value in row.value.items() if key != "set"}
    kept = []
    for place in order:
        if len(kept) < count and {key: value for key, value in pool[place].value.items() if key != "set"} != own:
            kept.append(place)
    if len(kept) < count:
        raise DataError(f"{count} examples are asked for, and there are {len(kept)}", where=where, do="Ask for fewer `shots`.")
    return [pool[place] for place in sorted(kept)]


def plain_prompt(asked: Plain, examples: Sequence[Plain]) -> str:
    """The whole text before the answer."""
    shown = "".join(f"{one.question}{one.delimiter}{one.answer}{one.between}" for one in examples)
    return f"{asked.description}{shown}{asked.question}"
