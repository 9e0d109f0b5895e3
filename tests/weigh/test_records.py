"""Records: kept through kills, found again, merged, and damage told with a remedy."""

import multiprocessing
import os
import signal
import sqlite3
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, Citation, Message, Score, Token, Usage
from steelyard.weigh.records import BATCH, Key, Records, _pack, _unpack, key_of
from steelyard.weigh.tasks.task import Ask, Output, Sample

FULL = Output(
    text="Paris\n\u2028 é 🗼",
    tokens=(Token(7, "Pa", -0.25, 1.5, -0.2, ((7, -0.25), (9, -3.0))), Token(8, "ris", float("-inf"), 0.0, 0.0)),
    scores=(Score(-12.5, True, 3, 11),),
    citations=(Citation("a.txt", "France", "Paris is ...", 2.5),),
    usage=Usage(10, 2, 1, 1),
    reason="stop",
    seconds=0.25,
)


def keys(count):
    return [Key("arm", "task", f"s{i}", "content", 7) for i in range(count)]


def test_an_output_comes_back_as_it_went_in(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        records.put(keys(1)[0], FULL)
        assert records.get(keys(1)[0]) == FULL
    with Records(tmp_path / "r.sqlite") as records:
        assert records.get(keys(1)[0]) == FULL and len(records) == 1


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(),
    numbers=st.lists(st.floats(allow_nan=False), min_size=3, max_size=3),
    alternatives=st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_nan=False)), max_size=3),
)
def test_any_text_and_any_number_survive_packing(tmp_path_factory, text, numbers, alternatives):
    output = Output(text=text + "\ud800", tokens=(Token(1, text, *numbers, tuple(alternatives)),), failure=text or None)
    assert _unpack(_pack(output), tmp_path_factory.getbasetemp()) == output


def test_another_arm_request_seed_or_trial_is_another_record():
    def sample(question, **options):
        return Sample("same id", Ask((Message("user", question),), AnswerSettings(**options)))

    base = key_of("arm", "facts", sample("Q?"), 7)
    others = [
        key_of("other", "facts", sample("Q?"), 7),
        key_of("arm", "chat", sample("Q?"), 7),
        key_of("arm", "facts", sample("Q!"), 7),
        key_of("arm", "facts", sample("Q?", max_tokens=9), 7),
        key_of("arm", "facts", sample("Q?"), 8),
        key_of("arm", "facts", sample("Q?"), 7, trial=1),
    ]
    assert len({base.text, *(key.text for key in others)}) == 7
    assert key_of("arm", "facts", Sample("same id", sample("Q?").request, reference="judged otherwise"), 7).text == base.text


def test_a_failure_is_replaced_by_the_answer_of_a_later_attempt(tmp_path):
    (key,) = keys(1)
    with Records(tmp_path / "r.sqlite") as records:
        records.put(key, Output(failure="timeout"))
        records.flush()
        records.put(key, FULL)
        assert records.get(key) == FULL
    with Records(tmp_path / "r.sqlite") as records:
        assert records.get(key) == FULL and len(records) == 1


def _write_until_killed(path, started):
    records = Records(path)
    for number, key in enumerate(keys(100_000)):
        records.put(key, Output(text=f"answer {number}" * 50))
        if number == 500:
            started.set()


def test_a_killed_process_loses_a_batch_at_most_and_leaves_a_whole_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    writer = context.Process(target=_write_until_killed, args=(tmp_path / "r.sqlite", started))
    writer.start()
    assert started.wait(60)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    with Records(tmp_path / "r.sqlite") as records:
        count = len(records)
        assert count >= 500 - BATCH
        assert all(records.get(key) == Output(text=f"answer {i}" * 50) for i, key in enumerate(keys(count)))


