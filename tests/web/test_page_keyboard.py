"""The page without a mouse: what had the focus may go, and the focus is somewhere near all the same; panels give it back."""

from __future__ import annotations

import re

import pytest

from tests.web.test_page_chat import answers, say

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def focus_to(tab, locator) -> None:
    """Walks there with Tab; it must be on the way round."""
    for _ in range(100):
        tab.keyboard.press("Tab")
        if locator.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"Tab never reaches {locator}")


def is_somewhere(tab) -> None:
    """What is nearest takes a focus that was lost, in its next task."""
    tab.wait_for_function("document.activeElement !== document.body")


def test_the_focus_is_never_lost_with_what_had_it(tab, server):
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    expect(answers(tab)).to_contain_text("Black Forest")
    focus_to(tab, answers(tab).get_by_role("button", name="Answer again"))
    tab.keyboard.press("Enter")
    expect(answers(tab).get_by_text("2/2")).to_be_visible()
    is_somewhere(tab)  # the answer that was asked again is gone with its button
    previous = answers(tab).get_by_role("button", name="Previous branch")
    focus_to(tab, previous)
    tab.keyboard.press("Enter")
    expect(answers(tab).get_by_text("1/2")).to_be_visible()
    expect(answers(tab)).to_be_focused()  # the branch that took the other one's place
    focus_to(tab, answers(tab).get_by_role("button", name="More to do with this message"))
    tab.keyboard.press("Enter")
    tab.get_by_role("menuitem", name=re.compile("Delete this message")).press("Enter")
    expect(answers(tab)).to_have_count(0)
    is_somewhere(tab)
    focus_to(tab, tab.get_by_role("button", name="Undo"))
    tab.keyboard.press("Enter")
    expect(answers(tab)).to_have_count(1)
    is_somewhere(tab)


def test_a_panel_takes_the_focus_and_gives_it_back(tab, server):
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    expect(answers(tab)).to_contain_text("Black Forest")
    for name in ("How it answers", "Branches"):
        opener, panel = tab.get_by_role("button", name=name), tab.get_by_role("complementary", name=name)
        opener.press("Enter")
        expect(panel).to_be_focused()
        tab.keyboard.press("Tab")
        tab.keyboard.press("Escape")
        expect(panel).to_have_count(0)
        expect(opener).to_be_focused()
    tab.set_viewport_size({"width": 390, "height": 800})
    menu = tab.get_by_role("button", name="Menu")
    menu.press("Enter")
    expect(tab.get_by_role("link", name="Steelyard")).to_be_focused()
    tab.keyboard.press("Escape")
    expect(menu).to_be_focused()
    menu.press("Enter")
    tab.get_by_role("link", name="Feedback").press("Enter")
    expect(tab.get_by_role("heading", name="Feedback")).to_be_visible()
    expect(tab.get_by_role("main")).to_be_focused()


def test_what_was_said_of_a_page_goes_with_it(tab, server):
    tab.goto(server)
    say(tab, "please fail")
    expect(tab.get_by_role("alert")).to_contain_text("The engine fell over")
    tab.get_by_role("link", name="Charts").click()
    expect(tab.get_by_role("heading", name="Charts")).to_be_visible()
    expect(tab.get_by_role("alert")).to_have_count(0)


def test_a_field_that_appears_has_the_focus_and_leaves_it_at_its_row(tab, server):
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    answers(tab).get_by_role("button", name="Good answer").press("Enter")
    expect(answers(tab).get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    tab.get_by_role("link", name="Feedback").press("Enter")
    change = tab.get_by_role("button", name="Change")
    change.press("Enter")
    expect(tab.get_by_role("combobox", name="Change")).to_be_focused()
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("link", name="open")).to_be_focused()
    tab.get_by_role("button", name=re.compile("What to do with")).press("Enter")
    tab.get_by_role("menuitem", name="Rename").press("Enter")
    expect(tab.get_by_role("textbox", name="Title")).to_be_focused()
    tab.keyboard.type("Rivers")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("link", name="Rivers")).to_be_focused()
