"""The page over the real server: a real engine behind it, with a tiny random model, and a real store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steelyard.serve import page
from steelyard.serve.engine_process import ServedModel
from tests.serve.live_server import LiveServer
from tests.serve.tiny_served import saved_talker
from tests.web.test_page_chat import answers, say

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


@pytest.fixture
def server(built: Path, chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a real server that has a key."""
    monkeypatch.setattr(page, "BUILT", built)
    model = ServedModel("tiny", str(saved_talker(tmp_path / "tiny", max_position_embeddings=2048)), slots=2, threads=1)
    running = LiveServer([model], store=tmp_path / "store.sqlite", runs=tmp_path / "runs", key="a key of many letters")
    yield running.url
    running.close()


def test_a_person_talks_to_a_real_server_judges_edits_deletes_and_finds_all_of_it_again(tab, server):
    tab.goto(server)
    tab.get_by_label("This server wants its key.").fill("a key of many letters")
    tab.get_by_role("button", name="Use key").click()
    tab.get_by_role("button", name="Show how sure").click()
    tab.get_by_role("button", name="How it answers").click()
    tab.get_by_label("Most tokens").fill("24")
    tab.get_by_label("Seed").fill("5")  # or now and then a random model says nothing
    say(tab, "Hello", "Enter")
    say(tab, "there")
    answer = answers(tab).last
    expect(answer).to_contain_text(re.compile(r"\d+ tokens?"))
    expect(answer.locator("[data-token]").first).to_be_visible()
    expect(answer).not_to_contain_text("read as one turn")  # its chat template takes two messages in a row
    answer.get_by_role("button", name="Good answer").click()
    expect(answer.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")

    mine = tab.get_by_role("article", name="You")
    mine.last.hover()
    mine.last.get_by_role("button", name="Edit").click()
    tab.get_by_role("textbox", name="Edit").fill("again")
    tab.get_by_role("button", name="Save and answer again").click()
    expect(mine.last).to_contain_text("again")
    expect(answer).to_contain_text(re.compile(r"\d+ tokens?"))
    expect(answer.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "false")
    tab.reload()
    expect(mine).to_have_count(2)
    tab.get_by_role("button", name="Previous branch").click()
    expect(mine.last).to_contain_text("there")
    expect(answer.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    expect(answer.locator("[data-token]").first).to_be_visible()

    mine.first.hover()
    mine.first.get_by_role("button", name="More to do").click()
    tab.get_by_role("menuitem", name="Delete this message").click()
    expect(mine).to_have_count(1)
    tab.get_by_role("button", name="Undo").click()
    expect(mine).to_have_count(2)
    tab.get_by_role("link", name="Feedback").click()
    expect(tab.get_by_role("row")).to_have_count(2)


def test_a_report_behind_a_key_opens_in_its_frame_and_in_a_tab_until_the_person_signs_out(tab, server, tmp_path):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "report.html").write_text("<h1>What it weighed</h1>")
    tab.goto(server)
    tab.get_by_label("This server wants its key.").fill("a key of many letters")
    tab.get_by_role("button", name="Use key").click()
    tab.get_by_role("link", name="Reports").click()
    tab.get_by_role("link", name="first").click()
    expect(tab.frame_locator("iframe").get_by_role("heading", name="What it weighed")).to_be_visible()
    cookie = tab.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/api/reports")
    with tab.context.expect_page() as opened:
        tab.get_by_role("link", name="Open on its own").click()
    expect(opened.value.get_by_role("heading", name="What it weighed")).to_be_visible()
    tab.get_by_role("button", name="Sign out").click()
    expect(tab.get_by_label("This server wants its key.")).to_be_visible()
    assert opened.value.reload().status == 401 and not tab.context.cookies()
