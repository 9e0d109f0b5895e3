"""Machines that share a weighing: each asks its part, the stores merge in any order, and the report is that of one machine."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest

from steelyard.cli.main import app
from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.weigh.asking.shard import collect, parsed
from steelyard.weigh.kept.merge import merge
from steelyard.weigh.records import Records
from steelyard.weigh.report.json import quality_part
from steelyard.weigh.runner import rescore, weigh
from tests.weigh.simple_arms import Bench, recipe

ARMS = {"better": "skill-90", "shaky": "fails-10"}


def given(**changes):
    return recipe(arms=ARMS, problems=21, **changes)


def quiet(one, directory):
    return weigh(one, directory, say=lambda line: None, progress=lambda *told: None, opener=Bench())


def part(directory, number, count, one=None):
    return collect(one or given(), directory, (number, count), say=lambda line: None, opener=Bench())


def stored(directory):
    """Everything that merging may leave in a directory, but for how long answers took."""
    with Records(directory / "records.sqlite") as records:
        rows = list(records)
    return rows, (directory / "arms.json").read_text(), (directory / "recipe.resolved.yaml").read_text()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for number in (1, 2, 3):
        part(folder / str(number), number, 3)
    return [folder / str(number) for number in (1, 2, 3)]


def test_parts_of_three_machines_make_the_report_of_one(parts, tmp_path):
    whole = quiet(given(), tmp_path / "whole")
    merge(parts, tmp_path / "all")
    with Records(tmp_path / "whole" / "records.sqlite") as one, Records(tmp_path / "all" / "records.sqlite") as other:
        assert [address for address, _ in one] == [address for address, _ in other]
        assert [output.text for _, output in one] == [output.text for _, output in other]
    assert quality_part(rescore(tmp_path / "all", say=lambda line: None)) == quality_part(whole)
    bench = Bench()
    weigh(given(), tmp_path / "all", say=lambda line: None, progress=lambda *told: None, opener=bench)
    assert {name for name, answerer in bench.opened if answerer.asked} <= {"shaky"}, "what is there is not asked again"


def test_what_is_scored_of_an_unfinished_weighing_is_everything_that_all_arms_answered(parts, tmp_path):
    merge([parts[0], parts[2]], tmp_path)  # every third sample is still to come
    report = rescore(tmp_path, say=lambda line: None)
    cells = [cell for cell in report.cells if cell.metric == "right"]
    assert {cell.arm for cell in cells} == {"better", "shaky"} and all(cell.n + _failed(cell) == 14 for cell in cells)
    (note,) = [note for note in report.notes if note.startswith("Only what was recorded")]
    assert "base: arithmetic 14 of 21" in note


def _failed(cell):
    return int(cell.note.split(" of 14 samples failed")[0].split()[-1]) if "samples failed" in cell.note else 0


def test_the_order_of_merging_does_not_matter_nor_how_often_nor_in_how_many_steps(parts, tmp_path):
    merge(parts, tmp_path / "once")
    wanted = stored(tmp_path / "once")
    for place, order in enumerate(itertools.permutations(parts)):
        merge(order, tmp_path / str(place))
        assert stored(tmp_path / str(place)) == wanted
    for run in (*parts, parts[0], tmp_path / "once"):
        merge([run], tmp_path / "steps")
    assert stored(tmp_path / "steps") == wanted
    assert merge(parts, tmp_path / "steps") == {"taken": 0, "records": len(wanted[0])}


def test_the_runs_that_were_merged_stay_as_they_were(parts, tmp_path):
    before = [stored(run) for run in parts]
    merge(parts, tmp_path)
    assert [stored(run) for run in parts] == before


@pytest.mark.parametrize("change", [{"seed": 8}, {"tasks": [{"arithmetic": {"problems": 22}}]}, {"base": "skill-60"}, {"samples": 20}])
def test_another_recipe_is_refused_whichever_comes_first(parts, tmp_path, change):
    one = recipe(arms=ARMS, **{"problems": 21} | change)
    part(tmp_path / "other", 1, 3, one)
    for order in ([parts[0], tmp_path / "other"], [tmp_path / "other", parts[0]]):
        with pytest.raises(SteelyardError, match="another than that of"):
            merge(order, tmp_path / "out")
    assert not (tmp_path / "out" / "records.sqlite").exists()


def test_an_arm_that_was_something_else_elsewhere_is_refused(parts, tmp_path):
    shutil.copytree(parts[0], tmp_path / "other")
    told = json.loads((tmp_path / "other" / "arms.json").read_text())
    told["better"][""]["fingerprint"] = "another"
    (tmp_path / "other" / "arms.json").write_text(json.dumps(told))
    with pytest.raises(SteelyardError, match="the arm `better` is not the same"):
        merge([parts[1], tmp_path / "other"], tmp_path / "out")


def test_what_is_no_run_cannot_be_merged(parts, tmp_path):
    (tmp_path / "empty").mkdir()
    for runs, said in (([], "nothing to merge"), ([tmp_path / "empty"], "no run here"), ([parts[0], tmp_path / "nowhere"], "no run here")):
        with pytest.raises(SteelyardError, match=said):
            merge(runs, tmp_path / "out")
    shutil.copytree(parts[0], tmp_path / "damaged")
    (tmp_path / "damaged" / "records.sqlite").write_bytes(b"not a database, but long enough to be taken for one " * 40)
    with pytest.raises(SteelyardError, match="damaged"):
        merge([parts[1], tmp_path / "damaged"], tmp_path / "out")
    assert not (tmp_path / "out" / "records.sqlite").exists(), "damage is found before anything is written"


def test_a_store_without_records_is_not_scored_and_the_report_stays(parts, tmp_path):
    """A file of no bytes is an empty database to SQLite."""
    shutil.copytree(parts[0], tmp_path / "all")
    rescore(tmp_path / "all", say=lambda line: None)
    before = (tmp_path / "all" / "report.json").read_bytes()
    (tmp_path / "all" / "records.sqlite").write_bytes(b"")
    with pytest.raises(SteelyardError, match="there are no records to score"):
        rescore(tmp_path / "all", say=lambda line: None)
    assert (tmp_path / "all" / "report.json").read_bytes() == before


def test_what_was_never_recorded_is_told_as_that(parts, tmp_path):
    shutil.copytree(parts[0], tmp_path / "all")
    with Records(tmp_path / "all" / "records.sqlite") as records:
        gone = json.loads((tmp_path / "all" / "arms.json").read_text())["better"][""]["fingerprint"]
        records._database.execute("DELETE FROM records WHERE arm = ?", (gone,))
    report = rescore(tmp_path / "all", say=lambda line: None)
    notes = {cell.note for cell in report.cells if cell.arm == "better" and cell.axis == "quality"}
    assert notes == {"no answer is recorded"}


def test_parts_are_counted_from_one():
    assert [parsed("1/1"), parsed(" 2 / 4 ")] == [(1, 1), (2, 4)]
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""):
        with pytest.raises(RecipeError, match="--shard 1/4"):
            parsed(wrong)


def test_merge_and_rescore_from_the_command_line(parts, tmp_path, capsys):
    from typer.testing import CliRunner

    found = CliRunner().invoke(app, ["merge", *map(str, parts), "-o", str(tmp_path / "all"), "--json"])
    assert found.exit_code == 0 and json.loads(found.stdout.splitlines()[-1])["records"] > 60
    found = CliRunner().invoke(app, ["rescore", str(tmp_path / "all"), "--json"])
    assert found.exit_code == 0 and json.loads(found.stdout.splitlines()[-1])["cells"]
    found = CliRunner().invoke(app, ["merge", str(tmp_path / "nowhere"), "-o", str(tmp_path / "x")])
    assert found.exit_code == 2
