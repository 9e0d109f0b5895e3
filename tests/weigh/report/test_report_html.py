"""The page: complete, escaped, within its size, and without a network."""

import base64
import dataclasses
import hashlib
import html.parser
import itertools
import json
import re
import subprocess
import sys

import pytest
from example_report import ARMS, example_details, example_report
from hostile_text import HOSTILE

from steelyard.weigh.report.details import LONGEST, write_details
from steelyard.weigh.report.html import MOST_BYTES, page, write_html
from steelyard.weigh.report.report import ArmSummary, Cell, Flip, Report
from steelyard.weigh.report.verdicts import MARKS

VOID = {"meta", "link", "br", "img", "input", "base", "hr", "wbr"}


class Tree(html.parser.HTMLParser):
    """Reads a page strictly: every element closed in order; collects what was seen."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.ids, self.text, self.scripts = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] in ("script", "style") else self.text).append(data)


def read(text: str) -> Tree:
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert not tree.open
    return tree


def plain_text(tree: Tree) -> str:
    return re.sub(r"\s+", " ", "".join(tree.text))


@pytest.fixture(scope="module")
def text() -> str:
    return page(example_report())


def hostile_report() -> Report:
    """The example with hostile text in every place that holds text."""
    report, words = example_report(flips=0), list(HOSTILE)
    names = [f"{word[:60]}{place}" for place, word in enumerate(words[:8])]

    def some(place: int, length: int) -> str:
        return words[place % len(words)][:length]

    cells = [
        dataclasses.replace(
            cell,
            arm=names[place % 7 + 1],
            task=some(place, 80),
            metric=some(place + 3, 80) or "metric",
            axis=some(place + 5, 40) or "quality",
            unit=some(place + 9, 20),
            note=some(place + 11, 9999),
        )
        for place, cell in enumerate(report.cells)
    ]
    flips = [
        Flip(word[:50], word, names[place % 8], "accuracy", word, words[place - 1], words[place - 2], words[place - 3], 0.0, 1.0)
        for place, word in enumerate(words)
    ]
    return dataclasses.replace(
        report,
        arms={
            name: ArmSummary(word, [{word: {word: word}}], {word: 1.5}, word, word, 10)
            for name, word in zip(names, words[1:], strict=False)
        },
        cells=cells,
        flips=flips,
        notes=words,
        title="".join(words)[:3000],
        machine={word: word for word in words},
        versions={word: word for word in words},
        recipe={"base": words[0], "arms": {word: words for word in words}, "seed": words[4]},
        started=words[1],
        checks={"a_a": cells[:5], "planted_defect": cells[5:9]},
    )


def test_the_page_is_well_formed_html_with_unique_ids(text):
    tree = read(text)
    assert text.startswith("<!doctype html>")
    assert len(tree.ids) == len(set(tree.ids))
    targets = {value[1:] for tag, key, value in tree.attributes if tag == "a" and key == "href"}
    assert targets <= set(tree.ids)


def test_every_verdict_stands_there_as_a_word(text):
    shown = plain_text(read(text))
    assert {cell.verdict for cell in example_report().cells} == set(MARKS)
    assert all(verdict in shown for verdict in MARKS)


def test_every_table_has_a_caption_and_named_columns(text):
    for table in re.findall(r"<table.*?</table>", text, re.S):
        assert "<caption" in table and 'scope="col"' in table and 'scope="row"' in table


def test_every_arm_metric_and_sample_size_is_on_the_page(text):
    shown = plain_text(read(text))
    report = example_report()
    for cell in report.cells:
        assert cell.arm in shown and cell.metric in shown and f"n {cell.n}" in shown
    heading = ("smollm2-135m-instruct", "135M parameters", "example processor", "2026-03-02 10:14 UTC", "3 min 42 s")
    for what in (*heading, "modelled", "2.13.0"):
        assert what in shown
    assert len(re.findall(r'<details class="flip"', text)) == 200


def test_limits_tell_the_samples_that_would_settle_what_is_open(text):
    open_cells = [cell for cell in example_report().cells if cell.verdict == "underpowered"]
    assert open_cells
    shown = plain_text(read(text))
    for cell in open_cells:
        assert f"about {cell.samples_to_settle:,} more samples would settle it" in shown


def test_the_policy_allows_only_the_named_script_and_style_and_no_network(text):
    tree = read(text)
    (policy,) = [value for tag, key, value in tree.attributes if tag == "meta" and key == "content" and "default-src" in value]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["base-uri"] == "'none'" and rules["form-action"] == "'none'"
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert set(rules) <= {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    for name, rule in (("script", "script-src"), ("style", "style-src")):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.S)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'" in rules[rule]


def test_nothing_on_the_page_points_at_a_network(text):
    tree = read(text)
    for _tag, key, value in tree.attributes:
        if key in ("href", "src", "action", "data", "poster", "srcset"):
            assert value.startswith(("#", "data:"))
        assert key != "style" and not key.startswith("on")
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text


def test_hostile_text_stays_text(tmp_path):
    report = hostile_report()
    rows = [{"sample": word, "question": word, "expected": word, "text": word, "values": {word: float("nan")}} for word in HOSTILE]
    write_html(report, tmp_path / "report.html", {(name, word): rows for name, word in zip(report.arms, HOSTILE, strict=False)})
    drawn = (tmp_path / "report.html").read_text(encoding="utf-8")
    tree, clean = read(drawn), read(page(example_report()))
    assert set(tree.tags) <= set(clean.tags) | {"noscript", "form", "input"}
    loaders = "<(meta|base|link|img|style)"
    assert drawn.count("<script") == 2 and re.findall(loaders, drawn) == re.findall(loaders, page(example_report()))
    for _tag, key, _value in tree.attributes:
        assert not key.startswith("on") and key != "style"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", drawn)
    shown = "".join(tree.text)
    assert "<img src=x onerror=alert(2)>" in shown and "⟨U+202E⟩right to left" in shown and "⟨NUL⟩NUL" in shown and "⟨U+D83D⟩ lone" in shown


def test_details_are_scripts_of_plain_json_that_cannot_end_an_element(tmp_path):
    rows = [{"sample": word, "question": word, "expected": word, "text": word, "values": {"m": 1 / 3, "p": (1.0, 2.0)}} for word in HOSTILE]
    write_html(example_report(), tmp_path / "report.html", {("../../etc", "<x>"): rows, ("base", "facts"): []})
    files = sorted((tmp_path / "details").iterdir())
    assert [file.name for file in files] == ["000-etc-x.js"] and not (tmp_path.parent / "etc").exists()
    script = files[0].read_text(encoding="ascii")
    assert "<" not in script
    inside = re.fullmatch(r'steelyardDetails\("([^"]*)","([^"]*)",(\[.*\])\);\n', script, re.S)
    assert inside
    read_rows = json.loads(inside[3])
    assert len(read_rows) == len(HOSTILE) and read_rows[0]["text"] == HOSTILE[0]
    assert read_rows[0]["values"] == {"m": 0.333333, "p": [1.0, 2.0]}
    manifest = json.loads(re.findall(r'id="manifest">(.*?)</script>', (tmp_path / "report.html").read_text())[0])
    assert manifest == [
        {"arm": "../../etc", "task": "<x>", "title": "<x>", "rows": len(HOSTILE), "files": ["details/000-etc-x.js"]},
        {"arm": "base", "task": "facts", "title": "facts", "rows": 0, "files": []},
    ]


def test_large_details_are_cut_into_parts_and_old_files_go(tmp_path):
    rows = [{"sample": str(place), "text": "word " * 40_000} for place in range(20)]
    write_html(example_report(), tmp_path / "report.html", {("base", "facts"): rows, ("int8", "facts"): rows})
    sizes = [file.stat().st_size for file in (tmp_path / "details").iterdir()]
    assert len(sizes) > 4 and max(sizes) < 2_000_000
    (tmp_path / "details" / "notes.txt").write_text("mine")
    write_html(example_report(), tmp_path / "report.html", example_details())
    names = sorted(file.name for file in (tmp_path / "details").iterdir())
    assert len(names) == 2 * len(ARMS) + 1 and "notes.txt" in names and "000-base-facts.js" in names


@pytest.mark.parametrize("word", ["<&>\"' ", "plain words that go on ", "\u202e\x00\ud800"])
def test_200_huge_changed_samples_fit_into_three_megabytes_and_say_what_is_left_out(word):
    big = word * (60_000 // len(word))
    texts = [(f"a{place} {big}", f"b{place} {big}") for place in range(230)]
    flips = [Flip("facts", f"s{place}", "library", "accuracy", big, big, *two, 0.0, 1.0) for place, two in enumerate(texts)]
    drawn = page(dataclasses.replace(example_report(), flips=flips))
    assert len(drawn.encode()) <= MOST_BYTES
    assert len(re.findall(r'<details class="flip"', drawn)) == 200
    shown = plain_text(read(drawn))
    assert "more characters" in shown and "30 more are not shown here" in shown


def test_very_many_cells_fit_too_and_the_page_says_so():
    report, few = example_report(flips=3), example_report(flips=0).cells
    arms = {f"arm{place}": ArmSummary("f", [], {}) for place in range(60)}
    places = itertools.product(range(1, 60), range(3), few[:14])
    cells = [dataclasses.replace(cell, arm=f"arm{place}", task=f"{cell.task}{kind}") for place, kind, cell in places]
    drawn = page(dataclasses.replace(report, arms=arms, cells=cells))
    assert len(drawn.encode()) <= MOST_BYTES
    shown = plain_text(read(drawn))
    assert "more cells would not fit" in shown and "more metrics are left out" in shown
    assert len(re.findall(r'<details class="flip"', drawn)) == 3


def test_an_empty_report_and_one_of_the_base_alone_can_be_drawn():
    empty = Report(arms={}, cells=[], checks={}, machine={}, versions={}, recipe={})
    assert "Nothing was measured" in page(empty)
    none = (None, None, None)
    cell = Cell("base", "facts", "quality", "accuracy", "share", True, None, None, 0.5, (0.4, 0.6), *none, 50, False, "not measurable")
    alone = dataclasses.replace(empty, arms={"base": ArmSummary("f", [], {})}, cells=[cell])
    assert "Only the base was weighed" in page(alone) and "50.0%" in page(alone)


def test_numbers_that_are_none_nan_or_enormous_do_not_stop_the_page():
    report = example_report(flips=0)
    odd = [None, float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, 0.0, -0.0]
    fields = ("base", "value", "difference", "low", "high", "margin")
    cells = [
        dataclasses.replace(
            cell,
            **{field: odd[(place + shift) % 9] for shift, field in enumerate(fields)},
            value_interval=(odd[place % 9] or 0.0, odd[(place + 6) % 9] or 0.0),
        )
        for place, cell in enumerate(report.cells)
    ]
    drawn = page(dataclasses.replace(report, cells=cells, seconds=float("nan")))
    read(drawn)
    assert not re.search(r'(x|y|x1|x2|y1|y2|cx|cy|width)="-?(nan|inf)', drawn)


def test_a_failed_check_is_told_before_the_findings():
    report = example_report(flips=0)
    harmless = [dataclasses.replace(cell, verdict="equivalent") for cell in report.checks["planted_defect"]]
    shown = plain_text(read(page(dataclasses.replace(report, checks={**report.checks, "planted_defect": harmless}))))
    assert shown.index("failed. Missed") < shown.index("quantize(bits=8)")


def test_an_arm_that_is_the_planted_defect_says_so_and_one_without_a_primary_result_says_that():
    report = example_report()
    bare = [dataclasses.replace(cell, primary=False) for cell in report.cells]
    shown = plain_text(read(page(dataclasses.replace(report, cells=bare))))
    others = len(report.arms) - 1
    assert shown.count("Planted on purpose") == 1
    assert shown.count("No primary result was named") == others - 1


def test_the_page_is_the_same_every_time(text):
    assert page(example_report()) == text


def test_drawing_needs_neither_torch_nor_matplotlib():
    code = "import sys, steelyard.weigh.report.html; print([m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_answer_of_a_megabyte_is_cut_in_the_details_and_that_is_said(tmp_path):
    row = {"sample": "one", "question": "?", "expected": "", "text": "\u2028</script>" + "é" * 1_000_000, "values": {}}
    write_details(tmp_path, {("base", "facts"): [row] * 20})
    text = (tmp_path / "details" / "000-base-facts.js").read_text(encoding="ascii")
    assert "800,010 more characters in records.sqlite" in text and "</script" not in text
    assert sum(part.stat().st_size for part in (tmp_path / "details").iterdir()) < 20 * 6 * LONGEST + 10_000
