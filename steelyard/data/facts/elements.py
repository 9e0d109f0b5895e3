"""Symbols and atomic numbers of the chemical elements, from mendeleev's table, checked against the encyclopedia."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from steelyard.core.errors import DataError
from steelyard.data.encyclopedia import Article
from steelyard.data.facts.fact import Fact, Pool, need

# Symbols that are also words of a sentence ("He is ..."): a mention could not be told from the word.
_ALSO_WORDS = {"I", "He", "In", "As", "At", "Be", "No", "Am", "Os", "Es", "La", "Pa", "Mo", "Co"}
_OTHER_SPELLINGS = {"Aluminum": "Aluminium", "Cesium": "Caesium", "Sulfur": "Sulphur", "Mercury": "Mercury (element)"}


def read_elements() -> list[tuple[int, str, str]]:
    """(atomic number, name, symbol) of every element.

    The table is read from the package's SQLite file: importing the package would load pandas and SQLAlchemy for two seconds.
    """
    need("mendeleev")
    spec = importlib.util.find_spec("mendeleev")
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path()
    file = folder / "elements.db"
    if not file.is_file():
        raise DataError("the installed mendeleev has no elements.db", where=str(folder), do='Run: pip install -U "steelyard[facts]"')
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            return list(database.execute("SELECT atomic_number, name, symbol FROM elements ORDER BY atomic_number"))
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"mendeleev's table cannot be read: {error}", where=str(file), do='Run: pip install -U "steelyard[facts]"'
        ) from error


def add_elements(pool: Pool, articles: Mapping[str, Article]) -> None:
    """Adds facts of the kinds `element_symbol`, `element_of_symbol` and `atomic_number`."""
    elements = read_elements()
    pool.names("symbols", (symbol for _, _, symbol in elements if symbol not in _ALSO_WORDS))
    pool.names("elements", (name for _, name, _ in elements))
    pool.add(fact for element in elements for fact in _facts(*element, articles))


def _facts(number: int, name: str, symbol: str, articles: Mapping[str, Article]) -> Iterator[Fact]:
    other = _OTHER_SPELLINGS.get(name, name)
    article = articles.get(name) or articles.get(other)
    if article is None or "element" not in article.description.lower():
        article = articles.get(other)
    text = article.extract if article else ""
    has_symbol = bool(re.search(rf"symbol\s(?:is\s)?{symbol}\b", text))
    has_number = bool(re.search(rf"atomic\snumber\s(?:of\s)?{number}\b", text))
    title, entity, names = article.title if article else "", f"element {symbol}", tuple(dict.fromkeys([name, other.split(" (")[0]]))
    if symbol not in _ALSO_WORDS:
        yield Fact(
            "element_symbol", entity, f"What is the chemical symbol of the element {name.lower()}?", (symbol,), "symbols", "symbol",
            in_corpus=has_symbol, article=title if has_symbol else "",
        )  # fmt: skip
        yield Fact(
            "element_of_symbol", entity, f"Which chemical element has the symbol {symbol}?", names, "elements",
            in_corpus=has_symbol, article=title if has_symbol else "",
        )  # fmt: skip
    yield Fact(
        "atomic_number", entity, f"What is the atomic number of {name.lower()}?", (str(number),), "", "number",
        in_corpus=has_number, article=title if has_number else "",
    )  # fmt: skip
