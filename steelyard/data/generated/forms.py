"""Forms to fill in: a few sentences about something, and the JSON object that holds what they say.

Every form has a flat schema of three to five fields. The forms of the `train` split and those of the `test` split are about
different things and share no field name, so a model that was trained on the one has not seen the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from steelyard.data.generated.names import Names

Split = Literal["train", "test"]
Kind = Literal["text", "whole number", "number", "true or false", "choice"]
_TYPES = {"text": "string", "whole number": "integer", "number": "number", "true or false": "boolean", "choice": "string"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its key, its kind, how a value is drawn, and the sentence that says it.

    `sentence` holds `{}` for the value; for true or false it is the sentence for true and, behind a `|`, the one for false.
    """

    key: str
    kind: Kind
    draw: Callable[[random.Random, Names], Any]
    sentence: str
    choices: tuple[str, ...] = ()

    def say(self, value: Any) -> str:
        if self.kind == "true or false":
            yes, no = self.sentence.split("|")
            return yes if value else no
        return self.sentence.format(value)

    @property
    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.choices)} if self.choices else {"type": _TYPES[self.kind]}

    @property
    def asked(self) -> str:
        """How the request describes the field: `seats (whole number)`."""
        return f"{self.key} (one of {', '.join(self.choices)})" if self.choices else f"{self.key} ({self.kind})"