def test_a_slow_arm_is_written_without_waiting_for_a_full_batch(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    records = Records(tmp_path / "r.sqlite")
    records.put(keys(1)[0], FULL)
    with sqlite3.connect(tmp_path / "r.sqlite") as beside:
        assert beside.execute("SELECT count(*) FROM records").fetchone() == (1,)
    records.close()


def test_stores_merge_and_answers_win_over_failures(tmp_path):
    one, two, three = keys(3)
    with Records(tmp_path / "a.sqlite") as a, Records(tmp_path / "b.sqlite") as b:
        a.put(one, Output(text="mine"))
        a.put(two, Output(failure="broken"))
        b.put(one, Output(text="theirs"))
        b.put(two, Output(text="whole"))
        b.put(three, Output(failure="broken there"))
        b.flush()
        assert a.merge(b.path) == 2
        assert [a.get(key).text for key in (one, two)] == ["mine", "whole"]
        assert a.get(three).failure == "broken there" and len(a) == 3
        assert a.merge(b.path) == 0
    with Records(tmp_path / "a.sqlite") as a, pytest.raises(SteelyardError, match="no records"):
        a.merge(tmp_path / "missing.sqlite")


@pytest.mark.parametrize("damage", [b"", b"not a database at all, but long enough to be taken for one" * 40])
def test_a_file_that_is_no_store_is_refused_with_a_remedy(tmp_path, damage):
    path = tmp_path / "r.sqlite"
    path.write_bytes(damage)
    if not damage:  # an empty file is an empty database
        with Records(path) as records:
            assert len(records) == 0
        return
    with pytest.raises(SteelyardError, match="damaged") as caught:
        Records(path)
    assert "delete it" in caught.value.do and str(path) in caught.value.where


def test_a_cut_file_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "r.sqlite"
    with Records(path) as records:
        for key in keys(300):
            records.put(key, Output(text=os.urandom(200).hex()))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SteelyardError, match="damaged"):
        Records(path)


@pytest.mark.parametrize(
    "blob", [b"", b"junk", zlib.compress(b"{"), zlib.compress(b"[1]"), zlib.compress(b'{"tokens": 3}'), _pack(FULL)[:-3]]
)
def test_a_damaged_record_is_told_and_not_taken_for_an_answer(tmp_path, blob):
    (key,) = keys(1)
    with Records(tmp_path / "r.sqlite") as records:
        records.put(key, FULL)
    with sqlite3.connect(tmp_path / "r.sqlite") as beside:
        beside.execute("UPDATE records SET output = ?", (blob,))
    with Records(tmp_path / "r.sqlite") as records, pytest.raises(SteelyardError, match="damaged"):
        records.get(key)


def test_somebody_elses_database_and_a_newer_form_are_left_alone(tmp_path):
    theirs = tmp_path / "theirs.sqlite"
    with sqlite3.connect(theirs) as database:
        database.execute("CREATE TABLE photos(name)")
    with pytest.raises(SteelyardError, match="something else"):
        Records(theirs)
    newer = tmp_path / "newer.sqlite"
    Records(newer).close()
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(SteelyardError, match="newer"):
        Records(newer)


def _write_within(path, limit, told):
    resource = pytest.importorskip("resource")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with Records(path) as records:
            for key in keys(400):
                records.put(key, Output(text=os.urandom(500).hex()))
    except SteelyardError as error:
        told.put(str(error))


@pytest.mark.skipif(os.name == "nt", reason="no limits on a file's size there")
def test_a_file_that_may_not_grow_is_not_called_damaged(tmp_path):
    told = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=_write_within, args=(tmp_path / "r.sqlite", 100_000, told))
    process.start()
    message = told.get(timeout=60)
    process.join()
    assert "ulimit -f" in message and "what was recorded stays" in message and "delete" not in message
    with Records(tmp_path / "r.sqlite") as records:
        assert len(records) > 0


def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path):
    path = tmp_path / "r.sqlite"
    records = Records(path)
    records.put(keys(1)[0], FULL)
    records.flush()
    records._database.execute(f"PRAGMA max_page_count = {records._database.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(SteelyardError, match="disk is full"):
        for key in keys(400)[1:]:
            records.put(key, Output(text=os.urandom(500).hex()))
    records._waiting = []
    records.close()
    with Records(path) as again:
        assert again.get(keys(1)[0]) == FULL


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SteelyardError, match="may write|cannot be opened"):
        Records(tmp_path / "file" / "r.sqlite")


def test_two_writers_share_a_store(tmp_path):
    with Records(tmp_path / "r.sqlite") as a, Records(tmp_path / "r.sqlite") as b:
        a.put(keys(1)[0], FULL)
        a.flush()
        b.put(keys(2)[1], FULL)
        b.flush()
        assert len(a) == len(b) == 2


def test_parquet_needs_pyarrow_and_says_so(tmp_path):
    with Records(tmp_path / "r.sqlite") as records:
        records.put(keys(1)[0], FULL)
        try:
            import pyarrow.parquet
        except ImportError:
            with pytest.raises(UnsupportedError, match="pyarrow"):
                records.export_parquet(tmp_path / "r.parquet")
            return
        assert records.export_parquet(tmp_path / "r.parquet") == 1
        assert pyarrow.parquet.read_table(tmp_path / "r.parquet").to_pylist()[0]["text"] == FULL.text
