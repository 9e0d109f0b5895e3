"""Pointing over the real server: a file is attached, a column chosen, and the answer is one of the figures that went along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steelyard.serve import page
from steelyard.serve.engine_process import ServedModel
from tests.serve.live_server import LiveServer
from tests.serve.test_places import PLANETS
from tests.serve.tiny_served import saved_talker
from tests.web.test_page_chat import answers, say

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


@pytest.fixture
def server(built: Path, chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a real server with a real store and a tiny model."""
    monkeypatch.setattr(page, "BUILT", built)
    model = ServedModel("tiny", str(saved_talker(tmp_path / "tiny", max_position_embeddings=2048)), slots=2, threads=1)
    running = LiveServer([model], store=tmp_path / "store.sqlite", runs=tmp_path / "runs")
    yield running.url
    running.close()


def test_a_column_of_an_attached_file_is_asked_about_and_the_answer_is_a_computed_figure(tab, server):
    tab.goto(server)
    file = {"name": "planets.csv", "mimeType": "text/csv", "buffer": PLANETS.encode()}
    tab.locator(".composer input[type=file][multiple]").set_input_files(file)
    tab.get_by_role("button", name="Show planets.csv as table and chart").click()
    tab.get_by_role("columnheader", name="mass").click()
    tab.get_by_role("button", name="column mass in planets.csv", exact=True).click()
    sentences = tab.get_by_label("What is sent along").text_content().split("from all 8 rows:\n")[1].split("\n")
    assert "The mean of mass is 333.327." in sentences
    tab.get_by_label("Answer with one of the figures").check()
    say(tab, "What is the mean of mass?")
    expect(tab.get_by_role("button", name="Good answer")).to_be_visible()  # it is complete and stored
    answer = answers(tab).last.locator(".prose").text_content().strip()
    assert answer in sentences
    tab.reload()
    expect(tab.get_by_role("article", name="You").get_by_role("button", name="column mass in planets.csv")).to_be_visible()
    answers(tab).last.get_by_role("button", name="Ask about a sentence").click()
    answers(tab).last.locator(".sentence").first.click()
    expect(tab.get_by_role("list", name="What you ask about")).to_contain_text(answer.split(".")[0][:20])
