"""Facts: true, findable where they say so, drawn alike everywhere."""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from pathlib import Path

import pytest

from steelyard.core.errors import DataError, SteelyardError
from steelyard.data import encyclopedia as articles_of
from steelyard.data.facts import elements, fact, pool
from steelyard.data.facts.fact import Fact, Pool
from steelyard.data.words import words
from steelyard.weigh.scorers.text import names_right


@pytest.fixture(scope="module")
def facts(encyclopedia: Path) -> Pool:
    for package in fact.PACKAGES:
        pytest.importorskip(package)
    return pool.read_pool(encyclopedia)


def by_question(facts: Pool, question: str) -> Fact:
    return next(one for one in facts.facts if one.question == question)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of Japan?", "Tokyo"),
        ("What is the capital of the United States?", "Washington, D.C."),
        ("What is the chemical symbol of the element gold?", "Au"),
        ("What is the atomic number of iron?", "26"),
        ("Which chemical element has the symbol Cs?", "Caesium"),
        ("In which country is the city of Osaka?", "Japan"),
        ("Which continent is Kenya in?", "Africa"),
        ("Who wrote the novel Pride and Prejudice?", "Jane Austen"),
        ("What is the currency of Thailand?", "Baht"),
        ("In which country is Lake Baikal?", "Russia"),
    ],
)
def test_well_known_facts_are_there_and_right(facts: Pool, question: str, answer: str) -> None:
    assert answer in by_question(facts, question).answers


def test_disputed_capitals_are_not_asked(facts: Pool) -> None:
    asked = {one.question for one in facts.facts if one.kind == "capital"}
    assert not any(country in question for country in ("Israel", "Bolivia", "South Africa", "Taiwan", "Kosovo") for question in asked)


@pytest.mark.parametrize(
    "words_of_it",
    ["city of Jerusalem", "city of Glasgow", "Sierra Nevada", "the film Mirror", "Chairman Mao", "West Lake", "continent is Australia"],
)
def test_what_has_two_right_answers_or_gives_one_away_is_not_asked(facts: Pool, words_of_it: str) -> None:
    assert not [one.question for one in facts.facts if words_of_it in one.question]


@pytest.mark.parametrize(
    ("question", "said", "right"),
    [
        ("What is the currency of China?", "The renminbi.", True),
        ("What is the currency of Poland?", "It is the złoty.", True),
        ("What is the currency of Saudi Arabia?", "The Saudi riyal", True),
        ("What is the currency of Cameroon?", "The Central African CFA franc", True),
        ("What is the currency of Cameroon?", "The West African CFA franc", False),
        ("What is the currency of Canada?", "The US dollar", False),
        ("Which continent is Togo in?", "It lies in the west of the African continent.", True),
        ("Which continent is Togo in?", "It is a European country.", False),
        ("In which country is Mount Tai?", "On the island of Taiwan, in China.", False),
        ("In which country is the city of Brisbane?", "In Australia.", True),
        ("What is the capital of the Netherlands?", "The capital of Holland is Amsterdam.", True),
    ],
)
def test_answers_are_read_as_a_person_would(facts: Pool, question: str, said: str, right: bool) -> None:
    one = by_question(facts, question)
    assert names_right(said, one.answers, facts.rivals(one), one.match, question) is right


def test_what_is_said_to_be_in_the_corpus_stands_in_an_article(facts: Pool, encyclopedia: Path) -> None:
    articles = articles_of.read(encyclopedia)
    marked = [one for one in facts.facts if one.in_corpus]
    assert len(marked) > 900
    for one in marked:
        article = articles[one.article]
        text = words(f"{article.title}. {article.extract}")
        assert any(any(text[i : i + len(name)] == name for i in range(len(text))) for name in map(words, one.answers)), one


def test_no_question_gives_its_answer_away(facts: Pool) -> None:
    telling = [
        one.question for one in facts.facts if set(map(words, one.answers)) & {words(one.question)[-len(words(a)) :] for a in one.answers}
    ]
    assert [question for question in telling if "City" not in question] == []


def test_a_draw_holds_the_mix_and_spreads_answers(facts: Pool) -> None:
    drawn = pool.draw(facts, 100, seed=3)
    kinds = Counter(one.kind for one in drawn)
    assert len({one.question for one in drawn}) == 100
    assert kinds == {kind: weight for kind, weight in pool.WEIGHTS.items()}
    spread = Counter((one.kind, one.answers[0]) for one in drawn if one.kind != "continent")
    assert max(spread.values()) <= pool.SAME_ANSWER
    assert sum(one.in_corpus for one in drawn) >= 85


def test_another_seed_asks_other_questions_and_the_same_seed_the_same(facts: Pool) -> None:
    first, again, other = (pool.draw(facts, 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert len(set(first) & set(other)) < 60


def test_drawing_does_not_depend_on_the_pools_order(facts: Pool) -> None:
    shuffled = Pool(random.Random(0).sample(facts.facts, len(facts.facts)), facts.vocabularies)
    assert pool.draw(shuffled, 100, seed=5) == pool.draw(facts, 100, seed=5)


def test_a_draw_beyond_the_pool_gives_everything_once(facts: Pool) -> None:
    assert len(pool.draw(facts, 10**6, seed=0)) == len(facts.facts)


def test_made_up_things_have_no_answer_and_no_namesake(facts: Pool, encyclopedia: Path) -> None:
    made_up = pool.draw_invented(articles_of.read(encyclopedia), 60, seed=4)
    titles = {word for title in articles_of.read(encyclopedia) for word in words(title)}
    assert all(not one.answers for one in made_up)
    assert len({one.entity for one in made_up}) == 60
    assert all(words(one.entity)[-1] not in titles for one in made_up)


def test_rivals_leave_out_what_the_question_and_the_answer_name(facts: Pool) -> None:
    one = by_question(facts, "In which country is the city of Osaka?")
    rivals = facts.rivals(one)
    assert "China" in rivals and "Japan" not in rivals
    mexico = by_question(facts, "What is the capital of Mexico?")
    assert "Mexico City" in mexico.answers and "Mexico City" not in facts.rivals(mexico)


def test_a_missing_fact_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, encyclopedia: Path) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "mendeleev" else real(name, *rest))
    with pytest.raises(SteelyardError, match=r"steelyard\[facts\]"):
        pool.read_pool(encyclopedia)


def test_the_table_of_elements_is_whole() -> None:
    pytest.importorskip("mendeleev")
    table = elements.read_elements()
    assert [number for number, *_ in table] == list(range(1, 119))
    assert table[25] == (26, "Iron", "Fe")


def test_data_versions_name_every_source(encyclopedia: Path) -> None:
    for package in fact.PACKAGES:
        pytest.importorskip(package)
    versions = pool.data_versions(encyclopedia)
    assert set(versions) == {*fact.PACKAGES, "encyclopedia"} and all(versions.values())


def test_an_encyclopedia_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no summaries_en-us.json"):
        articles_of.read(tmp_path)
    (tmp_path / articles_of.FILE).write_text('{"A": {"title": "A"}}')
    with pytest.raises(DataError, match="without an extract"):
        articles_of.read(tmp_path)
    (tmp_path / articles_of.FILE).write_text('{"A": ')
    with pytest.raises(DataError, match="not the encyclopedia"):
        articles_of.read(tmp_path)


def test_about_a_tenth_of_the_articles_is_held_out(encyclopedia: Path) -> None:
    articles = articles_of.read(encyclopedia)
    assert 0.08 < sum(map(articles_of.held_out, articles)) / len(articles) < 0.12
