"""Comparisons of two answers, read from files: what people chose on the page of `steelyard serve`, or one comparison a line.

| line | what it is |
| --- | --- |
| `{"format": "steelyard.conversation", ...}` | a conversation of `GET /api/export?kind=conversations`: its choices, and who wrote the answers |
| `{"first": "a", "second": "b", "winner": "first"}` | a comparison; winner: first, second or tie; may also say `item`, `rater`, `strength`, `placed` |
| `{"model_a": "a", "model_b": "b", "winner": "model_a"}` | the same in the form of Chatbot Arena, with `question_id` and `judge` |

`first` is the answer shown first (above, or on the left) unless `"placed": false`. The page shuffles its two answers and an export does not
say how they lay, so choices from there count without a place. Answers called both bad are a tie. Conversations of one file are one
rater's, as an export is one person's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from steelyard.core.errors import DataError
from steelyard.data.formats import BadRow, UnusableRow, parse_row

Winner = Literal["first", "second", "tie"]
CONVERSATION = "steelyard.conversation"
WINNERS: Mapping[str, Winner] = {
    "first": "first", "second": "second", "tie": "tie", "model_a": "first", "model_b": "second", "tie (bothbad)": "tie",
}  # fmt: skip
STRENGTHS = (1, 2, 3)
SHOWN_PROBLEMS = 5


@dataclass(frozen=True, slots=True, order=True)
class Comparison:
    """One judgement of two answers to one thing.

    Attributes:
        first, second: whose answers, by name.
        winner: which is the better one.
        item: what both answer; judgements of one item depend on one another; "" = an item of its own.
        rater: who judged; "" = nobody knows.
        strength: how clearly, 1 to 3, or 0 where nobody said.
        placed: whether `first` is known to have stood first.
    """

    first: str
    second: str
    winner: Winner
    item: str = ""
    rater: str = ""
    strength: int = 0
    placed: bool = True


@dataclass
class Comparisons:
    """What files gave.

    Attributes:
        all: every comparison of two different arms.
        left_out: how many were not used, and why.
        versions: arm -> fingerprints under which it answered, where they are known.
    """

    all: list[Comparison] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    versions: dict[str, set[str]] = field(default_factory=dict)


def read_comparisons(paths: Sequence[Path], *, settings: bool = False) -> Comparisons:
    """All comparisons of some files.

    Args:
        paths: JSONL files.
        settings: whether one model drawn with other sampler settings (temperature, ...) is another arm.

    Raises:
        DataError: a file cannot be read, or has lines that are no comparisons; all of them are counted, the first are named.
    """
    found = Comparisons()
    bad: list[tuple[Path, BadRow]] = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=str(path), do="Name a JSONL file of comparisons.") from error
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                for one in _of_row(parse_row(line), str(path), found, settings):
                    if one.first == one.second:
                        found.left_out["both answers are by the same arm"] += 1
                    else:
                        found.all.append(one)
            except UnusableRow as problem:
                bad.append((path, BadRow(number, str(problem))))
    if bad:
        told = "; ".join(f"{path}:{row.line}: {row.reason}" for path, row in bad[:SHOWN_PROBLEMS])
        more = f" and {len(bad) - SHOWN_PROBLEMS} more" if len(bad) > SHOWN_PROBLEMS else ""
        raise DataError(
            f"{len(bad)} line{'s' * (len(bad) > 1)} cannot be used: {told}{more}",
            where=", ".join(map(str, paths)),
            do='A comparison is {"first": "a", "second": "b", "winner": "first"}, or a line of `GET /api/export?kind=conversations`.',
        )
    return found


def _of_row(row: Mapping[str, Any], path: str, found: Comparisons, settings: bool) -> Iterator[Comparison]:
    """The comparisons of one line.

    Raises:
        UnusableRow: it holds none by its form.
    """
    if row.get("format") == CONVERSATION:
        yield from _of_conversation(row, path, found, settings)
    elif "model_a" in row or "model_b" in row:
        renamed = {"first": "model_a", "second": "model_b", "winner": "winner", "item": "question_id", "rater": "judge"}
        yield _of_pair({key: row[name] for key, name in renamed.items() if row.get(name) is not None})
    elif "chosen" in row and "rejected" in row and "prompt" in row:
        raise UnusableRow("a preference pair does not say who wrote the answers; export with `kind=conversations`")
    else:
        yield _of_pair(row)


def _of_pair(row: Mapping[str, Any]) -> Comparison:
    if missing := [key for key in ("first", "second", "winner") if key not in row]:
        raise UnusableRow(f"no comparison: {', '.join(f'`{key}`' for key in missing)} missing")
    names = {key: _name(row[key], key) for key in ("first", "second")}
    winner = row["winner"]
    if not isinstance(winner, str) or winner not in WINNERS:
        raise UnusableRow(f"`winner` is {winner!r:.40}; it is first, second or tie")
    strength, placed = row.get("strength"), row.get("placed", True)
    if strength is not None and (type(strength) is not int or strength not in STRENGTHS):
        raise UnusableRow(f"`strength` is {strength!r:.40}; it is 1, 2, 3 or null")
    if type(placed) is not bool:
        raise UnusableRow(f"`placed` is {placed!r:.40}; it is true or false")
    item, rater = (_label(row.get(key), key) for key in ("item", "rater"))
    return Comparison(names["first"], names["second"], WINNERS[winner], item, rater, strength or 0, placed)


def _name(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UnusableRow(f"`{key}` is {value!r:.40}; it is an arm's name")
    return value.strip()


def _label(value: Any, key: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnusableRow(f"`{key}` is {value!r:.40}; it is a text or a number")
    return str(value)


def _of_conversation(row: Mapping[str, Any], path: str, found: Comparisons, settings: bool) -> Iterator[Comparison]:
    """A conversation's choices. What cannot be told from it is counted as left out."""
    messages, feedback = row.get("messages"), row.get("feedback")
    if not isinstance(messages, list) or not isinstance(feedback, list) or not isinstance(row.get("id"), str):
        raise UnusableRow("a conversation without `id`, `messages` or `feedback`")
    said = {message["id"]: message for message in messages if isinstance(message, dict) and isinstance(message.get("id"), str)}
    for each in feedback:
        if not isinstance(each, dict) or each.get("kind") != "choice":
            continue
        value = each.get("value")
        if not isinstance(value, dict) or not {"turn", "chosen", "rejected", "both_bad", "strength"} <= value.keys():
            raise UnusableRow("a choice without `turn`, `chosen`, `rejected`, `both_bad` or `strength`")
        answers = _answers(value, said)
        if len(answers) != 2:
            found.left_out["the choice does not say which two answers were compared"] += 1
            continue
        arms = [_arm(answer.get("generation"), settings) for answer in answers]
        if None in arms:
            found.left_out["an answer was not written by a model (edited by a person, or without a record)"] += 1
            continue
        names = [str(arm) for arm in arms]
        for name, answer in zip(names, answers, strict=True):
            found.versions.setdefault(name, set()).add(str(answer["generation"].get("fingerprint", "")))
        winner: Winner = "tie" if value["both_bad"] is True else "first" if answers[0]["id"] == value["chosen"] else "second"
        strength = value["strength"] if type(value["strength"]) is int and value["strength"] in STRENGTHS else 0
        yield Comparison(names[0], names[1], winner, row["id"], path, strength, placed=_shown(value) is not None)


