"""`steelyard report`: one run in every form, two runs side by side."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from types import SimpleNamespace

import pytest
from example_report import ARMS, example_details, example_report
from typer.testing import CliRunner, Result

from steelyard.cli.main import app
from steelyard.cli.report import _show
from steelyard.weigh.kept.between import Between
from steelyard.weigh.report.html import write_html
from steelyard.weigh.report.json import write_report_json


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of which the report is left, not the records."""
    directory = tmp_path_factory.mktemp("run")
    write_report_json(example_report(flips=5), directory / "report.json")
    write_html(example_report(flips=5), directory / "report.html", example_details())
    return directory


def test_a_run_is_shown_again_with_the_place_of_its_page(place):
    result = run(place)
    assert result.exit_code == 0 and "lookup" in result.stdout and "report.html" in result.stdout.replace("\n", "")


def test_each_form_goes_to_standard_output_or_to_a_file(place, tmp_path):
    assert run(place, "--markdown").stdout.startswith("# int8, lookup, library and broken")
    assert len(list(csv.DictReader(io.StringIO(run(place, "--csv").stdout)))) == len(example_report().cells)
    assert list(json.loads(run(place, "--json").stdout)["arms"]) == list(ARMS)
    result = run(place, "--markdown", "-o", tmp_path / "deep" / "report.md")
    assert result.exit_code == 0 and result.stdout == ""
    assert (tmp_path / "deep" / "report.md").read_text(encoding="utf-8").startswith("# int8")
    assert run(place, "--html", "-o", tmp_path / "page.html").exit_code == 0
    assert "<!doctype html>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_arms_and_tasks_can_be_chosen_and_unknown_ones_are_named(place):
    rows = list(csv.DictReader(io.StringIO(run(place, "--csv", "--arm", "int8", "--task", "json_forms").stdout)))
    assert {row["arm"] for row in rows} == {"int8"} and {row["task"] for row in rows} == {"json_forms", ""}
    result = run(place, "--arm", "int9")
    assert result.exit_code == 2 and "nothing called `int9`" in result.stderr and "lookup" in result.stderr


def test_lm_evals_layout_of_a_run_without_records_says_what_is_missing(place, tmp_path):
    result = run(place, "--lm-eval", "--arm", "library")
    assert json.loads(result.stdout)["results"]["facts"]["right_stderr,none"] == "N/A"
    assert "standard errors are N/A" in result.stderr
    assert run(place, "--lm-eval", "-o", tmp_path / "all").exit_code == 0
    assert sorted(folder.name for folder in (tmp_path / "all").iterdir()) == sorted(ARMS)
    assert run(place, "--lm-eval", "--arm", "int8", "--arm", "library").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--markdown", "--csv"), "both say the form"), (("--html",), "a page needs a file"), (("--csv", "-o", "."), "this is a directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_in_words(place, arguments, told):
    result = run(place, *arguments)
    assert result.exit_code == 2 and told in result.stderr


def test_what_is_no_run_is_refused_in_words(place, tmp_path):
    assert "there is no report here" in run(tmp_path).stderr
    assert run(place, place).exit_code == 2 and "recipe.resolved.yaml" in run(place, place).stderr
    assert "3 runs are named" in run(place, place, place).stderr


def test_between_two_runs_a_remark_stands_once_with_the_measures_it_is_about(capsys):
    """Costs were not measured in turn: said of every arm and every measure, it is one sentence."""
    cells = [dataclasses.replace(cell, note="not measured in turn" if cell.task == "" else cell.note) for cell in example_report().cells]
    first, second = ("here", example_report()), ("there", example_report())
    sides = [SimpleNamespace(directory=name, report=report) for name, report in (first, second)]
    _show(Between(*sides, tuple((arm, arm) for arm in ARMS), cells, [], [], []))
    lines = " ".join(capsys.readouterr().out.split())
    assert sum(cell.note == "not measured in turn" for cell in cells) > 10
    assert lines.count("not measured in turn") == 1 and "tokens per second" in lines