@dataclass(frozen=True, slots=True)
class Form:
    """A form with the text it is filled from.

    Attributes:
        title: what it is about.
        text: the sentences.
        fields: in the order asked for.
        answer: the right value of every field.
    """

    title: str
    text: str
    fields: tuple[Field, ...]
    answer: Mapping[str, Any]

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema: every field required, no other allowed."""
        return {
            "type": "object",
            "properties": {field.key: field.schema for field in self.fields},
            "required": [field.key for field in self.fields],
            "additionalProperties": False,
        }

    @property
    def request(self) -> str:
        """What a model is asked."""
        keys = ", ".join(field.asked for field in self.fields)
        return f"Text: {self.text}\n\nFill in this form as one JSON object with the keys {keys}. Write only the JSON."

    @property
    def reply(self) -> str:
        """The JSON a model should write."""
        return json.dumps(dict(self.answer), ensure_ascii=False)


def _text(key: str, sentence: str, *values: str) -> Field:
    return Field(key, "text", lambda rng, names: rng.choice(values), sentence)


def _person(key: str, sentence: str) -> Field:
    return Field(key, "text", lambda rng, names: names.name("person"), sentence)


def _place(key: str, sentence: str) -> Field:
    return Field(key, "text", lambda rng, names: names.name("city"), sentence)


def _whole(key: str, sentence: str, low: int, high: int) -> Field:
    return Field(key, "whole number", lambda rng, names: rng.randint(low, high), sentence)


def _number(key: str, sentence: str, low: int, high: int) -> Field:
    return Field(key, "number", lambda rng, names: rng.randint(low * 10 + 1, high * 10) / 10, sentence)


def _yes(key: str, yes: str, no: str) -> Field:
    return Field(key, "true or false", lambda rng, names: rng.random() < 0.5, f"{yes}|{no}")


def _choice(key: str, sentence: str, *choices: str) -> Field:
    return Field(key, "choice", lambda rng, names: rng.choice(choices), sentence, choices)


FORMS: Mapping[Split, Mapping[str, tuple[Field, ...]]] = {
    "train": {
        "table reservation": (
            _person("guest", "The table is for {}."),
            _whole("seats", "They need {} seats.", 2, 12),
            _text("weekday", "They come on {}.", "Monday", "Tuesday", "Thursday", "Friday", "Sunday"),
            _yes("outside", "They would like to sit outside.", "They would like to sit inside."),
            _choice("meal", "It is for {}.", "breakfast", "lunch", "dinner"),
        ),
        "parcel": (
            _person("sender", "The parcel was sent by {}."),
            _place("destination", "It goes to {}."),
            _number("weight_kg", "It weighs {} kilograms.", 1, 30),
            _yes("insured", "The parcel is insured.", "The parcel is not insured."),
            _choice("size", "It is a {} parcel.", "small", "medium", "large"),
        ),
        "book order": (
            _person("author", "The book is by {}."),
            _whole("pages", "It has {} pages.", 90, 900),
            _whole("copies", "The shop orders {} copies.", 2, 40),
            _choice("cover", "It has a {} cover.", "hard", "soft"),
            _text("language", "It is written in {}.", "Danish", "Greek", "Polish", "Spanish", "Turkish"),
        ),
        "used car": (
            _text("colour", "The car is {}.", "red", "black", "white", "blue", "silver"),
            _whole("year", "It was built in {}.", 1998, 2024),
            _whole("kilometres", "It has driven {} kilometres.", 4000, 180000),
            _person("owner", "Its owner is {}."),
            _yes("accident", "It was in an accident once.", "It was never in an accident."),
        ),
        "gym membership": (
            _person("member", "The new member is {}."),
            _whole("age", "They are {} years old.", 18, 80),
            _choice("plan", "They chose the {} plan.", "monthly", "yearly", "weekend"),
            _number("fee", "The fee is {} crowns.", 20, 90),
            _yes("towel_service", "They want towels.", "They do not want towels."),
        ),
        "concert": (
            _place("town", "The concert is in {}."),
            _text("instrument", "The soloist plays the {}.", "cello", "flute", "harp", "oboe", "trumpet"),
            _whole("tickets_left", "There are {} tickets left.", 3, 400),
            _number("length_hours", "It lasts {} hours.", 1, 4),
            _person("conductor", "It is conducted by {}."),
        ),
    },
    "test": {
        "job application": (
            _person("applicant", "The application is from {}."),
            _text("profession", "They work as a {}.", "baker", "carpenter", "nurse", "surveyor", "welder"),
            _whole("experience_years", "They have {} years of experience.", 2, 35),
            _yes("driving_licence", "They have a driving licence.", "They have no driving licence."),
            _choice("shift", "They prefer the {} shift.", "day", "night", "late"),
        ),
        "hotel stay": (
            _person("visitor", "The room is booked by {}."),
            _whole("nights", "They stay for {} nights.", 2, 21),
            _whole("room_number", "They are in room {}.", 101, 899),
            _yes("parking", "They need a parking space.", "They need no parking space."),
            _choice("bed", "They asked for a {} bed.", "single", "double", "bunk"),
        ),
        "repair ticket": (
            _text("device", "The broken thing is a {}.", "kettle", "printer", "radio", "toaster", "vacuum cleaner"),
            _person("technician", "The repair is done by {}."),
            _number("cost", "It costs {} crowns.", 15, 240),
            _yes("under_warranty", "It is still under warranty.", "It is no longer under warranty."),
            _choice("urgency", "The urgency is {}.", "low", "normal", "high"),
        ),
        "plant sale": (
            _text("species", "The plant is a {}.", "fern", "fig tree", "lemon tree", "rose", "tulip"),
            _whole("height_cm", "It is {} centimetres tall.", 8, 210),
            _whole("stock", "The nursery has {} of them.", 2, 300),
            _number("price", "One costs {} crowns.", 2, 80),
            _choice("light", "It needs {} light.", "full", "half", "little"),
        ),
        "ferry crossing": (
            _place("harbour", "The ferry leaves from {}."),
            _person("captain", "The captain is {}."),
            _whole("passengers", "There are {} passengers on board.", 12, 950),
            _number("distance_km", "The crossing is {} kilometres long.", 3, 160),
            _yes("night_trip", "It crosses at night.", "It crosses by day."),
        ),
        "lost property": (
            _text("object", "Somebody lost an {}.", "umbrella", "address book", "earring", "ice skate", "overcoat"),
            _person("finder", "It was found by {}."),
            _place("station", "It was found at the station of {}."),
            _whole("shelf", "It lies on shelf {}.", 1, 60),
            _yes("returned", "It was already returned.", "It has not been returned yet."),
        ),
    },
}  # fmt: skip


def make_form(rng: random.Random, split: Split = "test", fields: int | None = None) -> Form:
    """A fresh form with its text.

    Args:
        rng: where the choices come from.
        split: `train` for teaching, `test` for measuring; they share no subject and no field name.
        fields: how many fields it has, 1 to 5; by default 3, 4 or 5.
    """
    names = Names(rng)
    title = rng.choice(sorted(FORMS[split]))
    chosen = rng.sample(FORMS[split][title], fields or rng.randint(3, 5))
    answer = {field.key: field.draw(rng, names) for field in chosen}
    # The text tells things in another order than the form asks for them.
    told = rng.sample(chosen, len(chosen))
    return Form(title, " ".join(field.say(answer[field.key]) for field in told), tuple(chosen), answer)


def training_pair(rng: random.Random) -> tuple[str, str]:
    """A request and the right reply, from the training split: what the recipe `teach-format` learns from."""
    form = make_form(rng, "train")
    return form.request, form.reply
