"""Putting pairs of answers to a judge: the samples that ask it, and the verdicts in what it says.

Each pair is asked in both orders. A judge that tells log-probabilities is asked how likely "A" and "B" are as its next word; one that
does not (an endpoint) is asked to write one of them. What it is asked are samples like any others: recorded, resumed, failures kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steelyard.core.errors import DataError
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.recipe_judged import QUESTION
from steelyard.data.formats import UnusableRow, parse_row
from steelyard.data.preferences import to_preference
from steelyard.weigh.asking.answering import answer_all
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.judged.judge import Verdict
from steelyard.weigh.records import Records
from steelyard.weigh.tasks.task import Ask, Choose, Output, Sample

NAMES = ("A", "B")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SAID = re.compile(r"\b([AB])\b")


@dataclass(frozen=True)
class Pair:
    """Two answers to one conversation. `cluster`: pairs that depend on one another share one; "" = its own."""

    conversation: tuple[Message, ...]
    first: str
    second: str
    cluster: str = ""


def labelled_pairs(path: Path, count: int | None = None) -> list[Pair]:
    """Pairs that people judged, the better answer first.

    Rows are preference pairs (`prompt`, `chosen`, `rejected`: what `GET /api/export?kind=preferences` gives), or whole transcripts
    "\\n\\nHuman: ... \\n\\nAssistant: ..." under `chosen` and `rejected`, which begin alike (hh-rlhf). Pairs of one conversation are a cluster.

    Raises:
        DataError: the file cannot be read, or has rows that are no pairs; all of them are counted, the first are named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), do="Name a JSONL file of preference pairs.") from error
    found: list[Pair] = []
    bad: list[str] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        if count is not None and len(found) == count:
            break
        try:
            row = parse_row(line)
            found.append(_of_transcripts(row) if "prompt" not in row else _of_preference(row))
        except UnusableRow as problem:
            bad.append(f"{path}:{number}: {problem}")
    if bad:
        raise DataError(f"{len(bad)} rows are no labelled pairs: {'; '.join(bad[:5])}", where=str(path), do="Mend them, or take them out.")
    if not found:
        raise DataError("there are no labelled pairs", where=str(path), do='A pair is {"prompt": ..., "chosen": ..., "rejected": ...}.')
    return found


def _of_preference(row: dict) -> Pair:
    pair = to_preference(row)
    return Pair(pair.prompt, pair.chosen, pair.rejected, str(row.get("conversation") or digest([m.as_dict() for m in pair.prompt])))


def _of_transcripts(row: dict) -> Pair:
    """Two transcripts that begin alike and end with different answers.

    Raises:
        UnusableRow: they are none.
    """
    texts = [row.get("chosen"), row.get("rejected")]
    if not all(isinstance(text, str) and _TURN.match(text) for text in texts):
        raise UnusableRow("neither a preference pair (`prompt`, `chosen`, `rejected`) nor two transcripts")
    turns = [_turns(str(text)) for text in texts]
    (*before, one), (*others, other) = turns
    if before != others or one.role != "assistant" or other.role != "assistant" or not before:
        raise UnusableRow("the two transcripts differ in more than their last answer")
    if one.content == other.content:
        raise UnusableRow("`chosen` and `rejected` are the same")
    return Pair(tuple(before), one.content, other.content, digest([message.as_dict() for message in before]))


def _turns(text: str) -> list[Message]:
    pieces = _TURN.split(text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [Message(roles[who], said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True)]  # type: ignore[arg-type]


def request(pair: Pair, swapped: bool, question: str = QUESTION) -> Message:
    """What the judge reads. Conversation and answers are quoted, so that nothing in them passes for an instruction's place."""
    asked = "\n".join(f"{message.role}: {message.content}" for message in pair.conversation)
    one, other = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    return Message(
        "user",
        f"Conversation:\n{asked}\n\nAnswer A:\n{one}\n\nAnswer B:\n{other}\n\n{question} Say only A or B.",
    )


def judged(
    arm: OpenArm,
    pairs: Sequence[Pair],
    records: Records,
    *,
    seed: int,
    question: str = QUESTION,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Verdict | None]:
    """The judge's verdict on each pair; None where it failed, named neither answer, or was not asked. Pairs that read alike are asked once."""
    scores = "score" in arm.answerer.capabilities and callable(getattr(arm.answerer, "score", None))
    asked: dict[str, Sample] = {}
    ids: list[tuple[str, str]] = []
    for pair in pairs:
        both = []
        for swapped in (False, True):
            message = request(pair, swapped, question)
            id = digest([message.content, scores])
            asked[id] = Sample(id, Choose((message,), NAMES) if scores else Ask((message,), AnswerSettings(max_tokens=8)))
            both.append(id)
        ids.append((both[0], both[1]))
    told = answer_all(arm, "judge", list(asked.values()), records, seed=seed, progress=progress, stop=stop)
    outputs = dict(zip(asked, told, strict=False))  # fewer where it was stopped
    out: list[Verdict | None] = []
    for straight, swapped in ids:
        before, behind = _lean(outputs.get(straight)), _lean(outputs.get(swapped))
        out.append(None if before is None or behind is None else Verdict(before, -behind))
    return out


def _lean(output: Output | None) -> float | None:
    """How much rather A than B: nats, or +1 and -1 from a judge that only names one; None where it says neither."""
    if output is None or output.failure is not None:
        return None
    if output.scores:
        return output.scores[0].logprob - output.scores[1].logprob
    named = set(_SAID.findall(output.text))
    return None if len(named) != 1 else 1.0 if "A" in named else -1.0
