"""Salvage: of a damaged store every record that lies whole in the file is read, none is read wrongly, and nothing is thrown away."""

import random
import shutil
import sqlite3

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import Token
from steelyard.weigh.kept.merge import merge
from steelyard.weigh.records import Key, Records
from steelyard.weigh.report.json import quality_part
from steelyard.weigh.runner import rescore, weigh
from steelyard.weigh.tasks.task import Output
from tests.weigh.simple_arms import Bench, recipe

PAGE = 4096


def kept(count=300):
    """Keys and outputs, from a few bytes to several pages long."""
    draw = random.Random(7)
    sizes = [draw.choice((1, 40, 300, 900, 3000, 20_000)) for _ in range(count)]
    return {
        Key("arm", "task", f"s{i}", "content", 7, i % 3): Output(text=draw.randbytes(size).hex(), tokens=(Token(i, "x", -0.5, 1.0, -0.5),))
        for i, size in enumerate(sizes)
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path, wanted = tmp_path_factory.mktemp("whole") / "records.sqlite", kept()
    with Records(path) as records:
        for key, output in wanted.items():
            records.put(key, output)
    return path, wanted


def zeros(content, page):
    return content[: page * PAGE] + bytes(PAGE) + content[(page + 1) * PAGE :]


def noise(content, page):
    return content[: page * PAGE] + random.Random(page).randbytes(PAGE) + content[(page + 1) * PAGE :]


DAMAGES = {
    "cut in half": (lambda content: content[: len(content) // 2], 0.3),
    "its last record cut": (lambda content: content[: -PAGE - 100], 0.98),
    "its header gone": (lambda content: zeros(content, 0), 0.98),
    "its tree's root gone": (lambda content: zeros(content, 1), 0.98),
    "a page of noise": (lambda content: noise(content, len(content) // PAGE // 2), 0.95),
    "its beginning noise": (lambda content: noise(content, 0), 0.98),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reading", [True, False], ids=["read", "opened"])
def test_what_lies_whole_in_a_damaged_file_is_read_and_the_file_is_kept(whole, tmp_path, damage, reading):
    (path, wanted), said = whole, []
    spoil, share = DAMAGES[damage]
    damaged = spoil(path.read_bytes())
    store = tmp_path / "records.sqlite"
    store.write_bytes(damaged)
    with Records(store, reading=reading, say=said.append) as records:
        found = {key: output for key in wanted if (output := records.get(key)) is not None}
        assert len(records) == len(found) >= share * len(wanted)
        assert all(output == wanted[key] for key, output in found.items())
    assert len(said) == 1 and f"{len(found)} records could be read" in said[0]
    if reading:
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"records.sqlite": damaged}
        return
    assert (tmp_path / "records.damaged.sqlite").read_bytes() == damaged and "records.damaged.sqlite" in said[0]
    with Records(store, say=said.append) as records:
        for key in wanted.keys() - found.keys():
            records.put(key, wanted[key])
        assert len(records) == len(wanted)
    assert len(said) == 1, "what was saved is a sound store"


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_makes_another_answer_of_one(whole, tmp_path, seed):
    path, wanted = whole
    draw, content = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 5, 200))):
        start, length = draw.randrange(len(content)), draw.choice((1, 8, 500, 5000))
        content[start : start + length] = draw.randbytes(min(length, len(content) - start))
    (tmp_path / "records.sqlite").write_bytes(content)
    try:
        with Records(tmp_path / "records.sqlite") as records:
            found = [(records.get(key), output) for key, output in wanted.items()]
    except SteelyardError as error:  # the header says that it is another program's, or of a later version
        assert "something else" in str(error) or "newer" in str(error)
        return
    assert all(read is None or read == output for read, output in found)
    assert sum(read is not None for read, _ in found) >= 0.3 * len(wanted)


def test_the_log_beside_a_damaged_file_is_read_too(tmp_path):
    wanted = list(kept(60).items())
    with Records(tmp_path / "one.sqlite") as records:
        for key, output in wanted[:30]:
            records.put(key, output)
        records._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for key, output in wanted[30:]:
            records.put(key, output)
        for ending in ("", "-wal"):  # as a machine that lost its power leaves them
            shutil.copyfile(tmp_path / f"one.sqlite{ending}", tmp_path / f"two.sqlite{ending}")
    (tmp_path / "two.sqlite").write_bytes((tmp_path / "two.sqlite").read_bytes()[:PAGE])
    with Records(tmp_path / "two.sqlite") as records:
        assert all(records.get(key) == output for key, output in wanted[30:])


def test_of_a_record_that_was_replaced_the_answer_is_saved_and_not_the_failure(tmp_path):
    (key,) = kept(1)
    with Records(tmp_path / "r.sqlite") as records:
        records.put(key, Output(failure="the server was away"))
        records.put(key, Output(text="here"))
    (tmp_path / "r.sqlite").write_bytes(zeros((tmp_path / "r.sqlite").read_bytes(), 0))
    with Records(tmp_path / "r.sqlite") as records:
        assert records.get(key) == Output(text="here") and len(records) == 1


def test_a_damaged_database_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "r.sqlite") as database:
        database.execute("CREATE TABLE photos(name TEXT PRIMARY KEY, b, c, d, e, f, g, h) WITHOUT ROWID")
        database.executemany("INSERT INTO photos VALUES (?, 'b', 'c', 'd', 1, 2, 0, x'00')", [(f"photo {i}",) for i in range(500)])
    database.close()
    damaged = (tmp_path / "r.sqlite").read_bytes()[:-PAGE]
    (tmp_path / "r.sqlite").write_bytes(damaged)
    for reading in (True, False):
        with pytest.raises(SteelyardError, match="no record in it can be read"):
            Records(tmp_path / "r.sqlite", reading=reading)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"r.sqlite": damaged}


def quiet(directory, said, bench):
    one = recipe(arms={"better": "skill-90"}, problems=60)
    return weigh(one, directory, say=said.append, progress=lambda *told: None, opener=bench)


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weighed") / "run"
    return directory, quiet(directory, [], Bench())


def test_a_weighing_over_a_damaged_store_asks_only_what_was_lost_and_reports_the_same(weighed, tmp_path):
    (directory, before), said, bench = weighed, [], Bench()
    shutil.copytree(directory, tmp_path / "run")
    store = tmp_path / "run" / "records.sqlite"
    with Records(store) as records:
        count = len(records)
    store.write_bytes(noise(store.read_bytes(), 5))
    assert quality_part(quiet(tmp_path / "run", said, bench)) == quality_part(before)
    assert 0 < sum(len(answerer.asked) for _, answerer in bench.opened) < count / 2
    assert any("could be read, the others count as missing" in line for line in said)
    assert "could be read, the others count as missing" in (tmp_path / "run" / "log.txt").read_text()


def test_merging_and_scoring_take_what_can_be_read_of_a_damaged_run(weighed, tmp_path):
    (directory, before), said = weighed, []
    shutil.copytree(directory, tmp_path / "run")
    store = tmp_path / "run" / "records.sqlite"
    damaged = zeros(store.read_bytes(), 1)
    store.write_bytes(damaged)
    found = merge([tmp_path / "run"], tmp_path / "all", say=said.append)
    assert found["records"] > 0 and any("could be read" in line for line in said)
    assert store.read_bytes() == damaged
    report = rescore(tmp_path / "all", say=said.append)
    (cell,) = [cell for cell in report.cells if cell.metric == "right" and cell.arm == "better" and cell.task == "arithmetic"]
    assert 0 < cell.n <= next(cell.n for cell in before.cells if cell.metric == "right" and cell.arm == "better")
