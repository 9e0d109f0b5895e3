"""How likely is the answer that should have been given? Rows as training reads them, such as corrections that people made on the page.

Nothing is generated. After the conversation of a row stand, in turn, its own answer and those of a few other rows:

    bits_per_byte = - sum over rows of log2 p(answer | conversation) / sum over rows of the answer's bytes             lower is better
    own_answer    = mean over other rows' answers of (their bits per byte - its own)                                   higher is better

The first falls for two reasons: the model has learned how answers are written, and it has learned what this conversation is to be
answered with. The second is about the latter alone: what makes all answers of the file likelier alike cancels out of it. A model that
learned one another's answers improves in the first and not in the second. An answer's end token is not counted.

Rows of one conversation begin with the same words of a user; they count as dependent.
"""

from __future__ import annotations

import functools
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from steelyard.core.errors import DataError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import Message
from steelyard.core.seeds import derive
from steelyard.data.formats import Example, read_jsonl, settle
from steelyard.weigh.tasks.bits_per_byte import BITS_PER_BYTE
from steelyard.weigh.tasks.rows import take
from steelyard.weigh.tasks.task import Choose, Metric, Output, Sample, Task, Value

OWN_ANSWER = Metric("own_answer", "quality", "bits/byte", True, margin=0.05)


@dataclass(frozen=True)
class Wanted:
    """One row: what was said, and what should have been answered."""

    id: str
    conversation: tuple[Message, ...]
    answer: str

    @property
    def opening(self) -> str:
        """What a user said first: rows of one conversation share it."""
        return next((message.content for message in self.conversation if message.role == "user"), "")


class Corrections(Task):
    """Probability of answers that should have been given."""

    name: ClassVar[str] = "corrections"
    summary: ClassVar[str] = "Bits a model needs per byte of the answers in a file of training rows, such as corrections."
    metrics: ClassVar[tuple[Metric, ...]] = (OWN_ANSWER, BITS_PER_BYTE)

    path: Path = Field(description="JSONL file of rows as `sft` reads them; the last answer of each is the one")
    others: int = Field(3, ge=1, le=64, description="answers of other rows that each answer is held against, count")
    limit: int | None = Field(None, ge=1, description="most rows used, count; drawn by the seed")

    def samples(self, seed: int) -> list[Sample]:
        rows = self._rows
        return [self._sample(row, rows, seed) for row in take(rows, self.limit, seed, self.name)]

    @functools.cached_property
    def _rows(self) -> list[Wanted]:
        """Every row of the file.

        Raises:
            DataError: see `read_jsonl`; a row that cannot be asked; fewer than two different answers.
        """
        read = read_jsonl(self.path)
        settle(read, "stop")
        seen, rows = Counter[str](), []
        for example in read.examples:
            key = example.fingerprint
            seen[key] += 1
            rows.append(_wanted(example, key if seen[key] == 1 else f"{key}-{seen[key]}"))
        if len({row.answer for row in rows}) < 2:
            raise DataError(
                "all answers are the same", where=str(self.path), do="Give rows with different answers: each is held against others."
            )
        return rows

    def _sample(self, row: Wanted, rows: list[Wanted], seed: int) -> Sample:
        others = sorted({other.answer for other in rows} - {row.answer})
        held = random.Random(derive(seed, self.name, row.id)).sample(others, min(self.others, len(others)))
        return Sample(
            id=digest([row.id, held]),
            request=Choose(row.conversation, (row.answer, *held)),
            reference={"expected": row.answer},
            cluster=f"conversation {digest(row.opening)[:12]}",
        )

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        request = sample.request
        assert isinstance(request, Choose)
        sums = [score.logprob for score in output.scores]
        if output.failure is not None or len(sums) != len(request.continuations) or not all(map(math.isfinite, sums)):
            return {"bits_per_byte": None, "own_answer": None}
        bits = [-total / math.log(2) for total in sums]
        sizes = [len(answer.encode()) for answer in request.continuations]
        own, *others = (bit / size for bit, size in zip(bits, sizes, strict=True))
        return {"bits_per_byte": (bits[0], float(sizes[0])), "own_answer": sum(others) / len(others) - own}


def _wanted(example: Example, id: str) -> Wanted:
    last = max(index for index, turn in enumerate(example.turns) if turn.learned)
    answer = example.turns[last].message
    if example.tools or answer.tool_calls:
        raise DataError("the row is about tools, which no answer here is given with", where=example.where, do="Leave the row out.")
    if not last:
        raise DataError("nothing was said before the answer", where=example.where, do="Leave the row out.")
    return Wanted(id, tuple(turn.message for turn in example.turns[:last]), answer.content)
