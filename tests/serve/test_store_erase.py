"""What is erased is nowhere any more: not in the tables, not in the files, not in the write-ahead log."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from steelyard.serve.store.answers import Generation
from steelyard.serve.store.errors import NotFoundError, StoreError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import FilePart, TextPart
from steelyard.serve.store.store import Store
from steelyard.serve.store.tables import metadata
from tests.serve.stores import ANN, BOB, answer, say, shown

SECRET = "swordfish"


def files_of(store: Store, place: str) -> list[Path]:
    """All files the database keeps its tables in, brought up to date."""
    if store.database.lite:
        return list(Path(place).parent.glob(f"{Path(place).name}*"))
    with store.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("CHECKPOINT"))
        folder = connection.execute(sa.text("SHOW data_directory")).scalar_one()
    return [file for file in (Path(folder) / "base").rglob("*") if file.is_file()]


def holding(store: Store, place: str, *words: str) -> list[str]:
    """The files that hold one of the words, in any way we write it."""
    found = []
    for file in files_of(store, place):
        content = file.read_bytes().lower()
        found += [f"{file.name}: {word}" for word in words if word.encode() in content]
    return found


def rows(store: Store) -> dict[str, int]:
    with store.database.reading() as connection:
        return {
            name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for name, table in metadata.tables.items()
        }


def full_of(store: Store, word: str) -> tuple[str, str, str]:
    """A conversation in which a word stands everywhere; returns the ids of it, of the question and of the answer."""
    conversation = store.conversations.create(ANN, f"about {word}")["id"]
    file = store.attachments.add(ANN, f"{word}.txt", f"the file says {word} ".encode() * 300)["id"]
    parts = [TextPart(type="text", text=f"what is {word}? " * 400), FilePart(type="file", attachment=file)]
    question = store.messages.add(ANN, conversation, None, "user", parts)["id"]
    reply = answer(store, conversation, f"{word} is a fish", question)
    store.feedback.add(ANN, reply, "correction", f"{word} is a word")
    store.feedback.add(ANN, reply, "tag", word)
    store.feedback.choose(ANN, conversation, question, reply, None, 2, group=f"friends of {word}")
    return conversation, question, reply


def test_an_erased_conversation_is_nowhere_in_the_files(store: Store, place: str) -> None:
    kept = full_of(store, "pelican")[0]
    before = rows(store)
    conversation, question, _ = full_of(store, SECRET)
    store.messages.delete(ANN, question, "below")
    assert holding(store, place, SECRET), "the test would see it"
    store.conversations.delete(ANN, conversation)
    assert store.erase(ANN, conversation=conversation) == {"erased": 2}
    assert holding(store, place, SECRET) == []
    assert rows(store) == before
    assert len(store.conversations.read(ANN, kept)["messages"]) == 2 and holding(store, place, "pelican")
    for attempt in (lambda: store.conversations.restore(ANN, conversation), lambda: store.erase(ANN, conversation=conversation)):
        with pytest.raises(NotFoundError):
            attempt()


def test_an_erased_message_keeps_its_place_and_nothing_it_said(store: Store, place: str) -> None:
    conversation, question, reply = full_of(store, SECRET)
    after = say(store, conversation, "and trout?", reply)
    store.conversations.change(ANN, conversation, {"title": "fish"})
    store.messages.delete(ANN, question, "this")
    assert store.erase(ANN, message=question)["erased"] == 1
    assert store.erase(ANN, message=reply)["erased"] == 1
    messages = shown(store, conversation)
    assert messages[question]["deleted"] and messages[reply]["parts"] == [] and messages[reply]["generation"] is None
    assert messages[after]["parent"] is None and messages[question]["undo"] is None
    assert store.feedback.list(ANN)["feedback"] == []
    assert holding(store, place, SECRET) == []
    assert rows(store)["blobs"] == rows(store)["attachments"] == 0


def test_what_was_searched_for_to_answer_it_is_erased_with_a_question(store: Store, place: str) -> None:
    conversation = store.conversations.create(ANN)["id"]
    question = say(store, conversation, f"where is the {SECRET}")
    considered = [{"source": "atlas", "title": "", "text": "Fish live in water.", "found": [SECRET], "asked": [SECRET], "rank": 1}]
    made = Generation("tiny", "f00d", lookups=[{"query": f"the {SECRET}", "index": "books", "considered": considered}])
    reply = store.answers.begin(ANN, conversation, question, made)
    made.reason = "stop"
    assert store.answers.finish(ANN, conversation, reply, "In water.", made) and holding(store, place, SECRET)
    store.erase(ANN, message=question)
    assert holding(store, place, SECRET) == []
    (search,) = shown(store, conversation)[reply]["generation"]["lookups"]
    assert (search["query"], search["index"], search["considered"][0]["source"]) == ("", "books", "atlas")


def test_erased_words_are_not_among_what_a_database_samples_for_its_plans(store: Store, place: str) -> None:
    conversations = [full_of(store, SECRET)[0]]
    for number in range(3):
        conversations.append(store.conversations.create(ANN, f"{SECRET} {number}")["id"])
        say(store, conversations[-1], f"{number} {SECRET}")
    with store.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
    for conversation in conversations:
        store.erase(ANN, conversation=conversation)
    assert holding(store, place, SECRET) == []


def test_copies_that_an_edit_made_are_erased_too(store: Store, place: str) -> None:
    conversation = store.conversations.create(ANN)["id"]
    first = say(store, conversation, "question one")
    reply = answer(store, conversation, SECRET, first)
    edited = say(store, conversation, "question two", edited_from=first)
    copy = say(store, conversation, SECRET, edited, "assistant", edited_from=reply)
    again = say(store, conversation, SECRET, edited, "assistant", edited_from=copy)
    own = say(store, conversation, f"I too say {SECRET}", copy)
    assert store.erase(ANN, message=copy)["erased"] == 3
    messages = shown(store, conversation)
    assert all(messages[id]["deleted"] for id in (reply, copy, again)) and not messages[own]["deleted"]
    store.erase(ANN, message=own)
    assert holding(store, place, SECRET) == []


def test_a_file_stays_while_somebody_still_has_it(store: Store, place: str) -> None:
    content = b"a file that two people have"
    first, second = (store.attachments.add(owner, "n.txt", content)["id"] for owner in (ANN, BOB))
    ids = {}
    for owner, file in ((ANN, first), (BOB, second)):
        ids[owner] = store.conversations.create(owner)["id"]
        store.messages.add(owner, ids[owner], None, "user", [FilePart(type="file", attachment=file)])
    assert rows(store)["blobs"] == 1
    store.erase(ANN, conversation=ids[ANN])
    with pytest.raises(NotFoundError):
        store.attachments.read(ANN, first)
    assert store.attachments.read(BOB, second).content == content
    store.erase(BOB, conversation=ids[BOB])
    assert rows(store)["blobs"] == 0 and holding(store, place, "two people have") == []


def test_erasing_says_so_when_somebody_reads_too_long(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite", StoreLimits(wait_seconds=0.2)) as store:
        conversation = full_of(store, SECRET)[0]
        reader = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM messages").fetchone()
        with pytest.raises(StoreError, match="the rows are erased, but"):
            store.erase(ANN, conversation=conversation)
        with pytest.raises(NotFoundError):
            store.conversations.read(ANN, conversation)
        reader.close()
        store.erase(ANN, conversation=store.conversations.create(ANN)["id"])
        assert holding(store, str(tmp_path / "store.sqlite"), SECRET) == []


def test_erasing_beside_writers_neither_loses_nor_leaves_anything(store: Store, place: str) -> None:
    kept = store.conversations.create(ANN)["id"]
    root = say(store, kept, "root")
    stop = threading.Event()
    said: list[str] = []

    def write() -> None:
        while not stop.is_set():
            said.append(say(store, kept, "more", root))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            store.erase(ANN, conversation=full_of(store, SECRET)[0])
    finally:
        stop.set()
        thread.join()
    assert set(shown(store, kept)) == {root, *said}
    store.erase(ANN, conversation=store.conversations.create(ANN)["id"])
    assert holding(store, place, SECRET) == []
