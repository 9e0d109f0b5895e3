"""What can be wrong with an answer as far as anybody can tell who does not know the right one.

| check | a fault is |
| --- | --- |
| JSON schema | no JSON, something around it, a key missing or not allowed, a value of the wrong type, ... |
| regex | the pattern is not found in the answer |
| support | a number or a name that stands nowhere in what the model was given to read |

None of them reads a reference answer: a detector that knew it would be the scorer, and repairing until the scorer is content measures
nothing. The check for support compares words, not meanings: it finds what was made up, not what was mixed up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from steelyard.core.protocols import Conversation
from steelyard.data.checks.json_answers import find_json, read_json
from steelyard.data.checks.json_schema import violations
from steelyard.data.checks.patterns import search_within
from steelyard.data.words import sentences, words

LONGEST = 200  # characters of one fault
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"[^\W\d_][\w'’-]*")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong, as a sentence without an end; `grave` where the answer cannot be read at all."""

    what: str
    grave: bool = False


def json_faults(text: str, schema: Any) -> list[Fault]:
    """How an answer falls short of being JSON of a schema, and nothing else."""
    found = find_json(text)
    if found is None:
        return [Fault(f"it is not JSON ({_why_not(text)})", grave=True)]
    around = [] if found.alone else [Fault("something stands around the JSON")]
    return around + [Fault(line[:LONGEST]) for line in violations(found.value, schema, "answer")]


def _why_not(text: str) -> str:
    """Why a text is no JSON, in the parser's words."""
    if not text.strip():
        return "it is empty"
    try:
        read_json(text)
    except json.JSONDecodeError as error:
        return f"{error.msg.lower()} at character {error.pos + 1}"
    except ValueError as error:
        return str(error)[:LONGEST]
    return "no object or array in it"


def regex_faults(text: str, pattern: str) -> list[Fault]:
    """Whether the pattern is missing.

    Raises:
        PatternTimeout: it could not be decided in time.
    """
    return [] if search_within(pattern, text) else [Fault(f"it does not match the pattern {pattern[:LONGEST]}")]


def support_faults(text: str, conversation: Conversation) -> list[Fault]:
    """Numbers and names of an answer that stand in none of the messages before it, each once."""
    read = [message.content for message in conversation]
    numbers = {_plain(number) for part in read for number in _NUMBER.findall(part)}
    known = {word for part in read for word in words(part)}
    told = [number for number in _NUMBER.findall(text) if _plain(number) not in numbers]
    told += [name for name in _names(text) if not set(words(name)) <= known]
    return [Fault(f"`{each[:LONGEST]}` stands nowhere in what you were given") for each in dict.fromkeys(told)]


def _plain(number: str) -> str:
    """A number without what groups its digits; 1,234 and 1234 are one, and so are 2.50 and 2.5."""
    plain = re.sub(r",(?=\d{3}\b)", "", number).replace(",", ".")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _names(text: str) -> Iterable[str]:
    """Words with a capital that do not begin a sentence."""
    for line in text.splitlines():
        for sentence in sentences(line):
            for number, found in enumerate(_NAME.findall(sentence)):
                if number and found[0].isupper() and not (len(found) == 1 or found.startswith(("I'", "I’"))):
                    yield found


def fixed_json(text: str, schema: Any) -> str | None:
    """The answer with its form put right and nothing asked, or None where that does not make it match the schema.

    JSON is taken out of what stands around it; a text that spells a number or true or false becomes it where the schema wants one. No
    value is made up and no key is added or left out.
    """
    found = find_json(text)
    if found is None:
        return None
    value = _spelled(found.value, schema)
    return None if violations(value, schema) else json.dumps(value, ensure_ascii=False)


def _spelled(value: Any, schema: Any) -> Any:
    """A value with "4" as 4 and "True" as true where the schema's types say so."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, dict):
        declared = schema.get("properties", {})
        return {key: _spelled(item, declared.get(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelled(item, schema.get("items")) for item in value]
    wanted = schema.get("type", ())
    types = {wanted} if isinstance(wanted, str) else set(wanted)
    if not isinstance(value, str) or "string" in types:
        return value
    if "boolean" in types and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if types & {"integer", "number"} and re.fullmatch(r"\s*-?\d{1,300}(\.\d{1,300})?\s*", value):
        number = float(value) if "." in value else int(value)
        return number if "number" in types or isinstance(number, int) else value
    return value
