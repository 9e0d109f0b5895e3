"""The page's pure parts, run by Node: tables, token colours, streams, branches."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.core.errors import SteelyardError
from steelyard.serve.places.cells import column_of, number_of
from steelyard.serve.places.table import TableLimits, read_csv, table_in
from tests.web.conftest import WEB

# Reads one JSON list [function, ...arguments] per line and writes what comes back.
PARTS = """
import { columnOf, numberOf } from "./src/cells";
import { parseBlock, parseCsv, separatorOf } from "./src/csv";
import { follow } from "./src/decorate";
import { hiddenHost, piecesOf } from "./src/links";
import { paceOf } from "./src/pace";
import { askable, defaultsOf, fieldOf, valueOf } from "./src/schema";
import { FrameReader } from "./src/api/streams";
import { growTree, pathTo, siblingsOf, tipOf } from "./src/tree";
import { en } from "./src/texts/en";
import { ar } from "./src/texts/ar";
const parts: Record<string, (...given: any[]) => unknown> = {
  parseCsv, parseBlock, separatorOf, fieldOf, defaultsOf, numberOf, columnOf, askable, valueOf, paceOf, piecesOf, hiddenHost,
  texts: (language: string) => ({ en, ar } as Record<string, unknown>)[language],
  forms: (language: string) => new Intl.PluralRules(language).resolvedOptions().pluralCategories,
  follow: (source: string, shown: string) => [...follow(source, shown)],
  frames: (pieces: string[]) => { const reader = new FrameReader(); return pieces.flatMap((piece) => [...reader.read(piece)]); },
  path: (messages: any[], head: string) => pathTo(growTree(messages), head).map((message) => message.id),
  tip: (messages: any[], at: string) => tipOf(growTree(messages), at),
  siblings: (messages: any[], at: string) => { const tree = growTree(messages); return siblingsOf(tree, tree.byId.get(at)!).map((one) => one.id); },
};
declare const require: any, process: any;
require("readline").createInterface({ input: process.stdin }).on("line", (line: string) => {
  const [name, ...given] = JSON.parse(line);
  process.stdout.write(JSON.stringify(parts[name]!(...given)) + "\\n");
});
"""

Parts = Callable[..., Any]


@pytest.fixture(scope="module")
def parts(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """Calls a part by its name."""
    program = tmp_path_factory.mktemp("parts") / "parts.cjs"
    esbuild = [
        WEB / "node_modules" / ".bin" / "esbuild",
        "--bundle",
        "--format=cjs",
        "--platform=node",
        "--loader=ts",
        f"--outfile={program}",
    ]
    subprocess.run(esbuild, input=PARTS, text=True, cwd=WEB, check=True, capture_output=True)
    with subprocess.Popen(["node", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as node:
        assert node.stdin and node.stdout

        def call(*given: Any) -> Any:
            node.stdin.write(json.dumps(given) + "\n")
            node.stdin.flush()
            return json.loads(node.stdout.readline())

        yield call
        node.stdin.close()


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=12)
tables = st.lists(st.lists(cells, min_size=2, max_size=4), min_size=1, max_size=5)


@given(rows=tables, separator=st.sampled_from([",", ";", "\t", "|"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_that_any_program_wrote_is_read_back(parts: Parts, rows: list[list[str]], separator: str):
    rows = [["first", "second", "third", "fourth"], *rows]
    written = io.StringIO()
    csv.writer(written, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
    assert parts("parseCsv", written.getvalue()) == rows


def test_damaged_tables_are_read_as_far_as_they_go(parts: Parts):
    assert parts("parseCsv", "") == [] and parts("parseCsv", "\n\n\r\n") == []
    assert parts("parseCsv", 'a,b\n1,"open to the end\n2,3') == [["a", "b"], ["1", "open to the end\n2,3"]]
    assert parts("parseCsv", "\ufeffa;b\r1;2\r") == [["a", "b"], ["1", "2"]]
    assert len(parts("parseCsv", '"' * 200_001 + ",x")) == 1


def test_cells_and_tables_are_what_the_server_says_they_are(parts: Parts):
    """The list that tests/serve/test_places.py holds the server to."""
    cases = json.loads((Path(__file__).parents[1] / "cells.json").read_text())
    for key, comma in (("numbers", False), ("numbers_where_commas_are_decimal_signs", True)):
        wrong = {cell: got for cell, number in cases[key] if (got := parts("numberOf", cell, comma)) != number}
        assert wrong == {}
    for case in cases["columns"]:
        assert parts("columnOf", case["cells"], case["separator"]) == {key: case[key] for key in ("values", "missing", "numeric")}
    for case in cases["tables"]:
        assert parts("parseCsv", case["text"]) == case["rows"] and parts("separatorOf", case["text"]) == case["separator"]


@given(
    cells=st.lists(st.text("0123456789,.'+-− eE%€\u00a0na/", max_size=12), min_size=1, max_size=4), separator=st.sampled_from([",", ";"])
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_page_and_server_read_any_column_alike(parts: Parts, cells: list[str], separator: str):
    read = column_of(cells, separator)
    assert parts("columnOf", cells, separator) == {"values": list(read.values), "missing": list(read.missing), "numeric": read.numeric}


@given(text=st.text('ab1,;\t|"\n\r ', max_size=40))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_page_and_server_cut_any_text_into_the_same_cells(parts: Parts, text: str):
    rows = parts("parseCsv", text)
    try:
        table = read_csv(text, "any", TableLimits())
    except SteelyardError:
        assert len(rows) < 2
        return
    assert [list(row) for row in table.rows] == rows[1:] and table.separator == parts("separatorOf", text)


@pytest.mark.parametrize(
    "text", ['[{"a": 1, "b": "x"}, {"b": [1, 2.5], "c": null}]', '[["a", "b"], [true, 1e3]]', '{"a": [1, 2], "b": ["x", {"y": 0}]}']
)
def test_page_and_server_read_the_same_table_of_json(parts: Parts, text: str):
    table = table_in(f"```json\n{text}\n```", "any", TableLimits())
    heading, *rows = parts("parseBlock", text, "JSON")
    assert heading == list(table.columns)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            assert cell == table.cell(row, column) or number_of(cell) == number_of(table.cell(row, column)) is not None


def test_shown_text_is_followed_through_the_markdown_it_came_from(parts: Parts):
    assert parts("follow", "**a** b", "a b") == [2, 5, 6]
    assert parts("follow", "abc", "xyz") == [-1, -1, -1]


@given(events=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")), max_size=5), cut=st.integers(1, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_is_read_the_same_however_it_is_cut(parts: Parts, events: list[str], cut: int):
    whole = "".join(f": a comment\n\ndata: {event}\n\n" for event in events)
    assert parts("frames", [whole[at : at + cut] for at in range(0, len(whole), cut)]) == events


@given(text=st.lists(st.sampled_from([*"ab/.:@()[]!? \n", "http://", "https://", "x.example", "ü"]), max_size=40).map("".join))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_text_cut_at_its_addresses_is_the_same_text_and_leads_only_to_web_servers(parts: Parts, text: str):
    pieces = parts("piecesOf", text)
    assert "".join(piece["text"] for piece in pieces) == text
    assert all(
        re.match(r"https?://[^\s]+\Z", piece["address"]) and piece["address"] == piece["text"] for piece in pieces if "address" in piece
    )


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("(see https://a.example/b).", ["https://a.example/b"]),
        ("https://a.example/b_(c), HTTP://B.EXAMPLE!", ["https://a.example/b_(c)", "HTTP://B.EXAMPLE"]),
        ('<a href="https://a.example">', ["https://a.example"]),
        ("javascript:alert(1) data:text/html,x ftp://a.example //a.example www.a.example xhttps://a.example https://", []),
    ],
)
def test_addresses_end_where_a_reader_would_end_them(parts: Parts, text: str, addresses: list[str]):
    assert [piece["address"] for piece in parts("piecesOf", text) if "address" in piece] == addresses


@pytest.mark.parametrize(
    ("address", "words", "told"),
    [
        ("https://a.example/b", "https://a.example/b", None),
        ("https://a.example/b", "a.example", None),
        ("https://a.example/b", "my bank", "a.example"),
        ("https://evil.example/", "https://bank.example", "evil.example"),
        ("https://bank.example.evil.example/", "https://bank.example", "bank.example.evil.example"),
        ("https://bank.example@evil.example/", "https://bank.example@evil.example/", "evil.example"),
        ("https://b\u00e4nk.example/", "https://b\u00e4nk.example/", "xn--bnk-qla.example"),
        ("mailto:a@b.example", "write", None),
    ],
)
def test_a_link_tells_its_host_unless_its_words_do(parts: Parts, address: str, words: str, told: str | None):
    assert parts("hiddenHost", address, words) == told


def test_types_and_markup_of_the_page_are_sound(built: Path):
    """`npm run check`: TypeScript over everything, and Svelte's own findings, among them what screen readers would miss."""
    check = [WEB / "node_modules" / ".bin" / "svelte-check", "--tsconfig", "./tsconfig.json", "--fail-on-warnings", "--output", "human"]
    found = subprocess.run(check, cwd=WEB, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_branches_skip_deleted_messages_and_end_at_the_newest(parts: Parts):
    rows = [("a", None), ("b", "a"), ("c", "b"), ("d", "b"), ("e", "a")]
    messages = [{"id": name, "parent": parent, "deleted": name == "b"} for name, parent in rows]
    assert parts("path", messages, "d") == ["a", "d"]
    assert parts("siblings", messages, "c") == ["c", "d", "e"] and parts("tip", messages, "a") == "e"
    assert parts("path", messages, "nowhere") == []


def test_settings_of_levers_become_fields(parts: Parts):
    schema = {
        "properties": {
            "kind": {"$ref": "#/$defs/Kind"},
            "top": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None},
            "file": {"anyOf": [{"type": "string", "format": "path"}, {"type": "null"}], "default": None},
        },
        "$defs": {"Kind": {"enum": ["a", "b"]}},
    }
    assert parts("fieldOf", schema["properties"]["kind"], schema) == {"kind": "choice", "values": ["a", "b"]}
    assert parts("fieldOf", schema["properties"]["top"], schema) == {"kind": "number", "whole": True, "least": 1}
    assert parts("defaultsOf", schema) == {}
    assert [name for name, _ in parts("askable", {"schema": schema})] == ["kind", "top"], "clients name no files of the server"
    judged = {"schema": schema, "references": {"kind": "answerer", "top": "model"}}
    assert [name for name, _ in parts("askable", judged)] == ["top"], "nor what the server does not list"
    whole = {"kind": "number", "whole": True, "least": 0}
    mixed = {"anyOf": [{"enum": ["low", "high"]}, {"type": "array", "items": {"type": "integer", "minimum": 0}}]}
    assert parts("fieldOf", mixed, {}) == {"kind": "either", "values": ["low", "high"], "other": {"kind": "list", "of": whole}}
    assert parts("fieldOf", {"anyOf": [{"type": "boolean"}, {"const": "never"}]}, {}) == {
        "kind": "choice",
        "values": [False, True, "never"],
    }
    paths = {"anyOf": [{"type": "object"}, {"type": "string", "format": "path"}, {"type": "null"}]}
    assert parts("fieldOf", paths, {}) == {"kind": "json", "of": "object"}


