"""A report read back, and written as Markdown, CSV and in lm-eval's layout."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import statistics

import pytest
from example_report import ARMS, example_details, example_report
from hostile_text import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import SteelyardError
from steelyard.weigh.report.csv import COLUMNS, to_csv
from steelyard.weigh.report.json import to_json, write_report_json
from steelyard.weigh.report.lm_eval import as_text, name_for_file, sample_lines, to_lm_eval
from steelyard.weigh.report.markdown import said, table, to_markdown
from steelyard.weigh.report.read import read_report
from steelyard.weigh.report.report import ArmSummary


def test_a_report_read_back_is_the_report_that_was_written(tmp_path):
    report = example_report()
    write_report_json(report, tmp_path / "report.json")
    assert to_json(read_report(tmp_path)) == to_json(report) == to_json(read_report(tmp_path / "report.json"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not a report"), ("[]", "report is no object"), ("{}", "report.arms is missing"), ("{\"arms\": 3}", "report.arms is 3"),
        ("[" * 100_000, "not a report"), ("\ud83d".encode("utf-16", "surrogatepass").decode("latin-1"), "not a report"),
        ("{\"arms\": {}, \"cells\": [{}]}", "report.cells.0.arm is missing"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused_with_the_place(tmp_path, text, told):
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(SteelyardError) as refused:
        read_report(tmp_path)
    assert told in str(refused.value) and str(tmp_path) in str(refused.value)


def test_a_verdict_of_a_later_version_is_not_taken_for_one_we_know(tmp_path):
    document = json.loads(to_json(example_report()))
    document["cells"][3]["verdict"], document["something_new"] = "splendid", 1
    (tmp_path / "report.json").write_text(json.dumps(document))
    with pytest.raises(SteelyardError, match=r'report.cells.3.verdict is "splendid", which this version does not know'):
        read_report(tmp_path)
    with pytest.raises(SteelyardError, match="no report here"):
        read_report(tmp_path / "nowhere")


def test_markdown_tells_every_cell_with_unit_interval_n_and_verdict():
    report = example_report()
    text = to_markdown(report)
    rows = text[text.index("## All cells") : text.index("## What this cannot")].strip().split("\n")[4:]
    assert len(rows) == len(report.cells)
    first = next(row for row in rows if "| int8 | quality | bits\\_per\\_byte |" in row)
    assert "bits/byte" in first and "[" in first and "| 64 | equivalent |" in first
    assert "◆" in text and "A/A: the base against itself" in text and "Most cells describe" in text


texts = st.one_of(
    st.text(max_size=40), st.sampled_from(HOSTILE), st.sampled_from(["[a](http://evil.example)", "![x](data:,)", "|", "1. x"])
)


@given(st.lists(st.lists(texts, min_size=3, max_size=3), max_size=5))
def test_whatever_stands_in_a_markdown_table_stays_in_its_cell(rows):
    lines = table(["a", "b", "c"], rows)
    assert len(lines) == len(rows) + 2
    for line in lines:
        assert "\n" not in line and len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 4
        assert not re.search(r"(?<!\\)<\w|(?<!\\)\]\(|https?:", line)


def test_markdown_keeps_numbers_readable():
    assert said("−1.3 pp [−7.7, +5.0]") == "−1.3 pp [−7.7, +5.0]"
    assert said("1. one") == "1\\. one" and said("# title") == "\\# title" and said("- x")[0] != "-"


def test_csv_has_one_row_for_each_cell_and_reads_back_to_the_same_numbers():
    report = example_report()
    rows = list(csv.DictReader(io.StringIO(to_csv(report), newline="")))
    assert len(rows) == len(report.cells) and tuple(rows[0]) == COLUMNS
    for row, cell in zip(rows, report.cells, strict=True):
        assert (row["arm"], row["metric"], row["verdict"], int(row["n"])) == (cell.arm, cell.metric, cell.verdict, cell.n)
        assert float(row["value"] or "nan") == pytest.approx(math.nan if cell.value is None else cell.value, rel=1e-5, nan_ok=True)
        assert (row["low"] == "") == (cell.low is None)


@pytest.mark.parametrize("word", ['=HYPERLINK("http://evil.example")', "+1", "-1", "@SUM(1)", "\t=1", "\r\n=1", *HOSTILE])
def test_no_text_of_a_csv_is_a_formula_or_breaks_its_row(word):
    report = example_report(arms=("base", "int8"), flips=0)
    report = dataclasses.replace(report, cells=[dataclasses.replace(cell, arm=word, note=word) for cell in report.cells])
    rows = list(csv.DictReader(io.StringIO(to_csv(report), newline="")))
    assert len(rows) == len(report.cells)
    assert not any(row[name].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for name in ("arm", "note"))
    to_csv(report).encode("utf-8")


def layout(arm="library"):
    rows = {task: rows for (name, task), rows in example_details().items() if name == arm}
    report = example_report()
    shares = {task: statistics.fmean(row["values"]["right"] for row in rows) for task, rows in rows.items()}
    cells = [
        dataclasses.replace(cell, value=shares["facts"], n=60) if (cell.arm, cell.task, cell.metric) == (arm, "facts", "right") else cell
        for cell in report.cells
    ]
    return to_lm_eval(dataclasses.replace(report, cells=cells), arm, rows), rows


def test_lm_evals_layout_has_its_keys_and_its_standard_error():
    found, rows = layout()
    tasks = {"facts", "json_forms", "bits_per_byte"}
    for key in ("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert set(found[key]) == tasks, key
    facts, right = found["results"]["facts"], [row["values"]["right"] for row in rows["facts"]]
    assert facts["right,none"] == statistics.fmean(right)
    assert facts["right_stderr,none"] == pytest.approx(statistics.stdev(right) / math.sqrt(len(right)), rel=1e-5)
    assert facts["brier_stderr,none"] == "N/A"
    assert found["n-samples"]["facts"] == {"original": 60, "effective": 240} and found["configs"]["facts"]["task"] == "facts"
    assert found["higher_is_better"]["facts"]["hallucinated"] is False
    assert not any("tokens_per_second" in name for result in found["results"].values() for name in result)
    assert json.loads(as_text(found))["config"]["random_seed"] == 7


def test_lm_evals_own_table_reads_the_layout():
    utils = pytest.importorskip("lm_eval.utils", reason="lm-eval is not installed")
    found, _ = layout()
    text = utils.make_table(json.loads(as_text(found)))
    assert len(re.findall(r"\|\s*(facts|json_forms|bits_per_byte)\s*\|", text)) == 3 and "right" in text and "↑" in text


def test_samples_in_lm_evals_layout_are_one_object_a_line_with_their_metrics():
    _, rows = layout()
    lines = sample_lines(rows["facts"]).splitlines()
    assert len(lines) == 60
    first = json.loads(lines[0])
    assert first["metrics"] == ["right"] and first["right"] in (0.0, 1.0) and first["filter"] == "none"
    assert first["target"] == rows["facts"][0]["expected"] and first["resps"] == [[rows["facts"][0]["text"]]]
    assert len({json.loads(line)["doc_hash"] for line in lines}) == 60


def test_hostile_names_and_missing_numbers_do_not_break_the_layout():
    report = example_report(flips=0)
    arms = {"base": report.arms["base"], **{word: ArmSummary("f", [], {}) for word in HOSTILE}}
    cells = [
        dataclasses.replace(cell, arm=word, task=word, value=math.nan if place % 2 else 0.5)
        for place, (cell, word) in enumerate(zip(report.cells * 2, HOSTILE, strict=False))
    ]
    report = dataclasses.replace(report, arms=arms, cells=cells)
    for word in HOSTILE:
        found = json.loads(as_text(to_lm_eval(report, word)))
        assert all(math.isfinite(value) for result in found["results"].values() for value in result.values() if isinstance(value, float))
        assert re.fullmatch(r"[\w-][\w.-]*", name_for_file(word), re.ASCII)
    with pytest.raises(SteelyardError, match="no arm `nobody`"):
        to_lm_eval(report, "nobody")


def test_every_arm_of_the_example_is_exported():
    assert [to_lm_eval(example_report(flips=0), arm)["steelyard_arm"] for arm in ARMS] == list(ARMS)
