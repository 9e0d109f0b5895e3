"""What was acknowledged survives, and a database that fails says so. Migrations make exactly the tables the code knows."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from steelyard.core.errors import SteelyardError
from steelyard.serve.store.answers import Generation
from steelyard.serve.store.database import _MIGRATIONS, REVISIONS
from steelyard.serve.store.errors import StoreError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.store import Store
from steelyard.serve.store.tables import metadata
from tests.serve.commanded import until
from tests.serve.stores import ANN, answer, say, shown, text_of

WRITER = """
import sys
from steelyard.serve.store.store import Store
from tests.serve.stores import ANN, answer, say
store = Store(sys.argv[1])
conversation = store.conversations.create(ANN)["id"]
print(conversation, flush=True)
parent = None
for number in range(10_000):
    parent = say(store, conversation, f"question {number}", parent)
    parent = answer(store, conversation, f"answer {number}", parent)
    print(parent, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(place: str) -> None:
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, place]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert writer.stdout is not None
        conversation = writer.stdout.readline().strip()
        acknowledged = [writer.stdout.readline().strip() for _ in range(12)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split("\n")[:-1]
        writer.wait()
        writer.stdout.close()
        with Store(place) as store:
            messages = shown(store, conversation)
            for number, id in enumerate(acknowledged):
                assert text_of(messages[id]) == f"answer {number}"
                assert messages[id]["generation"]["reason"] == "stop" and len(messages[id]["generation"]["tokens"]) == 2
            assert store.conversations.list(ANN, f"answer {len(acknowledged) - 1}")["conversations"][0]["id"] == conversation
            say(store, conversation, "it goes on", acknowledged[-1])


def test_a_full_disk_is_told_and_nothing_before_is_lost(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        conversation = store.conversations.create(ANN)["id"]
        kept = say(store, conversation, "kept")

        def full(connection: sqlite3.Connection, *_: object) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + 2}")

        sa.event.listen(store.database.engine, "checkout", full)
        with pytest.raises(StoreError, match="the disk is full"):
            for _ in range(50):
                say(store, conversation, os.urandom(20_000).hex(), kept)
        sa.event.remove(store.database.engine, "checkout", full)
        assert text_of(shown(store, conversation)[kept]) == "kept"
    with Store(tmp_path / "store.sqlite") as store:
        answer(store, conversation, "again", kept)


def test_a_file_somebody_else_holds_is_told(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite", StoreLimits(wait_seconds=0.1)) as store:
        other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process"):
            store.conversations.create(ANN)
        other.execute("ROLLBACK")
        other.close()
        store.conversations.create(ANN)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    with Store(file) as store:
        conversation = store.conversations.create(ANN)["id"]
        for _ in range(40):
            say(store, conversation, "text " * 500)
    content = bytearray(file.read_bytes())
    content[5000:-100] = os.urandom(len(content) - 5100)
    file.write_bytes(content)
    with pytest.raises(SteelyardError), Store(file) as store:
        store.conversations.read(ANN, conversation)
        store.conversations.list(ANN, "text")


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    with Store(tmp_path / "deep" / "store.sqlite") as store:
        say(store, store.conversations.create(ANN)["id"], "private")
        for file in (tmp_path / "deep").iterdir():
            assert file.stat().st_mode & 0o077 == 0, file.name


def test_migrations_make_exactly_the_tables_the_code_knows(store: Store) -> None:
    with store.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    assert tuple(script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions())[::-1] == REVISIONS


def test_what_a_newer_version_wrote_is_left_alone(place: str) -> None:
    with Store(place) as store, store.database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SteelyardError, match="9999"):
        Store(place)


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "records.sqlite")
    other.execute("CREATE TABLE messages(x)")
    other.commit()
    with pytest.raises(SteelyardError, match="something else"):
        Store(tmp_path / "records.sqlite")
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("messages",)]
    other.close()


def test_two_servers_share_one_database(place: str) -> None:
    with Store(place) as one, Store(place) as other:
        conversation = one.conversations.create(ANN)["id"]
        first = say(other, conversation, "from the other")
        answer(one, conversation, "from the one", first)
        assert [text_of(message) for message in shown(other, conversation).values()] == ["from the other", "from the one"]


def test_what_was_said_of_an_answer_is_on_the_disk_before_its_end(place: str) -> None:
    with Store(place) as store:
        conversation = store.conversations.create(ANN)["id"]
        question = say(store, conversation, "question")
        made = Generation("tiny", "f00d")
        id = store.answers.begin(ANN, conversation, question, made)
        store.answers.grow(id, "half an ")
        with Store(place) as other:  # what would be there if the first were killed now
            until(lambda: text_of(shown(other, conversation)[id]) == "half an ")
            assert shown(other, conversation)[id]["generation"]["reason"] == "interrupted"
            assert other.conversations.list(ANN, "half")["conversations"][0]["id"] == conversation
        assert shown(store, conversation)[id]["generation"]["reason"] is None, "whoever writes it knows that it goes on"
        store.answers.grow(id, "answer")
        made.reason = "stop"
        assert store.answers.finish(ANN, conversation, id, "half an answer", made)
        store.answers.grow(id, " too late")
    with Store(place) as store:
        message = shown(store, conversation)[id]
        assert text_of(message) == "half an answer" and message["generation"]["reason"] == "stop"


def test_a_draft_of_an_erased_answer_leaves_nothing(place: str) -> None:
    with Store(place) as store:
        conversation = store.conversations.create(ANN)["id"]
        id = store.answers.begin(ANN, conversation, say(store, conversation, "question"), Generation("tiny", "f00d"))
        store.erase(ANN, message=id)
        store.answers.grow(id, "SECRET")
    with Store(place) as store:
        assert text_of(shown(store, conversation)[id]) == "" and not store.conversations.list(ANN, "secret")["conversations"]


def test_a_server_starts_while_another_makes_the_database(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.3, other.execute, ("COMMIT",))
    end.start()
    with Store(tmp_path / "s.sqlite") as store:
        assert store.conversations.list(ANN)["conversations"] == []
    end.join()
    other.close()
