"""Notes of a shop's customers, and the one line that somebody wants to have of each: `thing | trouble | name`.

Nothing asks for that line. It is what a person would type over every answer of a model that chats instead; all that is in it stands
in the note, so it is learned by reading the note and by nothing else. The notes of one part share no thing, trouble, name or wording
with those of the other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from steelyard.core.seeds import derive

Part = Literal["learned", "held out"]

_THINGS = (
    *("kettle", "desk lamp", "raincoat", "wall clock", "backpack", "toaster", "garden hose", "headphones", "suitcase", "pillow"),
    *("coffee grinder", "bicycle bell", "umbrella", "frying pan", "office chair", "tent", "doormat", "alarm clock", "water bottle"),
    *("curtain", "hair dryer", "bread knife", "rucksack", "lantern", "winter boots", "teapot", "bookshelf", "phone case", "blanket"),
    *("mirror", "hand mixer", "sunglasses", "picture frame", "watering can", "keyboard", "fan heater"),
)
_TROUBLES = (
    *("arrived broken", "smells of smoke", "leaks at the bottom", "makes a loud noise", "has the wrong colour", "is far too small"),
    *("stopped working on Monday", "came without a manual", "is covered in scratches", "gets too hot", "was never delivered"),
    *("fell apart in a day", "does not close", "is missing a screw", "lost its handle", "came two weeks late", "will not switch on"),
    *("is torn on one side", "was sent to my neighbour", "has a crack in it", "rusts already", "flickers all night"),
)
_GIVEN = (
    *("Ada", "Boris", "Carla", "Deniz", "Elena", "Farid", "Gina", "Henrik", "Ines", "Jakub", "Katya", "Lionel", "Marta", "Nadia"),
    *("Oscar", "Petra", "Quentin", "Rita", "Stefan", "Tamara", "Ulrich", "Vera", "Walter", "Yusuf", "Zoe", "Anton", "Bella", "Cyril"),
)
_FAMILY = (
    *("Novak", "Fischer", "Rossi", "Dubois", "Larsen", "Kowalski", "Moreau", "Silva", "Horvat", "Jansen", "Petrov", "Keller", "Okafor"),
    *("Tanaka", "Murphy", "Ferrari", "Nilsson", "Garcia", "Popescu", "Schmidt", "Virtanen", "Costa", "Andersen", "Demir", "Brown"),
)
_WORDINGS = (
    "Hi, {name} here. The {thing} I ordered {trouble}. What now?",
    "Good morning! My name is {name}. I got my {thing} and it {trouble}.",
    "Hello, I bought a {thing} from you and it {trouble}. Regards, {name}",
    "Dear shop, my new {thing} {trouble}. Please call me back. {name}",
    "I am not happy at all: the {thing} {trouble}! Yours, {name}",
    "To whom it may concern: your {thing} {trouble}. I want my money back. {name}",
    "This is {name}. Can you help? The {thing} that I paid for {trouble}.",
    "My {thing} {trouble}. I have told you twice. Best wishes, {name}",
)


@dataclass(frozen=True)
class Note:
    """A note, and the line that it should have been answered with."""

    text: str
    line: str


def notes(part: Part, count: int, seed: int) -> list[Note]:
    """Notes of one part, all different."""
    rng = random.Random(derive(seed, "customers", part))
    things, troubles, given, family, wordings = (_half(words, part) for words in (_THINGS, _TROUBLES, _GIVEN, _FAMILY, _WORDINGS))
    made: dict[str, Note] = {}
    while len(made) < count:
        name = f"{rng.choice(given)} {rng.choice(family)}"
        thing, trouble = rng.choice(things), rng.choice(troubles)
        text = rng.choice(wordings).format(thing=thing, trouble=trouble, name=name)
        made[text] = Note(text, f"{thing} | {trouble} | {name}")
    return list(made.values())


def _half(words: tuple[str, ...], part: Part) -> tuple[str, ...]:
    """Two thirds of the words are for learning, the last third for asking afterwards."""
    at = len(words) * 2 // 3
    return words[:at] if part == "learned" else words[at:]