@pytest.mark.parametrize(
    ("field", "text", "read"),
    [
        ({"kind": "number", "whole": False, "above": 0, "most": 2}, "0.5", 0.5),
        ({"kind": "number", "whole": False, "above": 0, "most": 2}, "0", "levers.above"),
        ({"kind": "number", "whole": False, "above": 0, "most": 2}, "3", "levers.most"),
        ({"kind": "number", "whole": True, "least": 1, "below": 9}, "1.5", "levers.notWhole"),
        ({"kind": "number", "whole": True, "least": 1, "below": 9}, "9", "levers.below"),
        ({"kind": "list", "of": {"kind": "text"}}, " one, two ,\n", ["one", "two"]),
        ({"kind": "list", "of": {"kind": "number", "whole": True}}, "1،2", [1, 2]),
        ({"kind": "json", "of": "object"}, "[1]", "levers.notObject"),
        ({"kind": "json", "of": "array"}, "{}", "levers.notArray"),
        ({"kind": "json"}, "{", "levers.notJson"),
    ],
)
def test_what_a_person_wrote_becomes_a_value_or_what_is_wrong_with_it(parts: Parts, field: dict[str, Any], text: str, read: Any):
    told = parts("valueOf", field, text)
    assert told.get("value", told.get("problem", {}).get("key")) == read
    assert parts("valueOf", field, "  ") == {}, "nothing written is the setting's own default"


