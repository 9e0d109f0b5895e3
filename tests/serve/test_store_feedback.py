"""Feedback, attached files, and conversations out and in again."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.core.errors import DataError, SteelyardError
from steelyard.data.formats import read_jsonl
from steelyard.data.preferences import read_preferences
from steelyard.serve.store.errors import NotFoundError, TooLargeError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import FilePart, TextPart
from steelyard.serve.store.sniffing import sniff
from steelyard.serve.store.store import Store
from tests.serve.store_fixtures import LIMITS
from tests.serve.stores import ANN, BOB, answer, say, shown


def png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(3 * min(width, 9)) for _ in range(min(height, 9))))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    written = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def archive(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in files.items():
            written.writestr(name.replace("__", "/"), content)
    return out.getvalue()


def test_thumbs_replace_each_other_and_tags_are_there_once(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    reply = answer(store, conversation, "b", say(store, conversation, "a"))
    first = store.feedback.add(ANN, reply, "thumbs", "up")
    second = store.feedback.add(ANN, reply, "thumbs", "down")
    assert first["id"] == second["id"] and second["value"] == "down" and second["text"] == "b"
    for _ in range(2):
        store.feedback.add(ANN, reply, "tag", "wrong place")
    kinds = [(row["kind"], row["value"]) for row in shown(store, conversation)[reply]["feedback"]]
    assert kinds == [("thumbs", "down"), ("tag", "wrong place")]


def test_feedback_is_found_by_its_words_and_by_the_answers(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    reply = answer(store, conversation, "The Danube", say(store, conversation, "a"))
    ids = {kind: store.feedback.add(ANN, reply, kind, value)["id"] for kind, value in (("correction", "The Rhine"), ("tag", "geography"))}
    find = lambda *asked: {row["id"] for row in store.feedback.list(ANN, *asked)["feedback"]}  # noqa: E731
    assert find() == find("danube") == set(ids.values()) and find("rhine") == {ids["correction"]} and find("", "tag") == {ids["tag"]}
    assert find("nothing") == set()
    store.feedback.change(ANN, ids["correction"], "The Elbe")
    assert find("elbe") == {ids["correction"]} and find("rhine") == set()
    undo = store.feedback.delete(ANN, ids["tag"])["undo"]
    assert find() == {ids["correction"]}
    store.messages.undo(ANN, undo)
    assert find() == set(ids.values())
    store.messages.delete(ANN, reply, "this")
    assert find() == set()
    with pytest.raises(DataError, match="Known"):
        store.feedback.list(ANN, kind="likes")


def test_feedback_comes_in_pages(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    reply = answer(store, conversation, "b", say(store, conversation, "a"))
    given = [store.feedback.add(ANN, reply, "tag", f"tag {number}")["id"] for number in range(5)]
    first = store.feedback.list(ANN)
    second = store.feedback.list(ANN, cursor=first["next"])
    assert [row["id"] for row in first["feedback"] + second["feedback"]] == given[::-1] and second["next"] is None


def test_feedback_that_makes_no_sense_is_refused(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    question = say(store, conversation, "a")
    reply = answer(store, conversation, "b", question)
    further = answer(store, conversation, "d", say(store, conversation, "c", reply))
    add = store.feedback.add
    for wrong in (("thumbs", "sideways"), ("tag", ""), ("tag", "a\nb"), ("tag", "x" * 61), ("correction", " "), ("correction", "\ud800")):
        with pytest.raises(DataError):
            add(ANN, reply, *wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="about an answer"):
        add(ANN, question, "thumbs", "up")
    choose = store.feedback.choose
    for chosen, rejected, strength, both_bad in (
        (None, None, 1, False),
        (reply, reply, 1, False),
        (question, None, 1, False),
        (reply, further, 1, False),
        (reply, None, 0, False),
        (reply, None, 4, False),
        (reply, None, True, False),
    ):
        with pytest.raises(DataError):
            choose(ANN, conversation, question, chosen, rejected, strength, both_bad)
    for pair in ((reply, reply), (reply,), (question, reply), (further, reply), (reply, "nowhere"), (reply, 7)):
        with pytest.raises((DataError, NotFoundError)):
            choose(ANN, conversation, question, reply, None, 1, shown=pair)  # type: ignore[arg-type]
    both = choose(ANN, conversation, question, None, None, 1, True, "students")
    assert both["value"]["group"] == "students" and both["value"]["both_bad"]
    with pytest.raises(DataError):
        store.feedback.change(ANN, both["id"], {"both_bad": False})
    with pytest.raises(DataError):
        store.feedback.change(ANN, both["id"], "up")
    changed = store.feedback.change(ANN, both["id"], {"both_bad": False, "chosen": reply, "strength": 3})
    assert changed["value"]["strength"] == 3


def test_files_are_what_their_bytes_say(store: Store) -> None:
    office = {"[Content_Types].xml": b"<x/>"}
    kinds = {
        "image/png": png(4, 3),
        "image/gif": b"GIF89a\x04\x00\x03\x00\x00\x00\x00;",
        "image/jpeg": b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08\x00\x03\x00\x04\x01\x01\x11\x00\xff\xd9",
        "image/webp": b"RIFF\x1e\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x02\x00\x00",
        "application/pdf": b"%PDF-1.7\n",
        "text/plain": "name;größe\r\n<script>".encode(),
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": archive(**office, word__document=b"x"),
    }
    for kind, content in kinds.items():
        kept = store.attachments.add(ANN, r"C:\fakepath\..\evil‮gpj.exe", content)
        assert kept["type"] == kind and kept["size"] == len(content) and kept["name"] == "evilgpj.exe"
        assert store.attachments.read(ANN, kept["id"]).content == content


def test_files_nobody_can_read_or_that_are_bombs_are_refused(store: Store) -> None:
    refused = {
        b"": DataError,
        b"\x7fELF\x02\x01\x01\x00": DataError,
        b"\xff\xfe\x00\x00": DataError,
        b"text with a \x00": DataError,
        b"PK\x03\x04 broken": DataError,
        archive(file=b"x"): DataError,
        b"\x89PNG\r\n\x1a\n": DataError,
        b"\xff\xd8\xff\xe0\x00\x00": DataError,
        b"GIF89a": DataError,
        png(100_000, 100_000): TooLargeError,
        b"x" * 100_001: TooLargeError,
    }
    for content, kind in refused.items():
        with pytest.raises(kind):
            store.attachments.add(ANN, "file", content)
    bomb = archive(**{"[Content_Types].xml": b"x", "word__document": bytes(5_000_000)})
    with pytest.raises(TooLargeError, match="unpacks"):
        sniff(bomb, "bomb.docx", StoreLimits(unpacked_bytes=1_000_000))
    with pytest.raises(DataError):
        store.attachments.add(ANN, "x" * 256, b"text")


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF0000WEBPVP8", b"PK\x03\x04", b"%PDF-"]),
)
def test_sniffing_any_bytes_gives_a_type_or_says_why_not(content: bytes, start: bytes) -> None:
    try:
        assert "/" in sniff(start + content, "file", LIMITS)
    except SteelyardError as error:
        assert error.where == "file"


def test_one_person_may_keep_only_so_much(store: Store) -> None:
    for number in range(2):
        store.attachments.add(ANN, "n.txt", f"{number}".encode() * 90_000)
    with pytest.raises(TooLargeError, match="files have"):
        store.attachments.add(ANN, "n.txt", b"2" * 90_000)
    store.attachments.add(BOB, "n.txt", b"2" * 90_000)


def test_files_never_sent_are_removed_and_sent_ones_stay(place: str) -> None:
    with Store(place, StoreLimits(unused_days=0)) as store:
        conversation = store.conversations.create(ANN)["id"]
        sent = store.attachments.add(ANN, "n.txt", b"sent")["id"]
        store.messages.add(ANN, conversation, None, "user", [FilePart(type="file", attachment=sent)])
        unsent = store.attachments.add(ANN, "n.txt", b"unsent")["id"]
        assert store.attachments.drop_unused() == 1
        assert store.attachments.read(ANN, sent).content == b"sent"
        with pytest.raises(NotFoundError):
            store.attachments.read(ANN, unsent)


def taught(store: Store) -> dict[str, str]:
    """A conversation in which everything is said that can be learned from."""
    conversation = store.conversations.create(ANN, "Cities", consent=True)["id"]
    system = say(store, conversation, "Be brief.", None, "system")
    question = say(store, conversation, "The capital of France?", system)
    wrong = answer(store, conversation, "Lyon", question)
    right = answer(store, conversation, "Paris", question)
    store.feedback.choose(ANN, conversation, question, right, wrong, 3, group="students")
    store.feedback.add(ANN, right, "thumbs", "up")
    more = say(store, conversation, "And of Spain?", right)
    also = say(store, conversation, "In one word.", more)
    spain = answer(store, conversation, "Barcelona", also)
    store.feedback.add(ANN, spain, "correction", "Sevilla")
    store.feedback.add(ANN, spain, "correction", "Madrid")
    edited = say(store, conversation, "Madrid!", also, "assistant", edited_from=spain)
    again = say(store, conversation, "The capital of Frankia?", system, edited_from=question)
    copy = say(store, conversation, "Paris", again, "assistant", edited_from=right)
    return {"conversation": conversation, "wrong": wrong, "right": right, "spain": spain, "edited": edited, "copy": copy, "more": more}


def test_corrections_edits_and_liked_answers_are_read_by_sft(store: Store, tmp_path: Path) -> None:
    ids = taught(store)
    out = store.sft_rows(ANN)
    (tmp_path / "sft.jsonl").write_text("".join(out.lines), encoding="utf-8")
    rows = read_jsonl(tmp_path / "sft.jsonl")
    assert rows.bad == [] and out.left_out == []
    learned = [[turn.message.content for turn in example.turns if turn.learned] for example in rows.examples]
    assert learned == [["Paris"], ["Madrid"], ["Madrid!"]]
    assert [turn.message.content for turn in rows.examples[1].turns] == [
        "Be brief.",
        "The capital of France?",
        "Paris",
        "And of Spain?\n\nIn one word.",
        "Madrid",
    ]
    raw = [json.loads(line) for line in out.lines]
    assert [row["source"] for row in raw] == ["thumbs", "correction", "edit"] and all(row["consent"] for row in raw)
    assert raw[1]["message"] == ids["spain"]


def test_choices_corrections_and_edits_are_preference_pairs(store: Store, tmp_path: Path) -> None:
    ids = taught(store)
    store.feedback.add(ANN, ids["wrong"], "thumbs", "down")  # says again what the choice said
    out = store.preference_rows(ANN)
    (tmp_path / "pairs.jsonl").write_text("".join(out.lines), encoding="utf-8")
    read = read_preferences(tmp_path / "pairs.jsonl")
    assert read.bad == []
    assert [(pair.chosen, pair.rejected, pair.strength) for pair in read.pairs] == [
        ("Paris", "Lyon", 3),
        ("Madrid", "Barcelona", None),
        ("Madrid!", "Barcelona", None),
    ]
    assert [message.role for message in read.pairs[0].prompt] == ["system", "user"]
    assert json.loads(out.lines[0])["group"] == "students"
    store.messages.delete(ANN, ids["wrong"], "this")
    assert len(store.preference_rows(ANN).lines) == 2


def test_what_would_teach_nothing_is_left_out_and_counted(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    question = say(store, conversation, "Which way?")
    silent, same, alike = (answer(store, conversation, text, question) for text in (" ", "Left", "Left"))
    for chosen, rejected in ((same, alike), (same, silent)):
        store.feedback.choose(ANN, conversation, question, chosen=chosen, rejected=rejected, shown=[chosen, rejected], strength=1)
    store.feedback.add(ANN, silent, "thumbs", "up")
    pairs, rows = store.preference_rows(ANN), store.sft_rows(ANN)
    assert pairs.lines == [] == rows.lines
    assert pairs.left_out == [f"message {same}: both answers are the same", f"message {same}: one of the answers is empty"]
    assert rows.left_out == [f"message {silent}: nothing was said"]


def test_only_what_was_consented_to_is_exported_when_asked(store: Store) -> None:
    ids = taught(store)
    store.conversations.change(ANN, ids["conversation"], {"consent": False})
    assert len(store.sft_rows(ANN).lines) == 3 and not json.loads(store.sft_rows(ANN).lines[0])["consent"]
    assert store.sft_rows(None, consented=True).lines == [] == store.preference_rows(ANN, consented=True).lines
    assert json.loads(store.sft_rows(ANN, stated=True).lines[0])["consent"]
    assert list(store.export_conversations(ANN, consented=True)) == []
    assert store.sft_rows(BOB).lines == [] == list(store.export_conversations(BOB))


def test_hidden_messages_and_pictures_are_not_taught(store: Store) -> None:
    ids = taught(store)
    store.messages.hide(ANN, ids["more"], True)
    assert any('"content":"In one word."' in line for line in store.sft_rows(ANN).lines)
    conversation = store.conversations.create(ANN)["id"]
    picture = store.attachments.add(ANN, "cat.png", png(3, 3))["id"]
    note = store.attachments.add(ANN, "note.txt", b"cats purr")["id"]
    shown = store.messages.add(ANN, conversation, None, "user", [FilePart(type="file", attachment=picture)])["id"]
    read = store.messages.add(ANN, conversation, None, "user", [FilePart(type="file", attachment=note)])["id"]
    for parent in (shown, read):
        store.feedback.add(ANN, answer(store, conversation, "A dog", parent), "correction", "A cat")
    out = store.sft_rows(ANN)
    assert len(out.left_out) == 1 and "cat.png" in out.left_out[0]
    assert "File note.txt:\\n\\ncats purr" in out.lines[-1]


def exported(store: Store) -> bytes:
    return "".join(store.export_conversations(ANN)).encode()


def test_what_is_exported_is_imported_equal(store: Store, tmp_path: Path) -> None:
    ids = taught(store)
    file = store.attachments.add(ANN, "n.txt", b"a file")["id"]
    for _ in range(2):  # the same file in two conversations
        conversation = store.conversations.create(ANN)["id"]
        parts = [TextPart(type="text", text="look \0 ß"), FilePart(type="file", attachment=file)]
        store.messages.add(ANN, conversation, None, "user", parts)
    unfinished(store, conversation)
    store.messages.hide(ANN, ids["right"], True)
    store.messages.delete(ANN, ids["wrong"], "this")
    lines = exported(store)
    with Store(tmp_path / "other.sqlite") as other:
        assert other.import_conversations(ANN, lines) == {"imported": 3, "already": 0, "bad": []}
        assert exported(other) == lines
        assert other.import_conversations(ANN, lines)["already"] == 3
        assert other.sft_rows(ANN).lines == store.sft_rows(ANN).lines
        assert other.preference_rows(ANN).lines == store.preference_rows(ANN).lines
        assert other.conversations.list(ANN, "frankia")["conversations"][0]["id"] == ids["conversation"]
        before = other.conversations.read(ANN, ids["conversation"])
        assert other.import_conversations(BOB, lines)["imported"] == 3, "under ids of their own"
        assert other.conversations.read(ANN, ids["conversation"]) == before
        assert len(other.conversations.list(BOB, "frankia")["conversations"]) == 1
        assert len(other.sft_rows(BOB).lines) == len(store.sft_rows(ANN).lines)


def unfinished(store: Store, conversation: str) -> None:
    from steelyard.serve.store.answers import Generation

    parent = next(iter(shown(store, conversation)))
    store.answers.begin(ANN, conversation, parent, Generation("tiny", "f00d"))


def test_lines_that_cannot_be_used_are_all_named_and_nothing_is_taken(store: Store) -> None:
    taught(store)
    good = json.loads(exported(store))
    store.erase(ANN, conversation=good["id"])
    first = good["messages"][0]
    note = {"id": "a" * 24, "name": "n.txt", "content": base64.b64encode(b"x").decode()}
    wrong: list[Any] = [
        {},
        [],
        good | {"version": 2},
        good | {"more": 1},
        good | {"id": "x"},
        good | {"head": "f" * 24},
        good | {"created": "yesterday"},
        good | {"title": "a\nb"},
        good | {"messages": [first | {"parent": "f" * 24}]},
        good | {"messages": [first, first]},
        good | {"messages": [first | {"role": "tool"}]},
        good | {"messages": [first | {"parts": []}]},
        good | {"messages": [first | {"edited_from": "f" * 24}], "feedback": [], "head": None},
        good | {"messages": [first | {"parts": [{"type": "file", "attachment": "f" * 24, "name": "x"}]}]},
        good | {"attachments": [note | {"content": "no base64!"}]},
        good | {"attachments": [note | {"content": base64.b64encode(b"\x7fELF").decode()}]},
        good | {"feedback": [good["feedback"][0] | {"message": "f" * 24}]},
        good | {"feedback": [good["feedback"][1] | {"value": 7}]},
    ]
    lines = [json.dumps(row) for row in wrong] + ["{", '{"a": NaN}', json.dumps(good | {"title": "\ud800"}), "[" * 5000, json.dumps(good)]
    content = "\n".join(lines).encode() + b"\n\xff\n"
    with pytest.raises(DataError) as error:
        store.import_conversations(ANN, content)
    assert f"{len(lines)} of {len(lines) + 1} lines cannot be used" in str(error.value)
    assert store.conversations.list(ANN)["conversations"] == []
    told = store.import_conversations(ANN, content, skip=True)
    assert told["imported"] == 1 and [row["line"] for row in told["bad"]] == [*range(1, len(lines)), len(lines) + 1]
    for empty in (b"", b"\n \n", b"x" * (LIMITS.import_bytes + 1)):
        with pytest.raises(SteelyardError):
            store.import_conversations(ANN, empty)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_line_is_imported_or_refused_with_a_reason(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    from steelyard.data.formats import UnusableRow
    from steelyard.serve.store.import_lines import read_line

    with pytest.raises(UnusableRow):
        read_line(json.dumps(value).encode(), LIMITS)


def test_a_line_that_holds_something_twice_is_refused_and_not_blamed_on_the_database(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    file = store.attachments.add(ANN, "a.txt", b"a")["id"]
    parts = [TextPart(type="text", text="hi"), FilePart(type="file", attachment=file, read="whole")]
    store.feedback.add(ANN, store.messages.add(ANN, conversation, None, "user", parts)["id"], "tag", "good")
    line = json.loads(next(store.export_conversations(ANN)))
    for key in ("feedback", "attachments", "messages"):
        with pytest.raises(DataError, match="twice"):
            store.import_conversations(BOB, json.dumps(line | {key: line[key] * 2}).encode())
    assert store.import_conversations(BOB, json.dumps(line).encode())["imported"] == 1