def _answers(choice: Mapping[str, Any], said: Mapping[str, Any]) -> list[Any]:
    """The two answers of a choice; where both are bad and not named, those that models gave to the turn, if there are two."""
    named = _shown(choice) or [choice[key] for key in ("chosen", "rejected") if choice[key] is not None]
    if choice["both_bad"] is True and not named:
        return [message for message in said.values() if message.get("parent") == choice["turn"] and message.get("generation")]
    return [said[id] for id in named if isinstance(id, str) and id in said]


def _shown(choice: Mapping[str, Any]) -> list[Any] | None:
    """Both answers' ids in the order in which they were shown, where the choice tells it."""
    shown = choice.get("shown")
    return shown if isinstance(shown, list) and len(shown) == 2 else None


def _arm(generation: Any, settings: bool) -> str | None:
    """What an answer's writer is called: the served name, with the levers it was asked with."""
    if not isinstance(generation, dict) or not isinstance(generation.get("model"), str) or not generation["model"].strip():
        return None
    parts = [generation["model"].strip(), *map(_lever, generation.get("levers") or ())]
    drawn = generation.get("settings")
    if settings and isinstance(drawn, dict):
        kept = {key: value for key, value in sorted(drawn.items()) if key not in ("seed", "max_tokens")}
        parts.append(", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in kept.items()))
    return " + ".join(part for part in parts if part)


def _lever(lever: Any) -> str:
    """A lever as an arm's name says it: `retrieve`, or `prompt(system="Be brief")`."""
    if isinstance(lever, dict) and len(lever) == 1:
        ((name, settings),) = lever.items()
        if not isinstance(settings, dict):
            return f"{name}({json.dumps(settings, ensure_ascii=False)})"
        inside = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(settings.items()))
        return f"{name}({inside})" if inside else str(name)
    return str(lever)


def weakened(comparisons: Iterable[Comparison], least: int) -> list[Comparison]:
    """The comparisons, those that were less clear than `least` as ties; those whose strength nobody said stay as they are."""
    return [
        Comparison(one.first, one.second, "tie", one.item, one.rater, one.strength, one.placed) if 0 < one.strength < least else one
        for one in comparisons
    ]