def test_the_pace_of_an_answer_that_came_in_one_piece_is_that_of_its_whole_time(parts: Parts):
    usage = {"prompt_tokens": 5, "completion_tokens": 21, "seconds": 2.5, "first_token_seconds": 0.5}
    assert parts("paceOf", usage) == 10
    assert parts("paceOf", usage | {"first_token_seconds": 2.49}) == pytest.approx(8.4)
    assert parts("paceOf", usage | {"completion_tokens": 1}) is None


@pytest.mark.parametrize("language", [path.stem for path in sorted((WEB / "src" / "texts").glob("??.ts"))])
def test_every_language_has_every_text_with_its_places_and_forms_of_number(parts: Parts, language: str):
    """A text that is missing, a `{name}` that is misspelt, or a form of number that nobody translated is shown to nobody."""
    english, texts, forms = parts("texts", "en"), parts("texts", language), set(parts("forms", language))
    assert list(texts) == list(english)
    for key, entry in texts.items():
        told = [entry] if isinstance(entry, str) else list(entry.values())
        assert isinstance(entry, str) == isinstance(english[key], str), key
        assert all(text.strip() == text and text for text in told), key
        assert isinstance(entry, str) or forms - {"zero"} <= set(entry) <= forms, (key, forms)
        wanted = [english[key]] if isinstance(english[key], str) else list(english[key].values())
        places = [{*re.findall(r"\{(\w+)\}", text)} for text in wanted]
        for text in told:  # a form for one or two need not say the number
            assert {*re.findall(r"\{(\w+)\}", text)} | {"n"} in [place | {"n"} for place in places], (key, text)
    assert sum(texts[key] == english[key] for key in texts) < 8 or language == "en", "it is translated"


def test_the_page_is_small_without_its_charts_runs_no_inline_code_and_brings_its_licences(built: Path):
    files = [path for path in (built / "assets").iterdir() if not path.name.startswith(("chart-", "licenses"))]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < 1_500_000
    document = (built / "index.html").read_text()
    assert (
        "<style" not in document
        and " style=" not in document
        and document.count("<script") == document.count('<script type="module" crossorigin src="/')
    )
    assert "echarts" in (built / "assets" / "licenses.txt").read_text()
    assert "chart-" not in document
