"""SQLite files that several processes share."""

from __future__ import annotations

import sqlite3
import time


def log_ahead(connection: sqlite3.Connection, seconds: float) -> None:
    """Gives a database a write-ahead log, beside which others may read while one writes.

    SQLite's own waiting (`timeout`) does not cover this change: while another connection is about to write to a database that has no such
    log yet, as of two processes that start at once, it fails without waiting.

    Args:
        connection: in no transaction.
        seconds: how long to go on trying. The last attempt may wait for the connection's own `timeout` on top.

    Raises:
        sqlite3.OperationalError: the database is in use all that time, or cannot be written.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(0.005)
