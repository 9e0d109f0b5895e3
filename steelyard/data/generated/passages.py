"""Short passages about invented firms, towns, animals and machines, with what they tell and what they leave out.

Everything in them is made up, so a right answer can only come from reading.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from steelyard.data.generated.names import Names

Subject = Literal["company", "city", "animal", "machine"]


@dataclass(frozen=True, slots=True)
class Detail:
    """One thing a passage tells, or could have told.

    Attributes:
        question: asks for it.
        answer: as the passage writes it.
        sentence: the sentence that tells it, and nothing else that could be asked for.
        sort: `number`, `person`, or `thing`: only answers of one sort can be taken for one another.
        others: other ways to say the answer.
    """

    question: str
    answer: str
    sentence: str
    sort: Literal["number", "person", "thing"] = "thing"
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """A text with what it tells (`told`) and what it does not (`left_out`)."""

    subject: Subject
    name: str
    text: str
    told: tuple[Detail, ...]
    left_out: tuple[Detail, ...]


_GOODS = (
    "wool blankets",
    "glass bottles",
    "bicycle bells",
    "roof tiles",
    "honey cakes",
    "paper kites",
    "copper kettles",
    "garden chairs",
    "violin strings",
    "lamp oil",
)
_COLOURS = ("green", "white", "orange", "purple", "grey", "yellow", "brown", "silver")
_FOODS = ("pine nuts", "river snails", "blackberries", "moss", "beetles", "reed seeds", "mushrooms", "small crabs")
_HABITATS = ("salt marshes", "birch forests", "limestone caves", "mountain meadows", "mangrove swamps", "sand dunes")
_FUELS = ("steam", "compressed air", "falling water", "rapeseed oil", "sunlight", "peat")
_WORK = (
    "sorts apples",
    "folds letters",
    "polishes lenses",
    "winds ropes",
    "counts coins",
    "peels chestnuts",
    "stamps leather",
    "bends wire",
)
_SIGHTS = (
    "clock tower",
    "stone bridge",
    "glass museum",
    "lighthouse",
    "botanical garden",
    "old windmill",
    "roofed market",
    "puppet theatre",
)
_FESTIVALS = ("festival of lanterns", "cheese race", "boat parade", "kite fair", "harvest dance", "bell concert")
_MONTHS = ("January", "March", "April", "June", "July", "September", "October", "November")


# The ranges of a passage's numbers do not overlap, so that no answer is right by chance for another question.


def _company(rng: random.Random, names: Names, name: str) -> list[Detail]:
    year, people, founder, town, goods = (
        rng.randint(1841, 1989),
        rng.randint(21, 980),
        names.name("person"),
        names.name("city"),
        rng.choice(_GOODS),
    )
    boss, colour = names.name("person"), rng.choice(_COLOURS)
    return [
        Detail(f"In what year was {name} founded?", str(year), f"{name} was founded in {year}.", "number"),
        Detail(f"Who founded {name}?", founder, f"The founder of the company was {founder}.", "person"),
        Detail(f"In which town is {name} based?", town, f"It is based in the town of {town}."),
        Detail(f"What does {name} make?", goods, f"The company makes {goods}."),
        Detail(f"How many people work at {name}?", str(people), f"About {people} people work there.", "number"),
        Detail(f"Who runs {name} today?", boss, f"Today it is run by {boss}.", "person"),
        Detail(f"What colour are the delivery vans of {name}?", colour, f"Its delivery vans are {colour}."),
    ]


def _city(rng: random.Random, names: Names, name: str) -> list[Detail]:
    river, mayor, people, sight = names.name("city"), names.name("person"), rng.randint(18, 97) * 100, rng.choice(_SIGHTS)
    festival, month, year = rng.choice(_FESTIVALS), rng.choice(_MONTHS), rng.randint(1102, 1790)
    return [
        Detail(f"On which river does {name} lie?", river, f"{name} lies on the river {river}."),
        Detail(f"Who is the mayor of {name}?", mayor, f"The mayor is {mayor}.", "person"),
        Detail(f"How many people live in {name}?", str(people), f"The town has {people} inhabitants.", "number"),
        Detail(f"What is the best-known sight of {name}?", sight, f"Its best-known sight is the {sight}."),
        Detail(f"What is held in {name} every year?", festival, f"Every year the town holds a {festival}."),
        Detail(f"In which month is the yearly market of {name}?", month, f"The yearly market is in {month}."),
        Detail(f"In what year was {name} first mentioned?", str(year), f"The town was first mentioned in {year}.", "number"),
    ]


def _animal(rng: random.Random, names: Names, name: str) -> list[Detail]:
    colour, food, habitat, discoverer = rng.choice(_COLOURS), rng.choice(_FOODS), rng.choice(_HABITATS), names.name("person")
    weight, eggs, island = rng.randint(20, 48), rng.randint(2, 19), names.name("country")
    return [
        Detail(f"What colour is the fur of the {name}?", colour, f"The {name} has {colour} fur."),
        Detail(f"What does the {name} eat?", food, f"It eats {food}."),
        Detail(f"Where does the {name} live?", habitat, f"It lives in {habitat}."),
        Detail(f"Who discovered the {name}?", discoverer, f"The animal was discovered by {discoverer}.", "person"),
        Detail(f"How many kilograms does a grown {name} weigh?", str(weight), f"A grown animal weighs {weight} kilograms.", "number"),
        Detail(f"How many young does the {name} have at a time?", str(eggs), f"It has {eggs} young at a time.", "number"),
        Detail(f"On which island is the {name} found?", island, f"It is found only on the island of {island}."),
    ]


def _other_forms(work: str) -> tuple[str, ...]:
    """`sorts apples` as it may be said back: `sort apples`, `sorting apples`."""
    verb, what = work.split(" ", 1)
    plain = verb.removesuffix("es") if verb.endswith("shes") else verb.removesuffix("s")
    return f"{plain} {what}", f"{plain}ing {what}"


def _machine(rng: random.Random, names: Names, name: str) -> list[Detail]:
    inventor, fuel, work, parts = names.name("person"), rng.choice(_FUELS), rng.choice(_WORK), rng.randint(31, 940)
    year, maker, price = rng.randint(1824, 1979), names.name("company"), rng.randint(1980, 9800)
    return [
        Detail(f"Who invented the {name}?", inventor, f"The {name} was invented by {inventor}.", "person"),
        Detail(f"What drives the {name}?", fuel, f"The machine is driven by {fuel}."),
        Detail(f"What does the {name} do?", work, f"It {work}.", others=_other_forms(work)),
        Detail(f"How many parts does the {name} have?", str(parts), f"It has {parts} parts.", "number"),
        Detail(f"In what year was the first {name} built?", str(year), f"The first one was built in {year}.", "number"),
        Detail(f"Which company makes the {name}?", maker, f"It is made by {maker}."),
        Detail(f"How many crowns does the {name} cost?", str(price), f"It costs {price} crowns.", "number"),
    ]


_WRITERS = {"company": _company, "city": _city, "animal": _animal, "machine": _machine}


def make_passage(rng: random.Random, sentences: int = 4) -> Passage:
    """A passage of `sentences` sentences (1 to 6) about one invented thing; the rest of what could be asked is left out."""
    names = Names(rng)
    subject: Subject = rng.choice(["company", "city", "animal", "machine"])
    name = names.name(subject)
    name = name.lower() if subject in ("animal", "machine") else name
    details = _WRITERS[subject](rng, names, name)
    told = sorted(rng.sample(range(len(details)), sentences))
    # The first sentence names the subject, whichever detail it tells.
    opening = details[told[0]].sentence
    lead = (
        ""
        if name in opening
        else {"company": f"{name} is a company.", "city": f"{name} is a small town."}.get(
            subject, f"The {name} is {'an animal' if subject == 'animal' else 'a machine'}."
        )
    )
    text = " ".join([*([lead] if lead else []), *(details[i].sentence for i in told)])
    return Passage(subject, name, text, tuple(details[i] for i in told), tuple(d for i, d in enumerate(details) if i not in told))
