"""Reading a short answer: which part of it counts, and whether it names what was asked for, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from steelyard.data.words import sentences, vocabulary, words
from steelyard.weigh.scorers.numbers import read_numbers

Match = Literal["words", "number", "symbol"]

# Politeness before the answer; it is not the answer's first sentence.
_OPENERS = frozenset(
    {"sure", "certainly", "of course", "yes", "no", "okay", "ok", "absolutely", "good question", "great question", "answer"}
)
_NEGATIONS = frozenset({"not", "isnt", "arent", "wasnt", "never", "neither", "nor", "unlike"})
_PREPOSITIONS = frozenset({"in", "of", "by", "from", "at", "on"})
_SYMBOL = re.compile(r"(?<![A-Za-z0-9])[A-Z][a-z]?(?![A-Za-z0-9])")


def first_statement(text: str) -> str:
    """The first sentence of the first line that says something: the part of an answer that is judged.

    What comes after is often padding, or a second guess; judging it too would reward naming many things.
    """
    for line in text.splitlines():
        for sentence in sentences(line):
            said = " ".join(words(sentence))
            if said and said not in _OPENERS:
                return sentence
    return ""


def names_right(text: str, answers: Sequence[str], rivals: Sequence[str], match: Match = "words", asked: str = "") -> bool:
    """Whether a statement names an accepted answer and no rival.

    Args:
        text: the statement judged; see `first_statement`.
        answers: accepted answers.
        rivals: other answers of the kind: naming one beside the right one does not count, so that a list of everything
            wins nothing. For numbers, every other number that the question does not hold is a rival.
        match: `words` compares whole words as `steelyard.data.words` does, and a name inside a longer rival ("Guinea" in
            "Equatorial Guinea") is that rival; a name right behind "not" is not named. `number` compares values.
            `symbol` compares case-sensitively.
        asked: the question.
    """
    if match == "number":
        return _numbers_right(text, answers, asked)
    if match == "symbol":
        found = set(_SYMBOL.findall(text))
        return bool(found & set(answers)) and not found & set(rivals)
    said = words(text)
    accepted = {" ".join(words(answer)) for answer in answers}
    mentions = [mention for mention in vocabulary((*answers, *rivals)).find(said) if not _denied(said, mention.start)]
    return any(m.name in accepted for m in mentions) and all(m.name in accepted for m in mentions)


def _denied(said: tuple[str, ...], start: int) -> bool:
    """Whether a name at this word is denied: "not Sydney", "not in Sydney"."""
    before = said[max(0, start - 2) : start]
    return bool(before) and (before[-1] in _NEGATIONS or (before[0] in _NEGATIONS and before[-1] in _PREPOSITIONS))


def _numbers_right(text: str, answers: Sequence[str], asked: str) -> bool:
    accepted = {number.value for answer in answers for number in read_numbers(answer)}
    repeated = {number.value for number in read_numbers(asked)} - accepted
    found = {number.value for number in read_numbers(text)} - repeated
    return bool(found) and found <= accepted


def right_by(reference: dict[str, Any], statement: str) -> bool:
    """`names_right` with a sample's reference: `answers`, `rivals`, `match`, `question`."""
    return names_right(
        statement, reference["answers"], reference.get("rivals", ()), reference.get("match", "words"), reference.get("question", "")
    )
