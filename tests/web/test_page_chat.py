"""Talking to a model on the page: streams, waiting messages, branches, deletion."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.web.fake_api import Kept

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def say(tab: Any, text: str, key: str = "Control+Enter") -> None:
    """Writes a message; Control+Enter sends all that waits, Enter only adds."""
    box = tab.get_by_role("textbox", name="Message", exact=True)
    box.fill(text)
    box.press(key)


def answers(tab: Any) -> Any:
    return tab.get_by_role("article", name="Answer")


def texts(kept: Kept, conversation: str = "c1") -> list[str]:
    """What a person said in a conversation, in order of storing."""
    return [m["parts"][0]["text"] for m in kept.conversations[conversation]["messages"] if m["role"] == "user"]


def test_an_answer_streams_in_as_markdown_and_its_conversation_can_be_found_renamed_deleted_and_brought_back(tab, server, kept):
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    expect(answers(tab).get_by_role("cell", name="2850")).to_be_visible()
    expect(answers(tab).locator("strong")).to_have_text("Danube")
    expect(answers(tab)).to_contain_text("tokens/s")
    listed = tab.get_by_role("navigation", name="Conversations").get_by_role("link")
    expect(listed).to_have_text("Tell me about the Danube")
    assert tab.url.endswith("#/c/c1") and kept.asked[0]["model"] == "small-model"

    tab.get_by_role("searchbox", name="Search").fill("nowhere said")
    expect(tab.get_by_text("No conversation has that.")).to_be_visible()
    tab.get_by_role("searchbox", name="Search").fill("danube")
    expect(listed).to_have_count(1)
    listed.hover()
    tab.get_by_role("button", name="What to do with").click()
    tab.get_by_role("menuitem", name="Rename").click()
    tab.get_by_role("textbox", name="Title").fill("A river")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="A river")).to_be_visible()
    tab.get_by_role("searchbox", name="Search").fill("")
    tab.get_by_role("button", name="What to do with").click()
    tab.get_by_role("menuitem", name="Delete").click()
    expect(tab.get_by_text("What would you like to ask?")).to_be_visible()
    tab.get_by_role("button", name="Undo").click()
    expect(listed).to_have_text("A river")


def test_messages_wait_can_be_changed_and_are_sent_together(tab, server, kept):
    tab.goto(server)
    say(tab, "first", "Enter")
    say(tab, "secnd", "Enter")
    tab.get_by_role("button", name="Change before it is read").last.click()
    tab.get_by_role("textbox", name="Change before it is read").fill("second")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("button", name="Send all 2")).to_be_visible()
    tab.get_by_role("button", name="Send all 2").click()
    expect(answers(tab)).to_contain_text("Black Forest")
    assert texts(kept) == ["first", "second"] and len(kept.asked) == 1


def test_a_pause_ends_the_turn(tab, server, kept):
    tab.add_init_script("localStorage.clear()")  # the page's own pause, of a second and a half
    tab.clock.install(time=0)
    tab.goto(server)
    tab.clock.pause_at(600_000)
    say(tab, "just this", "Enter")
    waiting = tab.get_by_role("region", name="Messages that wait")
    expect(waiting).to_be_visible()
    tab.clock.run_for(1400)
    expect(waiting).to_be_visible()
    assert kept.asked == []
    tab.clock.run_for(200)
    tab.clock.resume()
    expect(answers(tab)).to_contain_text("Black Forest")
    assert texts(kept) == ["just this"]


def sent_and_left(tab: Any, server: str, kept: Kept) -> tuple[str, list[Any]]:
    """A first message is sent, and before its conversation is made another one is opened: that one's id, and the request that is held."""
    other = kept.conversation("Rivers")
    kept.add(other, "user", "Which is the longest?")
    kept.add(other, "assistant", "The Nile.")
    held: list[Any] = []
    tab.route("**/api/conversations", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    tab.get_by_role("navigation", name="Conversations").get_by_role("link", name="Rivers").click()
    expect(answers(tab)).to_have_text(re.compile("The Nile"))
    assert len(held) == 1
    return other, held


def test_a_first_message_goes_into_its_own_conversation_though_another_is_opened_before_that_one_is_made(tab, server, kept):
    other, held = sent_and_left(tab, server, kept)
    held[0].continue_()
    listed = tab.get_by_role("navigation", name="Conversations").get_by_role("link")
    expect(listed).to_have_count(2)
    assert tab.url.endswith(f"#/c/{other}")
    expect(answers(tab)).to_have_text(re.compile("The Nile"))
    assert texts(kept, other) == ["Which is the longest?"] and texts(kept, "c2") == ["Tell me about the Danube"]
    assert kept.asked == []  # nobody is there to read an answer
    listed.filter(has_text="Danube").click()
    tab.get_by_role("button", name="Answer it").click()
    expect(answers(tab)).to_contain_text("Danube")
    assert len(kept.asked) == 1


def test_what_is_edited_is_stored_in_its_conversation_though_another_is_opened_meanwhile(tab, server, kept):
    first, other = kept.conversation("Lakes"), kept.conversation("Rivers")
    for conversation, question, said in ((first, "Which is the deepst?", "Baikal."), (other, "Which is the longest?", "The Nile.")):
        kept.add(conversation, "user", question)
        kept.add(conversation, "assistant", said)
    held: list[Any] = []
    tab.route(f"**/api/conversations/{first}/messages", lambda route: held.append(route))
    tab.goto(f"{server}#/c/{first}")
    mine = tab.get_by_role("article", name="You")
    mine.hover()
    mine.get_by_role("button", name="Edit").click()
    tab.get_by_role("textbox", name="Edit").fill("Which is the deepest?")
    tab.get_by_role("button", name="Save and answer again").click()
    listed = tab.get_by_role("navigation", name="Conversations").get_by_role("link")
    listed.filter(has_text="Rivers").click()
    expect(answers(tab)).to_have_text(re.compile("The Nile"))
    assert len(held) == 1
    held[0].continue_()
    expect(tab.get_by_role("button", name="Undo")).to_be_visible()
    expect(answers(tab)).to_have_text(re.compile("The Nile"))
    assert texts(kept, first) == ["Which is the deepst?", "Which is the deepest?"] and texts(kept, other) == ["Which is the longest?"]
    edited = kept.conversations[first]["messages"][-1]
    assert kept.conversations[first]["head"] == edited["id"] and kept.asked == []


def test_what_could_not_be_stored_waits_in_its_own_conversation(tab, server, kept, complaints):
    _, held = sent_and_left(tab, server, kept)
    held[0].fulfill(status=507, json={"error": {"message": "The disk is full."}})
    expect(tab.get_by_text("The disk is full.")).to_be_visible()
    waiting = tab.get_by_role("region", name="Messages that wait")
    expect(waiting).to_have_count(0)
    tab.get_by_role("link", name="New conversation").click()
    expect(waiting).to_contain_text("Tell me about the Danube")
    complaints[:] = [line for line in complaints if "507" not in line]


def test_what_is_written_during_an_answer_waits_and_interrupting_sends_it(tab, server, kept):
    tab.goto(server)
    say(tab, "slow one please")
    expect(answers(tab)).to_contain_text("word word")
    say(tab, "now something else", "Enter")
    expect(tab.get_by_text("Waits until the answer is done.")).to_be_visible()
    assert texts(kept) == ["slow one please"]
    tab.get_by_role("button", name="Interrupt").click()
    expect(answers(tab).last).to_contain_text("Black Forest")
    expect(answers(tab).first).to_contain_text("stopped")
    expect(answers(tab).first).to_contain_text(re.compile(r"\d+ tokens?\b"))  # those that came
    assert texts(kept) == ["slow one please", "now something else"]
    assert "word" in kept.path(kept.asked[1]["parent"])[1]["parts"][0]["text"]


def test_an_answer_that_could_not_be_stored_says_why(tab, server):
    def full(route):
        told = '{"error": {"message": "the disk is full. Free some space.", "type": "server_error", "param": null, "code": null}}'
        route.fulfill(content_type="text/event-stream", body=f'data: {{"type": "text", "text": "Half"}}\n\ndata: {told}\n\n')

    tab.route("**/answer", full)
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    expect(tab.get_by_role("alert")).to_contain_text("the disk is full. Free some space.")
    expect(tab.get_by_role("group", name="This has no answer yet.")).to_contain_text("the disk is full")


def test_an_answer_that_breaks_off_says_why_and_keeps_what_came(tab, server):
    tab.goto(server)
    say(tab, "please fail")
    expect(tab.get_by_role("alert")).to_contain_text("The engine fell over")
    expect(answers(tab)).to_contain_text("The Danube rises")
    expect(answers(tab)).to_contain_text("broke off")


def test_a_question_that_got_no_answer_says_why_and_can_be_asked_again(tab, server, kept, complaints):
    tab.route("**/answer", lambda route: route.fulfill(status=400, json={"error": {"message": "It does not sample."}}), times=1)
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    unanswered = tab.get_by_role("group", name="This has no answer yet.")
    expect(unanswered).to_contain_text("It does not sample.")
    tab.reload()
    unanswered.get_by_role("button", name="Answer it").click()
    expect(answers(tab)).to_contain_text("Black Forest")
    expect(unanswered).to_have_count(0)
    assert texts(kept) == ["Tell me about the Danube"]
    complaints[:] = [line for line in complaints if "400" not in line]


def test_what_a_model_writes_can_do_no_harm(tab, server):
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(server)
    say(tab, "markup")
    answer = answers(tab)
    fine = answer.get_by_role("link", name="fine")
    expect(fine).to_have_attribute("rel", "noopener noreferrer nofollow")
    expect(fine).to_have_attribute("target", "_blank")
    assert fine.evaluate("node => getComputedStyle(node, '::after').content") == '" (example.org)"'
    expect(fine).to_have_attribute("data-host", "example.org")
    expect(answer.get_by_text("Image not loaded: a picture")).to_be_visible()
    expect(answer).to_contain_text("<script>")
    assert answer.locator("img, script, [onerror], a[href^=javascript]").count() == 0
    assert all(url.startswith(server) for url in asked) and "broken" not in tab.title()


def test_addresses_a_person_writes_are_links_that_show_where_they_lead_and_nothing_else_is(tab, server, kept):
    tab.goto(server)
    written = "see https://example.org/a_(b)?x=1#y.\njavascript:alert(1) <b>not bold</b> http://known.example@other.example/"
    say(tab, written)
    mine = tab.get_by_role("article", name="You")
    links = mine.get_by_role("link")
    expect(links).to_have_text(["https://example.org/a_(b)?x=1#y", "http://known.example@other.example/"])
    expect(links.first).to_have_attribute("href", "https://example.org/a_(b)?x=1#y")
    expect(links.last).to_have_attribute("data-host", "other.example")
    assert links.first.get_attribute("data-host") is None, "its own words say it"
    for link in links.all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow" and link.get_attribute("target") == "_blank"
    assert mine.locator(".said").text_content() == written and mine.locator("b").count() == 0
    assert texts(kept) == [written]


def test_only_the_answer_to_several_messages_says_that_they_were_read_as_one_turn(tab, server):
    tab.goto(server)
    say(tab, "one", "Enter")
    say(tab, "two")
    expect(answers(tab)).to_contain_text("2 messages were read as one turn.")
    expect(answers(tab)).to_contain_text("small-model")  # it has ended: what is sent before would wait
    say(tab, "slow and alone")
    expect(answers(tab).last).to_contain_text("word word")
    expect(answers(tab).last).not_to_contain_text("read as one turn")
    tab.get_by_role("textbox", name="Message", exact=True).press("Escape")
    expect(answers(tab).last).to_contain_text("stopped")
    expect(answers(tab).last).not_to_contain_text("read as one turn")
    expect(tab.get_by_role("textbox", name="Message", exact=True)).to_be_focused()


def test_an_edit_begins_a_branch_that_arrows_and_the_tree_walk(tab, server, kept):
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    expect(answers(tab)).to_contain_text("Black Forest")
    mine = tab.get_by_role("article", name="You")
    mine.hover()
    mine.get_by_role("button", name="Edit").click()
    tab.get_by_role("textbox", name="Edit").fill("Your sources?")
    tab.get_by_role("button", name="Save and answer again").click()
    expect(answers(tab)).to_contain_text("ten countries")
    assert kept.asked[1]["parent"] == "m3" and kept.message("m3")["edited_from"] == "m1"
    with tab.expect_response(lambda response: response.request.method == "PATCH"):  # the page shows it before the server knows
        tab.get_by_role("button", name="Previous branch").click()
    expect(answers(tab)).to_contain_text("Black Forest")
    assert kept.conversations["c1"]["head"] == "m2"
    tab.get_by_role("button", name="Branches", exact=True).click()
    expect(tab.get_by_role("treeitem")).to_have_count(4)
    tab.get_by_role("treeitem", name="ten countries").click()
    expect(answers(tab)).to_contain_text("ten countries")


def test_an_edit_keeps_what_else_was_said_in_the_same_turn(tab, server, kept):
    tab.goto(server)
    say(tab, "one", "Enter")
    say(tab, "two")
    expect(answers(tab)).to_contain_text("Black Forest")
    first = tab.get_by_role("article", name="You").first
    first.hover()
    first.get_by_role("button", name="Edit").click()
    tab.get_by_role("textbox", name="Edit").fill("uno")
    with tab.expect_response("**/answer"):  # until then the answer before the edit stands there, which says the same
        tab.get_by_role("button", name="Save and answer again").click()
    expect(tab.get_by_role("article", name="You")).to_have_count(2)
    expect(answers(tab)).to_contain_text("2 messages were read as one turn")
    expect(answers(tab)).to_contain_text("Black Sea")
    read = kept.path(kept.asked[1]["parent"])
    assert [m["parts"][0]["text"] for m in read] == ["uno", "two"] and [m["edited_from"] for m in read] == ["m1", "m2"]


def test_an_edit_only_keeps_what_follows_and_can_be_undone(tab, server, kept):
    talk = kept.conversation("talk")
    for role, text in (("user", "one"), ("assistant", "two"), ("user", "three")):
        kept.add(talk, role, text)
    tab.goto(f"{server}#/c/{talk}")
    first = tab.get_by_role("article", name="You").first
    first.hover()
    first.get_by_role("button", name="Edit").click()
    tab.get_by_role("textbox", name="Edit").fill("uno")
    tab.get_by_role("button", name="Save only").click()
    expect(first).to_contain_text("uno")
    expect(first).to_be_focused()
    expect(tab.get_by_role("article", name="You").last).to_contain_text("three")
    assert [m["parts"][0]["text"] for m in kept.path(kept.conversations[talk]["head"])] == ["uno", "two", "three"] and kept.asked == []
    tab.get_by_role("button", name="Undo").click()
    expect(first).to_contain_text("one")


def test_deleting_and_hiding_say_what_they_do_and_can_be_undone(tab, server, kept):
    talk = kept.conversation("talk")
    for role, text in (("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")):
        kept.add(talk, role, text)
    tab.goto(f"{server}#/c/{talk}")
    shown = tab.get_by_role("article")

    def act(place: int, name: str) -> None:
        shown.nth(place).hover()
        shown.nth(place).get_by_role("button", name="More to do").click()
        tab.get_by_role("menuitem", name=name).click()

    act(1, "Delete this message")
    expect(shown).to_have_count(3)
    tab.get_by_role("button", name="Undo").click()
    expect(shown).to_have_count(4)
    act(1, "Delete from here down")
    expect(shown).to_have_count(1)
    tab.get_by_role("button", name="Undo").click()
    expect(shown).to_have_count(4)
    act(0, "Hide from the model")
    expect(shown.first).to_contain_text("hidden from the model")
    assert kept.message("m1")["hidden"]
    tab.get_by_role("button", name="Undo").click()
    expect(shown.first).not_to_contain_text("hidden from the model")


def test_ten_thousand_messages_open_at_their_end_and_are_drawn_only_where_they_are_seen(tab, server, kept):
    talk = kept.conversation("long")
    for number in range(10_000):
        kept.add(talk, "assistant" if number % 2 else "user", f"message {number}")
    tab.goto(f"{server}#/c/{talk}")
    expect(tab.get_by_text("message 9999", exact=True)).to_be_in_viewport()
    assert tab.get_by_role("article").count() < 400
    tab.get_by_role("log").evaluate("node => node.scrollTo(0, 0)")
    expect(tab.get_by_text("message 0", exact=True)).to_be_in_viewport()
    assert tab.get_by_role("article").count() < 400
