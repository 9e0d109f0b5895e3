"""One database, SQLite (write-ahead log) or PostgreSQL: connections, transactions, migrations, and its errors in our words.

A write transaction that has ended is on the disk: SQLite runs with `synchronous = FULL`, PostgreSQL with its usual setting. SQLite
overwrites what is deleted (`secure_delete`); `scrub` sees to what lies elsewhere.
"""

from __future__ import annotations

import getpass
import os
import sqlite3
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, make_url

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.files import writing as explaining_files
from steelyard.core.sqlite import log_ahead
from steelyard.serve.store.errors import StoreError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.tables import metadata
from steelyard.serve.store.turns import Turns

REVISIONS = ("0001", "0002", "0003")
"""The migrations there are, oldest first; the last is what this version works with."""
APPLICATION_ID = 0x53595354  # "SYST"
_LOCK = 0x53595354  # PostgreSQL's advisory lock while migrating
_MIGRATIONS = Path(__file__).parent / "migrations"
_SWEPT = (
    "conversations",
    "messages",
    "generations",
    "attachments",
    "blobs",
    "readings",
    "indexes",
    "index_documents",
    "feedback",
    "search",
)


class Database:
    """An open database, migrated to this version.

    Args:
        place: a file's path, or a URL `sqlite:///FILE`, `postgresql://USER:PASSWORD@HOST/NAME`.

    Raises:
        SteelyardError: it is something else, comes from a newer version, or the URL is none.
        StoreError: it cannot be opened, read or written.
    """

    def __init__(self, place: str | Path, limits: StoreLimits):
        url = url_of(place)
        self.lite = url.get_backend_name() == "sqlite"
        self.where = url.database or "" if self.lite else url.render_as_string(hide_password=True)
        self._turns, self._patience = Turns(), limits.wait_seconds
        self.engine = engine_of(url, limits)
        try:
            self._migrate()
            if self.lite:  # what a server erased that then crashed may still be in the log; a reader elsewhere is no reason not to start
                with self._explained(), self.engine.connect() as connection:
                    connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one moment of the database throughout."""
        with self._explained(), self.engine.connect() as connection:
            if not self.lite:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction; what it did is on the disk when the block has ended, or undone when it raised."""
        with self._turn(), self._explained(), self.engine.connect() as connection:
            connection.execution_options(steelyard_writes=True)
            with connection.begin():
                yield connection

    def scrub(self) -> None:
        """Leaves nothing of deleted rows in the database's files.

        SQLite: rewrites the file and empties the write-ahead log. PostgreSQL: rewrites the tables; its write-ahead log recycles old
        segments in its own time, and archives and backups are the operator's.

        Raises:
            StoreError: somebody reads for longer than the waiting time, or the disk has no room to rewrite the file.
        """
        with self._turn(), self._explained(), self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if self.lite:
                self._empty_log(connection)  # before VACUUM, which may fail for want of room
                connection.exec_driver_sql("VACUUM")
                self._empty_log(connection)
            else:
                connection.exec_driver_sql(f"VACUUM (FULL) {', '.join(_SWEPT)}")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite: this process's writers one after the other. PostgreSQL's rows have locks of their own."""
        if not self.lite:
            yield
            return
        with self._turns.turn(self._patience) as got:
            if not got:
                raise StoreError("too many write to the database at once", where=self.where, do="Try again in a moment.")
            yield

    def _empty_log(self, connection: Connection) -> None:
        busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
        if busy:
            raise StoreError("somebody still reads, so the write-ahead log could not be emptied", where=self.where)

    def close(self) -> None:
        """Closes all connections. SQLite's write-ahead log then goes into its file."""
        self.engine.dispose()

    def _migrate(self) -> None:
        with self.writing() as connection:
            if not self.lite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))  # replicas that start together
            there = set(sa.inspect(connection).get_table_names())
            reached = None
            if "alembic_version" in there:
                reached = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            foreign = self.lite and connection.exec_driver_sql("PRAGMA application_id").scalar() not in (0, APPLICATION_ID)
            if foreign or (reached is None and there & (set(metadata.tables) | ({"records"} if self.lite else set()))):
                raise SteelyardError("this database holds something else than conversations", where=self.where, do="Choose another one.")
            if reached is not None and reached not in REVISIONS:
                raise SteelyardError(
                    f"the conversations have form {reached}, this version reads up to {REVISIONS[-1]}",
                    where=self.where,
                    do="Use a newer Steelyard, or another place for its data.",
                )
            if reached != REVISIONS[-1]:
                _upgrade(connection)
            if self.lite:
                connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The databases' errors as what a person can do about them."""
        try:
            yield
        except exc.TimeoutError as error:
            raise StoreError("all connections to the database are in use", where=self.where, do="Try again in a moment.") from error
        except exc.DBAPIError as error:
            raise _explained(error, self.where) from error
        except sqlite3.Error as error:  # while a connection is opened
            raise StoreError(f"the database cannot be used: {error}", where=self.where, do=_DAMAGED) from error


_DAMAGED = "Stop the server and restore a backup, or move the file away with its -wal and -shm neighbours to begin anew."


