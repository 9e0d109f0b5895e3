"""What is computed of a place: cells and tables as the page reads them too, and figures that an independent computation confirms."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import DataError, SteelyardError, UnsupportedError
from steelyard.serve.places.cells import SPACES, column_of, number_of
from steelyard.serve.places.figures import written
from steelyard.serve.places.place import ROWS, Told, of_sentence, of_table, quoting
from steelyard.serve.places.selection import CellSelection, ColumnSelection, PointSelection, RowsSelection
from steelyard.serve.places.table import Table, TableLimits, read_csv, separator_of, table_in

CASES: dict[str, Any] = json.loads((Path(__file__).parents[1] / "cells.json").read_text())
LIMITS = TableLimits()
PLANETS = (
    "planet,kind,mass,moons\nMercury,rock,0.33,0\nVenus,rock,4.87,0\nEarth,rock,5.97,1\nMars,rock,0.642,2\n"
    "Jupiter,gas,1898,95\nSaturn,gas,568,146\nUranus,ice,86.8,28\nNeptune,ice,102,16\n"
)


def table(text: str = PLANETS, name: str = "planets.csv") -> Table:
    return read_csv(text, name, LIMITS)


def column(of: Table, index: int) -> Told:
    return of_table(of, ColumnSelection(kind="column", column=index))


def cell(of: Table, row: int, index: int) -> Told:
    return of_table(of, CellSelection(kind="cell", row=row, column=index))


def figures(told: Told) -> dict[str, float | None]:
    return {one.name: one.value for one in told.figures}


@pytest.mark.parametrize(("text", "number"), CASES["numbers"])
def test_a_number_is_what_the_one_rule_says(text: str, number: float | None):
    assert number_of(text) == number


@pytest.mark.parametrize(("text", "number"), CASES["numbers_where_commas_are_decimal_signs"])
def test_a_comma_is_a_decimal_sign_where_its_column_says_so(text: str, number: float | None):
    assert number_of(text, comma=True) == number


@pytest.mark.parametrize("case", CASES["columns"])
def test_a_column_decides_what_its_cells_are(case: dict[str, Any]):
    read = column_of(case["cells"], case["separator"])
    assert (list(read.values), list(read.missing), read.numeric) == (case["values"], case["missing"], case["numeric"])


@pytest.mark.parametrize("case", [case for case in CASES["tables"] if len(case["rows"]) > 1])
def test_a_table_is_cut_into_the_cells_that_the_page_shows(case: dict[str, Any]):
    read = table(case["text"])
    assert separator_of(case["text"].removeprefix("\ufeff")) == case["separator"] == read.separator
    assert [cell.strip() for cell in case["rows"][0]] == list(read.columns)[: len(case["rows"][0])]
    assert [list(row) for row in read.rows] == case["rows"][1:]
    assert len(read.columns) == max(map(len, case["rows"]))


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_no_cell_is_a_number_that_no_double_holds(text: str):
    for comma in (False, True):
        number = number_of(text, comma)
        assert number is None or math.isfinite(number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_that_a_program_writes_is_read_back(number: float):
    assert number_of(repr(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_figure_is_written_to_six_digits(number: float):
    told = float(written(number))
    assert math.isclose(told, number, rel_tol=5e-6) or abs(told - number) < 1e-12 * max(1, abs(number))


def random_table(seed: int) -> tuple[Table, list[dict[str, Any]]]:
    """A table as a person's might be, and its rows as Python has them, made from the same numbers."""
    rng = random.Random(seed)
    rows = [
        {
            "name": f"item {number:03}",
            "group": rng.choice(["north", "south", "east"]),
            "amount": None if rng.random() < 0.1 else round(rng.uniform(0, 10 ** rng.randint(1, 6)), rng.randint(0, 4)),
        }
        for number in range(rng.randint(12, 60))
    ]
    separator, comma = rng.choice([(",", False), (";", True), ("\t", False)])

    def text(value: Any) -> str:
        said = "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        return said.replace(".", ",") if comma and value is not None else said

    lines = [separator.join(rows[0])] + [separator.join(text(value) for value in row.values()) for row in rows]
    return table(rng.choice(["", "\ufeff"]) + rng.choice(["\n", "\r\n"]).join(lines), "made.csv"), rows


