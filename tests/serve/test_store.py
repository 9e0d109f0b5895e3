"""Conversations: a tree that never changes, what is deleted and comes back, and who sees what. On SQLite and on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import DataError, SteelyardError
from steelyard.serve.store.errors import NotFoundError, TooLargeError
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.parts import FilePart, TextPart
from steelyard.serve.store.search import fold
from steelyard.serve.store.store import Store
from steelyard.serve.store.tree import Node, Tree
from steelyard.serve.store.values import iso, moment
from tests.serve.stores import ANN, BOB, TOKENS, answer, say, shown, text_of


def test_what_is_said_is_read_again_with_how_the_answer_was_made(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    question = say(store, conversation, "The capital of France? \0 ß 東京 \U0001f5fc")
    reply = answer(store, conversation, "Paris", question)
    read = store.conversations.read(ANN, conversation)
    assert [text_of(message) for message in read["messages"]] == ["The capital of France? \0 ß 東京 \U0001f5fc", "Paris"]
    assert read["head"] == reply and read["messages"][1]["parent"] == question
    made = read["messages"][1]["generation"]
    assert made["model"] == "tiny" and made["fingerprint"] == "f00d" and made["reason"] == "stop"
    assert made["levers"] == [{"prompt": {"text": "Be brief"}}] and made["settings"] == {"temperature": 0.5, "stop": []}
    assert made["tokens"] == TOKENS == store.answers.tokens(ANN, reply)["tokens"]
    assert store.conversations.read(ANN, conversation, tokens=False)["messages"][1]["generation"]["tokens"] == []


def test_an_edit_is_a_sibling_and_the_branch_before_it_stays(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    first = say(store, conversation, "one")
    reply = answer(store, conversation, "first reply", first)
    edited = say(store, conversation, "two", edited_from=first)
    messages = shown(store, conversation)
    assert messages[edited]["edited_from"] == first and messages[edited]["parent"] is None
    assert text_of(messages[first]) == "one" and messages[reply]["parent"] == first
    assert store.conversations.change(ANN, conversation, {"head": reply})["head"] == reply


def test_a_copy_below_an_edit_stays_hidden_and_keeps_how_its_answer_was_made(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    first = say(store, conversation, "one")
    reply = answer(store, conversation, "first reply", first)
    secret = say(store, conversation, "not for the model", reply)
    store.messages.hide(ANN, secret, True)
    edited = say(store, conversation, "uno", edited_from=first)
    copy = say(store, conversation, "first reply", edited, "assistant", edited_from=reply)
    own = say(store, conversation, "my own reply", edited, "assistant", edited_from=reply)
    below = say(store, conversation, "not for the model", copy, edited_from=secret)
    messages = shown(store, conversation)
    assert messages[copy]["generation"] == messages[reply]["generation"] and messages[copy]["generation"]["tokens"] == TOKENS
    assert messages[own]["generation"] is None, "no model wrote it"
    assert messages[below]["hidden"] and not messages[edited]["hidden"]
    assert [node.id for node, _ in store.messages.context(ANN, conversation, below)] == [edited, copy]


def test_other_words_in_a_message_s_place_keep_what_follows_as_copies_and_the_branch_before_them(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    top = say(store, conversation, "top")
    first = say(store, conversation, "one", top)
    gone = say(store, conversation, "gone", first)
    reply = answer(store, conversation, "a reply about pelicans", gone)
    answer(store, conversation, "another reply", gone)
    file = store.attachments.add(ANN, "n.txt", b"text")["id"]
    parts = [TextPart(type="text", text="and this"), FilePart(type="file", attachment=file, read="whole")]
    also = store.messages.add(ANN, conversation, reply, "user", parts)["id"]
    store.messages.hide(ANN, also, True)
    store.messages.delete(ANN, gone, "this")
    before = shown(store, conversation)
    made = store.messages.rewrite(ANN, conversation, first, [TextPart(type="text", text="uno")], also)
    after = shown(store, conversation)
    assert {id: after[id] for id in before} == before, "nothing that was said is changed"
    read = store.conversations.read(ANN, conversation)
    assert made["copied"] == 2 and read["head"] == made["head"] and len(after) == len(before) + 3
    copy = after[after[made["head"]]["parent"]]
    assert [text_of(after[made["message"]]), text_of(copy), text_of(after[made["head"]])] == ["uno", "a reply about pelicans", "and this"]
    assert (after[made["message"]]["parent"], copy["parent"], copy["edited_from"]) == (top, made["message"], reply)
    assert copy["generation"] == before[reply]["generation"] and copy["generation"]["tokens"] == TOKENS
    assert after[made["head"]]["hidden"] and after[made["head"]]["parts"][1]["attachment"] == file
    assert [node.id for node, _ in store.messages.context(ANN, conversation, made["head"])] == [top, made["message"], copy["id"]]
    store.messages.delete(ANN, reply, "this")
    assert store.conversations.list(ANN, "pelicans")["conversations"], "the copy is found by its words"
    with pytest.raises(DataError, match="does not stand below"):
        store.messages.rewrite(ANN, conversation, first, [TextPart(type="text", text="x")], top)


def test_deleting_one_message_moves_its_children_up_and_undoing_moves_them_back(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    a = say(store, conversation, "a")
    b = say(store, conversation, "b", a)
    c = say(store, conversation, "c", b)
    before = store.conversations.read(ANN, conversation)["messages"]
    undo = store.messages.delete(ANN, b, "this")["undo"]
    messages = shown(store, conversation)
    assert messages[b]["deleted"] and messages[b]["parts"] == [] and messages[b]["undo"] == undo
    assert messages[c]["parent"] == a and not messages[c]["deleted"]
    assert [node.id for node, _ in store.messages.context(ANN, conversation, c)] == [a, c]
    store.messages.undo(ANN, undo)
    assert store.conversations.read(ANN, conversation)["messages"] == before


def test_deletions_are_undone_in_any_order(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    a = say(store, conversation, "a")
    b = say(store, conversation, "b", a)
    c = say(store, conversation, "c", b)
    below = store.messages.delete(ANN, c, "this")["undo"]
    above = store.messages.delete(ANN, b, "below")["undo"]
    assert store.conversations.read(ANN, conversation)["head"] == a
    store.messages.undo(ANN, below)
    assert shown(store, conversation)[c]["deleted"], "the deletion above still covers it"
    store.messages.undo(ANN, above)
    store.messages.undo(ANN, above)
    assert not any(message["deleted"] for message in shown(store, conversation).values())
    assert store.conversations.read(ANN, conversation)["head"] == c


def test_hidden_messages_stay_but_models_do_not_read_them(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    a = say(store, conversation, "a")
    b = say(store, conversation, "b", a)
    undo = store.messages.hide(ANN, a, True)["undo"]
    assert shown(store, conversation)[a]["hidden"] and text_of(shown(store, conversation)[a]) == "a"
    assert [node.id for node, _ in store.messages.context(ANN, conversation, b)] == [b]
    store.messages.undo(ANN, undo)
    assert [node.id for node, _ in store.messages.context(ANN, conversation, b)] == [a, b]


def test_nothing_is_said_below_what_is_deleted(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    a = say(store, conversation, "a")
    store.messages.delete(ANN, a, "this")
    with pytest.raises(NotFoundError):
        say(store, conversation, "b", a)
    with pytest.raises(NotFoundError):
        store.messages.delete(ANN, a, "this")


def test_a_deleted_conversation_is_gone_until_it_is_restored(store: Store) -> None:
    conversation = store.conversations.create(ANN, "Travel")["id"]
    a = say(store, conversation, "a")
    undo = store.conversations.delete(ANN, conversation)["undo"]
    assert store.conversations.list(ANN)["conversations"] == []
    for gone in (lambda: store.conversations.read(ANN, conversation), lambda: store.messages.hide(ANN, a, True)):
        with pytest.raises(NotFoundError):
            gone()
    assert store.conversations.restore(ANN, conversation)["title"] == "Travel"
    store.conversations.delete(ANN, conversation)
    store.messages.undo(ANN, undo)
    assert store.messages.undo(ANN, undo)["undone"] == "conversation"


def test_what_is_somebody_elses_is_as_unknown_as_what_never_was(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    a = say(store, conversation, "a")
    reply = answer(store, conversation, "b", a)
    file = store.attachments.add(ANN, "n.txt", b"text")["id"]
    thumbs = store.feedback.add(ANN, reply, "thumbs", "up")["id"]
    undo = store.messages.hide(ANN, a, True)["undo"]
    mine = store.conversations.create(BOB)["id"]
    text = [TextPart(type="text", text="x")]
    attempts = [
        lambda id: store.conversations.read(BOB, id or conversation),
        lambda id: store.conversations.change(BOB, id or conversation, {"title": "x"}),
        lambda id: store.conversations.delete(BOB, id or conversation),
        lambda id: store.conversations.restore(BOB, id or conversation),
        lambda id: store.conversations.change(BOB, mine, {"head": id or a}),
        lambda id: store.messages.add(BOB, id or conversation, None, "user", text),
        lambda id: store.messages.add(BOB, mine, id or a, "user", text),
        lambda id: store.messages.add(BOB, mine, None, "user", text, edited_from=id or a),
        lambda id: store.messages.add(BOB, mine, None, "user", [FilePart(type="file", attachment=id or file)]),
        lambda id: store.messages.rewrite(BOB, id or conversation, a, text, a),
        lambda id: store.messages.rewrite(BOB, mine, id or a, text, a),
        lambda id: store.messages.delete(BOB, id or a, "below"),
        lambda id: store.messages.hide(BOB, id or a, True),
        lambda id: store.messages.undo(BOB, id or undo),
        lambda id: store.messages.context(BOB, id or conversation, a),
        lambda id: store.answers.tokens(BOB, id or reply),
        lambda id: store.attachments.read(BOB, id or file),
        lambda id: store.feedback.add(BOB, id or reply, "thumbs", "up"),
        lambda id: store.feedback.change(BOB, id or thumbs, "down"),
        lambda id: store.feedback.delete(BOB, id or thumbs),
        lambda id: store.feedback.choose(BOB, id or conversation, a, reply, None, 1),
        lambda id: store.erase(BOB, conversation=id or conversation),
        lambda id: store.erase(BOB, message=id or a),
    ]
    for attempt in attempts:
        told = []
        for id in (None, "0" * 24, "", "x" * 5000, "\0", "\ud800", "'; --"):
            with pytest.raises(NotFoundError) as error:
                attempt(id) if id is None else attempt(id or " ")
            told.append(str(error.value))
        assert len(set(told)) == 1
    assert store.conversations.list(BOB, "a")["conversations"] == [] and store.feedback.list(BOB)["feedback"] == []
    assert list(store.export_conversations(BOB))[0].count('"messages":[]') == 1


def test_lists_come_in_pages_newest_first(store: Store) -> None:
    ids = [store.conversations.create(ANN, f"number {number}")["id"] for number in range(7)]
    found, cursor = [], None
    while True:
        page = store.conversations.list(ANN, cursor=cursor)
        found += [row["id"] for row in page["conversations"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == ids[::-1]
    for wrong in ("x", "12-", "9" * 30 + "-" + "0" * 24, "\0"):
        with pytest.raises(DataError):
            store.conversations.list(ANN, cursor=wrong)


def test_a_title_is_what_was_said_first_until_one_is_given(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    assert store.conversations.list(ANN)["conversations"][0]["title"] == ""
    first = say(store, conversation, "Tell  me\nabout " + "rivers " * 20)
    say(store, conversation, "and lakes", first)
    listed = store.conversations.list(ANN)["conversations"][0]
    assert listed["title"].startswith("Tell me about rivers") and listed["title"].endswith("…") and len(listed["title"]) <= 60
    assert listed["messages"] == 2
    assert store.conversations.change(ANN, conversation, {"title": " Rivers "})["title"] == "Rivers"
    for wrong in ("", " ", "a\nb", "\0", "\ud800", "x" * 201):
        with pytest.raises(DataError):
            store.conversations.change(ANN, conversation, {"title": wrong})


def test_search_finds_words_in_titles_and_messages_whatever_their_case(store: Store) -> None:
    rivers = store.conversations.create(ANN, "Große Flüsse")["id"]
    said = say(store, rivers, "The Danube is 100% wet, the ﬁsh know_it")
    store.conversations.create(ANN, "Lakes")
    find = lambda q: [row["id"] for row in store.conversations.list(ANN, q)["conversations"]]  # noqa: E731
    for query in ("GROSSE", "flüsse gro", "danube WET", "100%", "fish", "know_it"):
        assert find(query) == [rivers], query
    for query in ("danube lakes", "100_", "d%e", "knowXit", "\\"):
        assert find(query) == [], query
    undo = store.messages.delete(ANN, said, "this")["undo"]
    assert find("danube") == []
    store.messages.undo(ANN, undo)
    assert find("danube") == [rivers]
    for wrong in ("x" * 201, "\ud800"):
        with pytest.raises(DataError):
            find(wrong)


def test_messages_that_say_nothing_or_too_much_are_refused(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    first = say(store, conversation, "x")
    for parts in (
        [],
        [TextPart(type="text", text=" \n")],
        [TextPart(type="text", text="x" * 1_000_001)],
        [TextPart(type="text", text="\ud800")],
    ):
        with pytest.raises(DataError):
            store.messages.add(ANN, conversation, None, "user", parts)
    with pytest.raises(DataError, match="begin a conversation"):
        say(store, conversation, "Be brief", first, "system")
    assert len(shown(store, conversation)) == 1


def test_a_conversation_takes_only_so_many_messages(place: str) -> None:
    with Store(place, StoreLimits(messages=2)) as store:
        conversation = store.conversations.create(ANN)["id"]
        parent = None
        for text in "ab":
            parent = say(store, conversation, text, parent)
        with pytest.raises(TooLargeError):
            say(store, conversation, "c", parent)


def test_many_writers_at_once_lose_nothing(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    root = say(store, conversation, "root")

    def write(number: int) -> str:
        other = store.conversations.create(ANN, f"c{number}")["id"]
        say(store, other, "x")
        return say(store, conversation, f"text {number}", root)

    with ThreadPoolExecutor(6) as pool:
        written = list(pool.map(write, range(18)))
    assert set(written) | {root} == set(shown(store, conversation))
    created = [message["created"] for message in shown(store, conversation).values()]
    assert created == sorted(created)


def test_an_answer_erased_while_it_is_written_leaves_nothing(store: Store) -> None:
    from steelyard.serve.store.answers import Generation

    conversation = store.conversations.create(ANN)["id"]
    question = say(store, conversation, "q")
    made = Generation("tiny", "f00d")
    id = store.answers.begin(ANN, conversation, question, made)
    assert shown(store, conversation)[id]["generation"]["reason"] is None
    store.erase(ANN, message=id)
    assert not store.answers.finish(ANN, conversation, id, "secret", made)
    store.erase(ANN, conversation=conversation)
    assert not store.answers.finish(ANN, conversation, id, "secret", made)


def test_models_may_say_what_utf8_cannot_hold(store: Store) -> None:
    conversation = store.conversations.create(ANN)["id"]
    reply = answer(store, conversation, "half \ud83d of a pair", say(store, conversation, "q"))
    assert text_of(shown(store, conversation)[reply]) == "half ? of a pair"


def test_a_store_is_found_again_as_it_was_left(place: str) -> None:
    with Store(place) as store:
        conversation = store.conversations.create(ANN, "kept", consent=True)["id"]
        answer(store, conversation, "b", say(store, conversation, "a"))
        before = store.conversations.read(ANN, conversation)
    with Store(place) as store:
        assert store.conversations.read(ANN, conversation) == before and before["consent"]


def test_places_that_are_no_store_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no database at all, but long enough to be read as a page " * 40)
    for wrong in (text, tmp_path, "mysql://host/name", "://", "postgresql://nobody@127.0.0.1:1/none"):
        with pytest.raises(SteelyardError):
            Store(wrong)


def test_times_are_read_back_to_the_microsecond() -> None:
    for microseconds in (0, 1, 1_763_784_000_123_456, 253_402_300_799_999_999):
        assert moment(iso(microseconds)) == microseconds
    assert moment("2026-01-01T01:00:00+01:00") == moment("2026-01-01T00:00:00")


@given(st.text(), st.text(), st.text())
def test_a_folded_text_holds_its_folded_words(before: str, word: str, after: str) -> None:
    assert fold(word) in fold(f"{before} {word} {after}")


@given(st.data())
def test_trees_lead_every_message_to_a_beginning(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    nodes = [
        Node(str(number), data.draw(st.sampled_from([None, *map(str, range(number))])), number, "user", False, data.draw(st.booleans()))
        for number in range(count)
    ]
    tree = Tree(nodes)
    for node in nodes:
        parent = tree.parent_of(node.id)
        assert parent is None or not tree.nodes[parent].deleted and parent in ancestors(tree, node.id)
        if not node.deleted:
            path = tree.path(node.id)
            assert path[-1] is node and not any(place.deleted for place in path)
        assert tree.below(node.id)[0] == node.id and all(node.id in [below, *ancestors(tree, below)] for below in tree.below(node.id))
    head = tree.head(data.draw(st.sampled_from([None, *tree.nodes])))
    assert (head is None) == all(node.deleted for node in nodes)


def ancestors(tree: Tree, id: str) -> list[str]:
    found = []
    while (parent := tree.nodes[id].parent) is not None:
        found.append(parent)
        id = parent
    return found
