"""Who made a book, painting, film or piece of music, and where places are, read off the encyclopedia itself.

A fact is taken only where an article's description and its text agree, so that it is both true and findable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from steelyard.data.encyclopedia import Article
from steelyard.data.facts.countries import Country
from steelyard.data.facts.fact import Fact, Pool
from steelyard.data.words import Vocabulary, names_any, words

_MADE = {
    "wrote": "novel novella play tragedy comedy poem story book treatise epic dialogue essay satire",
    "painted": "painting fresco triptych mural",
    "directed": "film",
    "composed": "opera symphony ballet composition concerto oratorio",
    "sculpted": "sculpture statue",
}
_BY = re.compile(
    r"^(?P<what>[^,;]*?) (?:by|written by) (?P<name>[A-ZÉÁÖ][\w.'’-]*(?: (?:[A-ZÉÁÖ][\w.'’-]*|de|da|di|del|van|von|der|la|le|al-[\w]+))*)$"
)
_PARTICLES = {"de", "da", "di", "del", "van", "von", "der", "la", "le"}
_PLACE_TOPICS = ("Geography", "Society and social sciences", "Arts", "Technology")
_PLACES = (
    *("river", "lake", "volcano", "mountain", "waterfall", "waterfalls", "desert", "national park", "island", "valley"),
    *("university", "temple", "castle", "palace", "mosque", "cathedral", "museum", "archaeological site"),
    *("bridge", "tower", "dam", "canal"),
)
_NAMESAKES = {"Sierra Nevada", "West Lake", "Don (river)"}  # others of that name are about as well known
_MANY = ("Mountains", "Alps", "Islands")
_PLACE = re.compile(rf"\b(?:{'|'.join(_PLACES)})\b", re.IGNORECASE)


def add_works(pool: Pool, articles: Mapping[str, Article]) -> None:
    """Adds facts of the kind `maker` (who wrote, painted, directed, composed) and `film_year`."""
    facts = [fact for title in articles for fact in _made(articles[title])]
    pool.names("makers", (name for fact in facts for name in fact.answers))
    pool.add(facts)
    pool.add(fact for title in articles for fact in _years(articles[title]))


def add_places(pool: Pool, articles: Mapping[str, Article], countries: Iterable[Country]) -> None:
    """Adds facts of the kind `country_of_place`, about lakes, mountains, buildings and the like."""
    by_name = {" ".join(words(name)): country for country in countries for name in country.names}
    vocabulary = Vocabulary(by_name)
    pool.add(fact for title in articles for fact in _place(articles[title], vocabulary, by_name))


def _plain(title: str) -> str:
    return title.split(" (")[0]


def _has_namesakes(title: str) -> bool:
    """Whether the title itself tells that there are others of the kind: `Mirror (1975 film)`."""
    return bool(re.search(r"\(\d{4} ", title)) or title in _NAMESAKES


def _names(full: str) -> tuple[str, ...]:
    """A person's full name and the part they are known by: `van Gogh`, `Beethoven`."""
    parts = full.split()
    at = next((i for i, part in enumerate(parts) if part in _PARTICLES), len(parts) - 1)
    short = [" ".join(parts[at:]), parts[-1]] if len(parts) > 1 else []
    if full == "Leonardo da Vinci":
        short.append("Leonardo")
    return tuple(dict.fromkeys([full, *short]))


def _made(article: Article) -> Iterator[Fact]:
    match = _BY.match(article.description)
    if not match:
        return
    kinds = [(verb, noun) for verb, nouns in _MADE.items() for noun in nouns.split() if noun in words(match["what"])]
    names = _names(match["name"])
    if len({verb for verb, _ in kinds}) != 1 or not names_any(article.extract, names) or _has_namesakes(article.title):
        return
    if set(words(article.title)) & {word for name in names for word in words(name)} - _PARTICLES:
        return  # the question would hold the answer
    verb, noun = kinds[0]
    work = _plain(article.title) if noun in ("composition", "sculpture") or verb == "painted" else f"the {noun} {_plain(article.title)}"
    yield Fact("maker", f"maker {names[0]}", f"Who {verb} {work}?", names, "makers", in_corpus=True, article=article.title)


def _years(article: Article) -> Iterator[Fact]:
    match = re.match(r"^(\d{4}) (?:[\w-]+ ){0,3}film\b", article.description)
    if (
        match
        and not _has_namesakes(article.title)
        and re.search(rf"\b{match[1]}\b", article.extract)
        and len(set(re.findall(r"\b(?:19|20)\d\d\b", article.extract))) == 1
    ):
        question = f"In what year did the film {_plain(article.title)} come out?"
        yield Fact("film_year", f"article {article.title}", question, (match[1],), "", "number", in_corpus=True, article=article.title)


def _place(article: Article, vocabulary: Vocabulary, by_name: Mapping[str, Country]) -> Iterator[Fact]:
    noun = _PLACE.search(article.description)
    if noun is None or " in " not in article.description or article.topic not in _PLACE_TOPICS:
        return
    described, told = (
        {by_name[mention.name].code for mention in vocabulary.find(words(text))} for text in (article.description, article.extract)
    )
    if len(described) != 1 or told != described or _has_namesakes(article.title) or vocabulary.find(words(article.title)):
        return
    country = next(country for country in by_name.values() if country.code in described)
    question = f"In which country {_spoken(noun[0].lower(), _plain(article.title))}?"
    yield Fact("country_of_place", f"country {country.code}", question, country.names, "countries", in_corpus=True, article=article.title)


def _spoken(kind: str, name: str) -> str:
    """A place with its verb and article: `is the Eiffel Tower`, `are the Southern Alps`, `is the volcano Mauna Loa`."""
    said = set(words(name))
    if name.endswith(_MANY):
        return f"are the {name}"
    if "university" in said:
        return f"is the {name}" if name.startswith("University") else f"is {name}"
    if said & {"river", "desert", "bridge", "tower", "dam", "canal", "museum", "range", "institute"} and "lake" not in said:
        return f"is the {name}"
    return f"is {name}" if kind in name.lower() or said & {"mount", "park", "falls"} else f"is the {kind} {name}"