def _explained(error: exc.DBAPIError, where: str) -> StoreError:
    told = error.orig.args[0] if error.orig is not None and error.orig.args else None
    state, text = (told.get("C"), str(told.get("M"))) if isinstance(told, dict) else (None, str(error.orig))  # PostgreSQL's codes, or words
    rules = (
        (
            state == "53100" or "is full" in text or "No space left" in text,
            "the disk is full",
            "Free some space; what was stored before stays.",
        ),
        (
            state in ("55P03", "40P01", "40001") or "locked" in text or "busy" in text,
            "another process holds the database",
            "Try again in a moment.",
        ),
        (
            state in ("42501", "28000", "28P01", "25006") or "readonly" in text or "unable to open" in text,
            f"the database may not be written: {text}",
            "Choose a place or a user that may.",
        ),
        ("I/O error" in text, f"the disk did not read or write: {text}", "See that the disk and its quota leave room."),
        (state == "53300", "the database has no connections left", "Try again in a moment."),
        (
            state is None
            and isinstance(error, exc.InterfaceError)
            and not isinstance(error.orig, sqlite3.Error)
            or error.connection_invalidated,
            f"the database cannot be reached: {text}",
            "See that it runs and that the URL is right.",
        ),
    )
    for holds, what, do in rules:
        if holds:
            return StoreError(" ".join(what.split()), where=where, do=do)
    return StoreError(f"the database is damaged or not as this version knows it: {' '.join(text.split())}", where=where, do=_DAMAGED)


def url_of(place: str | Path) -> URL:
    """A file's path or a database's URL, with the driver it is spoken to by.

    Raises:
        SteelyardError: it is neither.
    """
    text = str(place)
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except exc.ArgumentError as error:
        raise SteelyardError("this is no database URL", where="database", do="Write postgresql://USER:PASSWORD@HOST/NAME.") from error
    kind = url.drivername.split("+")[0]
    if kind == "sqlite" and url.database:
        return URL.create("sqlite", database=url.database)
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+pg8000", username=url.username or os.environ.get("PGUSER") or getpass.getuser())
    raise SteelyardError(
        f"databases of the kind `{kind}` cannot hold conversations", where="database", do="Name a file, or postgresql://..."
    )


def engine_of(url: URL, limits: StoreLimits) -> sa.Engine:
    """Connections to a database, which is not looked at yet."""
    return _lite_engine(url, limits) if url.get_backend_name() == "sqlite" else _postgresql_engine(url, limits)


def _lite_engine(url: URL, limits: StoreLimits) -> sa.Engine:
    path = Path(str(url.database))
    if path.is_dir():
        raise SteelyardError("this is a folder, not a file of conversations", where=str(path), do="Name a file in it.")
    with explaining_files(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # What people said is theirs: the file (SQLite gives its neighbours the same mode) can be read by its owner alone.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = sa.create_engine(url, connect_args={"timeout": limits.wait_seconds, "check_same_thread": False}, pool_size=8, max_overflow=24)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; `begin` below does
        log_ahead(connection, limits.wait_seconds)  # servers that start together
        for setting in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that began as a reader cannot wait for another writer: it would fail at once.
        options = connection.get_execution_options()
        if options.get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("steelyard_writes") else "BEGIN")

    return engine


def _postgresql_engine(url: URL, limits: StoreLimits) -> sa.Engine:
    asked = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    arguments: dict[str, Any] = {}
    if (folder := asked.pop("host", "")).startswith("/"):  # a socket, as PostgreSQL's own clients write it
        arguments["unix_sock"] = f"{folder}/.s.PGSQL.{url.port or 5432}"
    elif folder:
        url = url.set(host=folder)
    mode = asked.pop("sslmode", "disable")
    if mode not in _ENCRYPTED or asked:
        what = (
            f"sslmode={mode} is not known"
            if mode not in _ENCRYPTED
            else f"the database's URL says `{next(iter(asked))}`, which is not known"
        )
        raise SteelyardError(what, where="database", do=f"After the ? may stand host=FOLDER and sslmode={'|'.join(_ENCRYPTED)}.")
    if (context := _ENCRYPTED[mode]()) is not None:
        arguments["ssl_context"] = context
    try:
        engine = sa.create_engine(url.set(query={}), connect_args=arguments, pool_size=8, max_overflow=24, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise UnsupportedError("PostgreSQL needs pg8000", do="Install it: pip install 'steelyard[postgres]'.") from error

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = {int(limits.wait_seconds * 1000)}")
        connection.commit()

    @event.listens_for(engine, "checkout")
    def end_ping(connection: Any, _: Any, __: Any) -> None:
        connection.rollback()  # asking whether it still lives has begun a transaction, in which VACUUM would be refused

    return engine


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


_ENCRYPTED: Mapping[str, Callable[[], ssl.SSLContext | None]] = {
    "disable": lambda: None,
    "require": _unverified,
    "verify-full": ssl.create_default_context,
}
"""What PostgreSQL's own clients call encryption: none, without asking who answers, with the server's name and certificate checked."""


def _upgrade(connection: Connection) -> None:
    from alembic import command  # takes a third of a second, and most starts have nothing to migrate
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
