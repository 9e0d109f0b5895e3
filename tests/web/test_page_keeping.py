"""What people keep on the page, over the real server and its store: choices, feedback, branches, exports, imports, and what is erased."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.serve.live_server import LiveServer
from tests.web.test_page_chat import answers, say

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


@pytest.fixture
def server(running: LiveServer) -> str:
    return running.url


def talk(running: LiveServer, title: str, *said: str) -> tuple[str, list[str]]:
    """A conversation of these texts, a person's and an answer's in turn; returns its id and those of its messages."""
    conversation = running.post("/api/conversations", {"title": title}).json()["id"]
    ids: list[str] = []
    for number, text in enumerate(said):
        body = {
            "parent": ids[-1] if ids else None,
            "role": "assistant" if number % 2 else "user",
            "parts": [{"type": "text", "text": text}],
        }
        ids.append(running.post(f"/api/conversations/{conversation}/messages", body).json()["id"])
    return conversation, ids


def messages(running: LiveServer, conversation: str) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in running.client.get(f"/api/conversations/{conversation}").json()["messages"]}


def listed(running: LiveServer, kind: str) -> list[dict[str, Any]]:
    return running.client.get("/api/feedback", params={"kind": kind}).json()["feedback"]


def act(tab: Any, row: Any, name: str) -> None:
    row.hover()
    row.get_by_role("button", name="More to do").click()
    tab.get_by_role("menuitem", name=name).click()


def test_two_answers_side_by_side_are_judged_and_the_choice_is_kept_changed_and_exported(tab, server, running):
    tab.goto(server)
    tab.get_by_role("button", name="How it answers").click()
    tab.get_by_label("Most tokens").fill("12")
    tab.get_by_label("Seed").fill("5")  # or now and then a random model answers nothing, of which nothing is learned
    tab.get_by_role("switch", name="Compare with a second answer").check()
    say(tab, "Which way?")
    both = tab.get_by_role("region", name="Two answers")
    expect(both.get_by_role("article")).to_have_count(2)
    left, right = (both.get_by_role("article").nth(place).bounding_box() for place in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"], "beside each other, with a panel open"
    words = both.locator(".prose").all_text_contents()
    assert words[0] != words[1], "the same settings, and a seed: two answers nevertheless"
    tab.reload()  # what waits for a choice still does, in the same order
    expect(both.get_by_role("article")).to_have_count(2)
    assert both.locator(".prose").all_text_contents() == words
    both.get_by_role("button", name="Good answer").last.click()
    both.get_by_role("button", name="This one is better").last.click()
    both.get_by_role("button", name="By far").click()
    expect(both).to_have_count(0)
    expect(answers(tab).get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    (choice,) = listed(running, "choice")
    assert choice["value"]["shown"][1] == choice["value"]["chosen"] and choice["value"]["strength"] == 3
    say(tab, "And now?")
    both.get_by_role("button", name="Both are bad").click()
    expect(both).to_have_count(0)
    assert listed(running, "choice")[0]["value"]["both_bad"]

    tab.get_by_role("link", name="Feedback").click()
    tab.get_by_label("Kind").select_option("choice")
    rows = tab.get_by_role("row")
    expect(rows).to_have_count(3)
    rows.last.get_by_role("button", name="Change").click()
    tab.get_by_role("combobox", name="Change").select_option("Slightly")
    expect(rows.last).to_contain_text("strength 1")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Preferences", exact=True).click()
    assert [(row["strength"], row["consent"]) for row in map(json.loads, download.value.path().read_text().splitlines())] == [(1, False)]
    tab.get_by_label("I may use these for training").check()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Preferences", exact=True).click()
    assert json.loads(download.value.path().read_text())["consent"] is True


def test_feedback_that_was_deleted_comes_back_and_is_the_same_in_list_and_conversation(tab, server, running):
    conversation, (_, answer) = talk(running, "Peaks", "The highest peak?", "It is K2.")
    running.post("/api/feedback", {"message": answer, "kind": "thumbs", "value": "down"})
    tab.goto(f"{server}/#/c/{conversation}")
    bad = answers(tab).get_by_role("button", name="Bad answer")
    expect(bad).to_have_attribute("aria-pressed", "true")
    tab.get_by_role("link", name="Feedback").click()
    tab.get_by_role("searchbox", name="Search feedback").fill("k2")
    row = tab.get_by_role("row").filter(has_text="It is K2.")
    row.get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)
    tab.go_back()
    expect(bad).to_have_attribute("aria-pressed", "false")
    tab.get_by_role("button", name="Undo").click()
    expect(bad).to_have_attribute("aria-pressed", "true")
    assert [one["value"] for one in listed(running, "thumbs") if one["message"] == answer] == ["down"]


def test_what_follows_an_edit_stays_hidden_and_keeps_how_it_was_made_and_steps_are_taken_back_one_by_one(tab, server, running):
    tab.goto(server)
    tab.get_by_role("button", name="How it answers").click()
    tab.get_by_label("Most tokens").fill("12")
    tab.get_by_label("Seed").fill("5")  # or now and then a random model says one token, or none
    say(tab, "one")
    expect(tab.get_by_role("button", name="Good answer")).to_be_visible()
    say(tab, "two")
    expect(tab.get_by_role("button", name="Good answer")).to_have_count(2)
    rows = tab.get_by_role("article")
    act(tab, rows.nth(2), "Hide from the model")
    expect(rows.nth(2)).to_contain_text("hidden from the model")
    rows.first.hover()
    rows.first.get_by_role("button", name="Edit").click()
    tab.get_by_role("textbox", name="Edit").fill("uno")
    tab.get_by_role("button", name="Save only").click()
    expect(rows.first).to_contain_text("uno")
    expect(rows.nth(1)).to_contain_text("tokens")
    expect(rows.nth(2)).to_contain_text("hidden from the model")
    expect(rows.filter(has_text="edited")).to_have_count(1)
    for _ in range(tab.get_by_role("region", name="Notices").get_by_role("button", name="Close").count()):
        tab.get_by_role("region", name="Notices").get_by_role("button", name="Close").first.click()
    tab.get_by_role("log").focus()
    tab.keyboard.press("Control+z")
    expect(rows.first).to_contain_text("one")
    expect(rows.nth(2)).to_contain_text("hidden from the model")
    tab.keyboard.press("Control+z")
    expect(rows.nth(2)).not_to_contain_text("hidden from the model")


def test_conversations_go_out_and_in_again_and_lines_that_cannot_be_used_are_told_or_left_out(tab, server, running, complaints):
    conversation, _ = talk(running, "To be moved", "A question to move", "An answer to move")
    tab.goto(server + "/#/feedback")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Conversations", exact=True).click()
    whole = download.value.path().read_text().splitlines()
    (line,) = [line for line in whole if json.loads(line)["id"] == conversation]
    running.post("/api/erase", {"conversation": conversation})
    picker = tab.locator("main input[type=file]")

    def give(*lines: str) -> None:
        with tab.expect_response("**/api/import*"):
            picker.set_input_files({"name": "moved.jsonl", "mimeType": "", "buffer": "\n".join(lines).encode()})

    give(line)
    expect(tab.get_by_text("1 conversation of moved.jsonl was taken over.")).to_be_visible()
    tab.get_by_role("navigation", name="Conversations").get_by_role("link", name="To be moved").click()
    expect(answers(tab)).to_contain_text("An answer to move")
    tab.go_back()
    expect(tab.get_by_role("main").get_by_role("heading", name="Feedback")).to_be_visible()
    asked: list[str] = []
    tab.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    give(line, '{"title": "no conversation"}')
    expect(tab.get_by_role("alert").filter(has_text="line 2")).to_be_visible()
    tab.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    give(line, '{"title": "no conversation"}')
    expect(tab.get_by_text("1 was here already. 1 line could not be used.")).to_be_visible()
    assert len(asked) == 2 and all("line 2" in question and "take over the others?" in question for question in asked)
    assert len(complaints) == 2 and all("400" in complaint for complaint in complaints)  # the browser's own words about the refusals
    complaints.clear()


def test_what_is_erased_for_good_is_gone_from_page_search_and_store(tab, server, running):
    conversation, (_, secret, _) = talk(running, "Kept", "An open question", "The secret is Xylophantes", "More")
    other, _ = talk(running, "Gone soon", "Xylophantes too")
    tab.goto(f"{server}/#/c/{conversation}")
    asked: list[str] = []
    tab.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    rows = tab.get_by_role("article")
    expect(rows).to_have_count(3)
    act(tab, rows.nth(1), "Erase for good")
    expect(rows).to_have_count(2)
    assert messages(running, conversation)[secret]["parts"] == []
    listed_ones = tab.get_by_role("navigation", name="Conversations").get_by_role("link")
    tab.get_by_role("searchbox", name="Search").fill("xylophantes")
    expect(listed_ones).to_have_text(["Gone soon"])
    listed_ones.first.hover()
    tab.get_by_role("button", name="What to do with “Gone soon”").click()
    tab.get_by_role("menuitem", name="Erase for good").click()
    expect(tab.get_by_text("No conversation has that.")).to_be_visible()
    assert running.client.get(f"/api/conversations/{other}").status_code == 404
    assert len(asked) == 2 and all("cannot be undone" in question for question in asked)
    assert tab.get_by_role("button", name="Undo").count() == 0 and re.search(r"xylophantes", tab.locator("main").inner_text(), re.I) is None


def test_a_notice_of_one_conversation_takes_back_what_was_done_there_from_any_other(tab, server, running):
    first, (question, _) = talk(running, "First", "Keep me", "Or me")
    second, _ = talk(running, "Second", "Elsewhere")
    tab.goto(f"{server}/#/c/{first}")
    rows = tab.get_by_role("article")
    expect(rows).to_have_count(2)
    act(tab, rows.first, "Delete from here down")
    expect(rows).to_have_count(0)
    tab.get_by_role("link", name="Second").click()
    expect(rows).to_have_text(re.compile("Elsewhere"))
    with tab.expect_response(lambda response: response.request.method == "PATCH") as patched:
        tab.get_by_role("button", name="Undo").click()
    assert patched.value.ok and first in patched.value.url
    expect(rows).to_have_text(re.compile("Elsewhere"))
    assert not messages(running, first)[question]["deleted"]
    assert running.client.get(f"/api/conversations/{second}").json()["head"] is not None