@pytest.mark.parametrize("seed", range(20))
def test_figures_equal_an_independent_computation(seed: int):
    read, rows = random_table(seed)
    amounts = [row["amount"] for row in rows if row["amount"] is not None]
    told = figures(column(read, 2))
    expected = {
        "number of rows": len(rows),
        "number of missing values of amount": len(rows) - len(amounts),
        "sum of amount": numpy.sum(numpy.array(amounts, dtype=numpy.longdouble)),
        "mean of amount": numpy.mean(numpy.array(amounts, dtype=numpy.longdouble)),
        "median of amount": statistics.median(amounts),
        "minimum of amount": min(amounts),
        "maximum of amount": max(amounts),
    }
    groups = defaultdict(list)
    for row in rows:
        if row["amount"] is not None:
            groups[row["group"]].append(row["amount"])
    expected |= {f"mean of amount where group is {word}": statistics.fmean(values) for word, values in groups.items()}
    assert told.keys() == expected.keys()
    for name, value in expected.items():
        assert told[name] == pytest.approx(float(value), rel=1e-12), name
    row = next(row for row, values in enumerate(rows) if values["amount"] is not None)
    ours, value, name = figures(cell(read, row, 2)), rows[row]["amount"], rows[row]["name"]
    assert ours[f"amount of {name}"] == value
    assert ours[f"rank of {name} by amount, the largest first,"] == sorted(amounts, reverse=True).index(value) + 1
    assert ours[f"share of {name} in the sum of amount"] == pytest.approx(100 * value / sum(amounts), rel=1e-12)
    assert ours[f"difference of {name} from the mean of amount"] == pytest.approx(value - statistics.fmean(amounts), rel=1e-9, abs=1e-9)


def test_the_text_of_a_column_holds_each_figure_and_its_rows():
    told = column(table(), 2)
    assert told.label == "column mass" and told.text.startswith("About column mass in planets.csv.\n")
    for line in ("sum of mass is 2666.61.", "mean of mass is 333.327.", "median of mass is 46.385.", "maximum of mass is 1898 (Jupiter)."):
        assert f"The {line}" in told.text.split("\n")
    assert "The mean of mass where kind is gas is 1233 (of 2 rows)." in told.text and "Saturn: 568" in told.text


def test_a_cell_is_ranked_shared_and_set_beside_its_neighbours_and_group():
    told = cell(table(), 5, 2)
    assert told.label == "mass of Saturn"
    ours = figures(told)
    assert ours["rank of Saturn by mass, the largest first,"] == 2
    assert ours["mass in the row before"] == 1898 and ours["mass in the row after"] == 86.8
    assert ours["mean of mass where kind is gas"] == 1233 and "kind: gas" in told.text
    tie = cell(table(), 0, 3)
    assert "The rank of Mercury by moons, the largest first, is 7 of 8, together with 1 of the same size." in tie.text


def test_a_point_of_a_chart_knows_the_points_beside_it_along_its_axis():
    text = "year,rain\n2003,5\n2001,1\n2004,n/a\n2002,3\n"
    told = of_table(table(text), PointSelection(kind="point", row=3, column=1, along=0))
    assert told.label == "rain at year 2002"
    assert figures(told)["rain at the point before"] == 1 and figures(told)["rain at the point after"] == 5


def test_rows_are_set_beside_the_others():
    told = of_table(table(), RowsSelection(kind="rows", rows=(4, 5)))
    ours = figures(told)
    assert ours["sum of moons of the selected rows"] == 241 and ours["mean of mass of the selected rows"] == 1233
    assert ours["mean of moons of the other rows"] == pytest.approx(47 / 6)


def test_words_are_counted_and_the_numbers_beside_them_compared():
    ours = figures(cell(table(), 0, 1))
    assert ours["number of rows where kind is rock"] == 4 and ours["share of the rows where kind is rock"] == 50
    assert ours["mean of moons where kind is rock"] == 0.75 and ours["mean of moons of the other rows"] == 71.25
    assert figures(column(table(), 1))["number of rows where kind is rock"] == 4


def test_numbers_near_the_end_of_what_a_double_holds_lead_to_no_infinity():
    told = column(table("name,value\na,1e308\nb,1.5e308\nc,1e400\nd,-1e308\n"), 1)
    assert "inf" not in told.text and "nan" not in told.text
    told = column(table("name,value\na,1.7e308\nb,1.7e308\n"), 1)
    assert "sum of value" not in figures(told) and figures(told)["mean of value"] == 1.7e308
    assert all(value is None or math.isfinite(value) for value in figures(told).values())


def test_a_place_outside_the_table_is_refused_with_what_there_is():
    for selection in (
        ColumnSelection(kind="column", column=4),
        CellSelection(kind="cell", row=8, column=0),
        PointSelection(kind="point", row=0, column=0, along=4),
        RowsSelection(kind="rows", rows=(0, 2**30)),
    ):
        with pytest.raises(DataError, match=r"there is no (column|row) .* in planets.csv: it has"):
            of_table(table(), selection)


