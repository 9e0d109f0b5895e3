"""Records: kept through kills, found again, merged, and damage told with a remedy."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import sqlite3
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, Citation, Message, Score, Token, ToolCall, Usage
from steelyard.weigh.records import Key, NoRecordsError, Records, _pack, _unpack, key_of
from steelyard.weigh.tasks.task import Ask, Choose, Continue, Output, Read, Sample

FULL = Output(
    text="Paris\n\u2028 é 🗼",
    tokens=(Token(7, "Pa", -0.25, 1.5, -0.2, ((7, -0.25), (9, -3.0))), Token(8, "ris", float("-inf"), 0.0, 0.0)),
    scores=(Score(-12.5, True, 3, 11),),
    citations=(Citation("a.txt", "France", "Paris is ...", 2.5),),
    usage=Usage(10, 2, 1, 1),
    reason="stop",
    seconds=0.25,
    calls=(ToolCall("", "f", '{"a": 1}'),),
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
def test_any_text_and_any_number_survive_packing(text, numbers, alternatives):
    output = Output(text=text + "\ud800", tokens=(Token(1, text, *numbers, tuple(alternatives)),), failure=text or None)
    assert _unpack(_pack(output)) == output


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
        records.put(key, FULL)
        assert records.get(key) == FULL
    with Records(tmp_path / "r.sqlite") as records:
        assert records.get(key) == FULL and len(records) == 1


def _write_until_killed(path, kept):
    records = Records(path)
    for number, key in enumerate(keys(100_000)):
        records.put(key, Output(text=f"answer {number}" * 50))
        kept.value = number + 1


def test_a_killed_process_loses_nothing_that_was_kept_and_leaves_a_whole_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    kept = context.Value("i", 0)
    writer = context.Process(target=_write_until_killed, args=(tmp_path / "r.sqlite", kept))
    writer.start()
    deadline = time.monotonic() + 240
    while kept.value < 500 and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert kept.value >= 500
    with Records(tmp_path / "r.sqlite") as records:
        count = len(records)
        assert count >= kept.value
        assert all(records.get(key) == Output(text=f"answer {i}" * 50) for i, key in enumerate(keys(count)))


def test_stores_merge_and_answers_win_over_failures(tmp_path):
    one, two, three = keys(3)
    with Records(tmp_path / "a.sqlite") as a, Records(tmp_path / "b.sqlite") as b:
        a.put(one, Output(text="of both"))
        a.put(two, Output(failure="broken"))
        b.put(one, Output(text="of both"))
        b.put(two, Output(text="whole"))
        b.put(three, Output(failure="broken there"))
        assert a.merge(b.path) == 2
        assert [a.get(key).text for key in (one, two)] == ["of both", "whole"]
        assert a.get(three).failure == "broken there" and len(a) == 3
        assert a.merge(b.path) == 0
    with Records(tmp_path / "a.sqlite") as a, pytest.raises(SteelyardError, match="no records"):
        a.merge(tmp_path / "missing.sqlite")


RECORD = st.tuples(st.integers(0, 4), st.sampled_from(["", "Paris", "Rome", "é"]), st.sampled_from([None, "timeout", "broke off"]))


@settings(max_examples=25, deadline=None)
@given(stores=st.lists(st.lists(RECORD, max_size=6), min_size=2, max_size=3), data=st.data())
def test_whichever_order_stores_are_merged_in_and_however_often_the_same_records_come_out(tmp_path_factory, stores, data):
    folder = tmp_path_factory.mktemp("stores")
    for place, rows in enumerate(stores):
        with Records(folder / f"{place}.sqlite") as records:
            for number, text, failure in rows:
                records.put(keys(5)[number], Output(text=text, failure=failure))
    places = list(range(len(stores)))
    merged = []
    for name, order in (("one", places), ("other", data.draw(st.permutations(places)) + data.draw(st.lists(st.sampled_from(places))))):
        with Records(folder / f"{name}.sqlite") as records:
            for place in order:
                records.merge(folder / f"{place}.sqlite")
            merged.append(list(records))
    assert merged[0] == merged[1]
    answered = {number for rows in stores for number, *_ in [*{row[0]: row for row in rows}.values()] if _[1] is None}
    assert {int(address["sample"][1:]) for address, output in merged[0] if output.failure is None} == answered


def _field_changes():
    """Every field of what is asked and of who asks, with a value it does not have in `_asked`."""
    for name, value in {
        "max_tokens": 9, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.2,
        "frequency_penalty": 0.2, "seed": 3, "stop": ("x",), "alternatives": 2, "token_events": True, "constraint": {"regex": "a"},
        "ignore_eos": True, "seconds": 2.0, "tenant": "t", "logit_bias": ((1, 2.0),), "tools": ("{}",),
    }.items():  # fmt: skip
        yield "settings", name, value
    for kind, fields in {
        "message": {"role": "assistant", "content": "R?", "name": "n", "tool_calls": (ToolCall("1", "f", "{}"),)},
        "choose": {"conversation": (Message("user", "R?"),), "continuations": ("a", "c")},
        "continue": {"text": "u", "continuations": ("a", "c"), "texts": ("u", "v"), "cut": True},
        "read": {"text": "u", "before": "b", "rolling": True},
        "key": {"arm": "other", "task": "chat", "seed": 8, "trial": 1},
        "sample": {"id": "another"},
    }.items():
        for name, value in fields.items():
            yield kind, name, value


def _asked(kind, change):
    """A key; `change` says what is other than usual."""

    def of(wanted):
        return change if kind == wanted else {}

    message = Message(**({"role": "user", "content": "Q?"} | of("message")))
    request = {
        "choose": lambda: Choose(**({"conversation": (message,), "continuations": ("a", "b")} | of("choose"))),
        "continue": lambda: Continue(**({"text": "t", "continuations": ("a", "b")} | of("continue"))),
        "read": lambda: Read(**({"text": "t"} | of("read"))),
    }.get(kind, lambda: Ask((message,), AnswerSettings(**of("settings"))))()  # fmt: skip
    who = {"arm": "arm", "task": "facts", "seed": 7, "trial": 0} | of("key")
    return key_of(who["arm"], who["task"], Sample(of("sample").get("id", "same id"), request), who["seed"], who["trial"])


@pytest.mark.parametrize(("kind", "name", "value"), list(_field_changes()))
def test_changing_any_field_of_what_is_asked_changes_the_key(kind, name, value):
    assert _asked(kind, {name: value}).text != _asked(kind, {}).text


def test_no_field_is_left_out_of_that():
    changed = {}
    for kind, name, _ in _field_changes():
        changed.setdefault(kind, set()).add(name)
    kinds = {"settings": AnswerSettings, "message": Message, "choose": Choose, "continue": Continue, "read": Read}
    assert {kind: {field.name for field in dataclasses.fields(of)} for kind, of in kinds.items()} == {kind: changed[kind] for kind in kinds}
    assert changed["key"] | {"sample", "content"} == {field.name for field in dataclasses.fields(Key)}


SETTINGS = st.builds(
    AnswerSettings,
    max_tokens=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.integers(0, 2),
    seed=st.integers(0, 2),
    stop=st.lists(st.sampled_from(["", "a", "b", "a,b"]), max_size=2).map(tuple),
    seconds=st.sampled_from([None, 1.0]),
    tenant=st.sampled_from(["", "a"]),
)
MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["user", "assistant"]), st.sampled_from(["", "a", "b", "ab"])), min_size=1, max_size=2
)
TEXTS = st.sampled_from(["", "a", "b", "ab", '","'])
REQUESTS = st.one_of(
    st.builds(Ask, MESSAGES.map(tuple), SETTINGS),
    st.builds(Choose, MESSAGES.map(tuple), st.lists(TEXTS, max_size=2).map(tuple)),
    st.builds(Continue, TEXTS, st.lists(TEXTS, max_size=2).map(tuple), st.just(()), st.booleans()),
    st.builds(Read, TEXTS, TEXTS, st.booleans()),
)
ASKED = st.tuples(TEXTS, TEXTS, st.builds(Sample, TEXTS, REQUESTS), st.integers(0, 2), st.integers(-1, 1))


@settings(max_examples=300, deadline=None)
@given(one=ASKED, other=ASKED)
def test_two_records_share_a_key_only_if_the_same_was_asked_of_the_same_arm(one, other):
    assert (key_of(*one).text == key_of(*other).text) == (one == other)


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


@pytest.mark.parametrize(
    "blob", [b"", b"junk", zlib.compress(b"{"), zlib.compress(b"[1]"), zlib.compress(b'{"tokens": 3}'), _pack(FULL)[:-3]]
)
def test_a_damaged_record_counts_as_missing_and_is_told(tmp_path, blob):
    (key, other), said = keys(2), []
    with Records(tmp_path / "r.sqlite") as records:
        records.put(key, FULL)
    with sqlite3.connect(tmp_path / "r.sqlite") as beside:
        beside.execute("UPDATE records SET output = ?", (blob,))
        beside.execute("INSERT INTO records SELECT ?, arm, task, 's1', seed, trial, failed, ? FROM records", (other.text, _pack(FULL)))
    with Records(tmp_path / "r.sqlite", say=said.append) as records:
        assert records.get(key) is None and records.get(other) == FULL
        assert [address["key"] for address, _ in records] == [other.text]
    assert len(said) == 1 and "1 damaged record could not be read, and counts as missing" in said[0]
    with Records(tmp_path / "all.sqlite", say=said.append) as merged:
        assert merged.merge(tmp_path / "r.sqlite") == 1 and "1 damaged record" in said[1]
    with Records(tmp_path / "r.sqlite", say=said.append) as records:
        records.put(key, FULL)
        assert records.get(key) == FULL
    assert len(said) == 2


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
    message = told.get(timeout=240)
    process.join()
    assert "ulimit -f" in message and "what was recorded stays" in message and "delete" not in message
    with Records(tmp_path / "r.sqlite") as records:
        assert len(records) > 0


def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path):
    path = tmp_path / "r.sqlite"
    records = Records(path)
    records.put(keys(1)[0], FULL)
    records._database.execute(f"PRAGMA max_page_count = {records._database.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(SteelyardError, match="disk is full"):
        for key in keys(400)[1:]:
            records.put(key, Output(text=os.urandom(500).hex()))
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
        b.put(keys(2)[1], FULL)
        assert len(a) == len(b) == 2


def test_whoever_opens_a_store_first_all_of_them_get_it(tmp_path):
    for number in range(20):
        path, together = tmp_path / f"{number}.sqlite", threading.Barrier(4)

        def opened(reading, path=path, together=together):
            together.wait()
            try:
                with Records(path, reading=reading) as store:
                    return len(store)
            except NoRecordsError:
                return 0 if reading else None

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(opened, [False, True, False, False])) == [0, 0, 0, 0]


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


def _without_a_writer(directory):
    for file in directory.iterdir():
        file.chmod(0o444)
    directory.chmod(0o555)
    if os.access(directory, os.W_OK):
        directory.chmod(0o755)
        pytest.skip("this user may write anywhere")


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "with its log"])
def test_records_where_nothing_can_be_written_are_read_and_left_as_they_are(tmp_path, closed):
    writer = Records(tmp_path / "run" / "r.sqlite")
    for key in keys(3):
        writer.put(key, FULL)
    archive = tmp_path / "archive"
    if closed:
        writer.close()
    shutil.copytree(tmp_path / "run", archive)  # with the log beside it, where the store is still open
    writer.close()
    assert closed == (not (archive / "r.sqlite-wal").exists())
    before = {file.name: file.read_bytes() for file in archive.iterdir()}
    _without_a_writer(archive)
    try:
        with Records(archive / "r.sqlite", reading=True) as records:
            assert len(records) == 3 and records.get(keys(1)[0]) == FULL
        with pytest.raises(SteelyardError, match="cannot be written"):
            Records(archive / "r.sqlite")
        assert {file.name: file.read_bytes() for file in archive.iterdir()} == before
    finally:
        archive.chmod(0o755)


def test_reading_makes_no_store_and_takes_nothing_else_for_one(tmp_path):
    with pytest.raises(SteelyardError, match="there are no records"):
        Records(tmp_path / "none" / "r.sqlite", reading=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(SteelyardError, match="no records in this file"):
        Records(tmp_path / "empty.sqlite", reading=True)
    Records(tmp_path / "r.sqlite").close()
    with Records(tmp_path / "r.sqlite", reading=True) as records:
        assert len(records) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty.sqlite", "r.sqlite"]
