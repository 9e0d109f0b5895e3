"""A write-ahead log is given to a database that others use, and what is in its way is told."""

import sqlite3
import threading
import time

import pytest

from steelyard.core.sqlite import log_ahead


@pytest.fixture
def two(tmp_path):
    both = [sqlite3.connect(tmp_path / "a.sqlite", timeout=0.01, isolation_level=None, check_same_thread=False) for _ in range(2)]
    yield both
    for one in both:
        one.close()


def mode(connection):
    return connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_it_waits_for_whoever_is_about_to_write(two):
    mine, theirs = two
    theirs.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        mine.execute("PRAGMA journal_mode = WAL")
    end = threading.Timer(0.3, theirs.execute, ("COMMIT",))
    end.start()
    log_ahead(mine, 60)
    end.join()
    assert mode(mine) == mode(theirs) == "wal"


def test_it_gives_up_when_its_time_is_over(two):
    mine, theirs = two
    theirs.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        log_ahead(mine, 0.05)
    theirs.execute("COMMIT")
    assert mode(mine) == "delete"


def test_it_does_not_wait_for_what_waiting_does_not_mend(tmp_path):
    (tmp_path / "a.sqlite").write_bytes(b"no database" * 100)
    began = time.monotonic()
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        log_ahead(sqlite3.connect(tmp_path / "a.sqlite"), 600)
    assert time.monotonic() - began < 300