def test_where_the_page_shows_something_else_nothing_is_told():
    here = CellSelection(kind="cell", row=0, column=2)
    assert of_table(table(), here, " 0.330 ").label == "mass of Mercury"
    with pytest.raises(DataError, match="the server reads '0.33'"):
        of_table(table(), here, "4.87")


def test_a_long_table_is_sent_with_its_first_rows_and_says_so():
    told = column(table("name,value\n" + "".join(f"n{number},{number}\n" for number in range(1000))), 1)
    assert f"The cells, the first {ROWS} of 1000:" in told.text and len(told.text) < 2000 and "The sum of value is 499500." in told.text
    wide = table(",".join(f"c{number}" for number in range(900)) + "\n" + ",".join("x" * 300 for _ in range(900)))
    assert len(cell(wide, 0, 3).text) < 13_000


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", DataError),
        ("a,b\n", DataError),
        ("\n\n", DataError),
        ("a,b\n1," + '"' + "x" * 200_000, DataError),
        ("a,b\n" + "1,2\n" * 300, UnsupportedError),
        ("a" + ",b" * 50 + "\n1,2\n", UnsupportedError),
        ("x" * 20_000, UnsupportedError),
    ],
)
def test_what_is_no_table_or_too_large_is_refused(text: str, error: type[SteelyardError]):
    limits = TableLimits(rows=200, columns=40, bytes=10_000 if len(text) < 100_000 else LIMITS.bytes)
    with pytest.raises(error):
        read_csv(text, "t.csv", limits)


def test_a_table_that_takes_too_long_is_refused():
    with pytest.raises(UnsupportedError, match="took longer"):
        read_csv("a,b\n" + "1,2\n" * 5000, "t.csv", TableLimits(seconds=1e-9))


def test_a_hundred_thousand_rows_are_read():
    big = table("name,group,value\n" + "".join(f"n{number},{'ab'[number % 2]},{number / 8}\n" for number in range(100_000)))
    assert figures(column(big, 2))["sum of value"] == sum(range(100_000)) / 8
    assert figures(cell(big, 99_999, 2))["rank of n99999 by value, the largest first,"] == 1


@given(st.text(st.characters(codec="utf-8"), max_size=200), st.integers(0, 5), st.integers(0, 5))
def test_no_text_breaks_the_reading_of_a_table(text: str, row: int, index: int):
    for read in (
        lambda: read_csv(text, "t", LIMITS),
        lambda: table_in(text, "t", LIMITS),
        lambda: table_in(f"```json\n{text}\n```", "t", LIMITS),
    ):
        try:
            told = cell(read(), row, index)
        except SteelyardError:
            continue
        assert told.text and told.label


@pytest.mark.parametrize(
    "text",
    [
        "| river | km |\n| --- | ---: |\n| **Danube** | 2850 |\n| `a\\|b` | 1,233 |\n",
        "river | km\n--- | ---\nDanube | 2850\na\\|b | 1,233",
        '```csv\nriver,km\nDanube,2850\na|b,"1,233"\n```',
        "~~~~tsv\nriver\tkm\nDanube\t2850\na|b\t1,233\n~~~~\n",
        '```json\n[{"river": "Danube", "km": 2850}, {"km": "1,233", "river": "a|b"}]\n```',
        '```JSON\n[["river", "km"], ["Danube", 2850.0], ["a|b", "1,233"]]\n```',
        '```json\n{"river": ["Danube", "a|b"], "km": [2850, "1,233"]}\n```',
    ],
)
def test_tables_of_answers_are_read_in_every_form(text: str):
    read = table_in(text, "an answer", LIMITS)
    assert read.columns == ("river", "km") and [read.cell(0, 0), read.cell(1, 0)] == ["Danube", "a|b"]
    assert figures(column(read, 1))["sum of km"] == 4083


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1), min_size=1, max_size=3))
def test_the_form_of_an_answer_that_quotes_matches_each_sentence_and_nothing_else(sentences: list[str]):
    form = re.compile(quoting(sentences))
    assert all(form.fullmatch(sentence) for sentence in sentences)
    assert all(form.fullmatch(sentence + "0") is None for sentence in sentences if sentence + "0" not in sentences)


def test_spaces_are_those_of_the_page_only():
    assert "\x1c" not in SPACES and number_of("\x855") is None and number_of("\u30005") == 5


def test_a_sentence_is_quoted_line_by_line_and_may_not_be_empty_or_endless():
    assert of_sentence("two\nlines").text.endswith("> two\n> lines")
    for text in (" \n", "x" * 9000):
        with pytest.raises(DataError):
            of_sentence(text)
