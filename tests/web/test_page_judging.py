"""Seeing how sure a model is, judging it, pulling its levers; reports, charts and files."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.web.conftest import WEB
from tests.web.fake_api import CITED, SOURCES, Kept, tokens_of
from tests.web.test_page_chat import answers, say

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

SALES = 'month;"sales, gross";returns\nJanuary;"1.200,5";3\nFebruary;900,0;5\n'


def test_tokens_are_coloured_as_raw_probability_and_show_alternatives_to_pointer_and_keyboard(tab, server):
    tab.goto(server)
    tab.get_by_role("button", name="Show how sure").click()
    expect(tab.get_by_text("Raw token probability, not the chance of being right:")).to_be_visible()
    say(tab, "Tell me about the Danube")
    answer = answers(tab)
    expect(answer.get_by_text("raw: 40% per token on average")).to_be_visible()
    improbable = answer.locator("[data-token].p0").first
    expect(improbable).to_have_text("in ")
    improbable.hover()
    card = tab.get_by_role("status").filter(has_text="It could have said")
    expect(card).to_contain_text("Rhine")
    expect(card).to_contain_text("8%")
    tab.mouse.move(5, 5)
    expect(card).to_have_count(0)
    answer.get_by_role("group", name="Answer with token probabilities").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    expect(card).to_contain_text("62%")


def test_a_citation_opens_its_passage(tab, server):
    tab.goto(server)
    say(tab, "with sources")
    answers(tab).get_by_role("button", name="Open source 2").click()
    expect(tab.get_by_role("complementary", name="Source")).to_contain_text("Ten countries lie on the Danube.")


def test_two_answers_are_compared_without_names_and_the_choice_is_kept_with_its_strength(tab, server, kept):
    tab.goto(server)
    tab.get_by_role("button", name="How it answers").click()
    tab.get_by_role("switch", name="Compare with a second answer").check()
    tab.locator("#other-model").select_option("other-model")
    say(tab, "Tell me about the Danube")
    both = tab.get_by_role("region", name="Two answers")
    expect(both.get_by_role("article")).to_have_count(2)
    expect(both).not_to_contain_text("other-model")
    assert {asked["model"] for asked in kept.asked} == {"small-model", "other-model"}
    both.get_by_role("button", name="This one is better").last.click()
    with tab.expect_response(lambda response: response.request.method == "PATCH"):  # the page goes on with it before the server knows
        both.get_by_role("button", name="Clearly").click()
    expect(both).to_have_count(0)
    [choice] = kept.choices
    assert choice["turn"] == "m1" and {choice["chosen"], choice["rejected"]} == {"m2", "m3"}
    assert choice["shown"][1] == choice["chosen"] and set(choice["shown"]) == {"m2", "m3"}  # the last of the two, wherever it lay
    assert choice["strength"] == 2 and not choice["both_bad"] and kept.conversations["c1"]["head"] == choice["chosen"]
    say(tab, "and again")
    both.get_by_role("button", name="Both are bad").click()
    expect(both).to_have_count(0)
    assert kept.choices[1]["both_bad"] and kept.choices[1]["chosen"] is None
    say(tab, "once more")
    both.get_by_role("button", name="Do not choose").click()
    tab.reload()
    expect(tab.get_by_text("once more")).to_be_visible()
    expect(both).to_have_count(0)


def test_thumbs_tags_and_corrections_are_kept_found_changed_deleted_and_exported(tab, server, kept):
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    answer = answers(tab)
    answer.get_by_role("button", name="Bad answer").click()
    expect(answer.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    answer.get_by_role("button", name="Tags").click()
    tab.get_by_role("button", name="made up").click()
    expect(tab.get_by_role("button", name="Remove tag made up")).to_be_visible()
    tab.keyboard.press("Escape")
    answer.get_by_role("button", name="Correct this answer").click()
    tab.get_by_role("textbox", name="How should it have been").fill("It is 2850 km long.")
    tab.get_by_role("button", name="Keep correction").click()
    expect(tab.get_by_text("The correction was kept.")).to_be_visible()
    assert [(row["kind"], row["value"]) for row in kept.feedback.values()] == [
        ("thumbs", "down"),
        ("tag", "made up"),
        ("correction", "It is 2850 km long."),
    ]

    tab.get_by_role("link", name="Feedback").click()
    rows = tab.get_by_role("row")
    expect(rows).to_have_count(4)
    tab.get_by_label("Kind").select_option("correction")
    expect(rows).to_have_count(2)
    tab.get_by_role("button", name="Change").click()
    tab.get_by_role("textbox", name="Change").fill("2850 km.")
    tab.keyboard.press("Control+Enter")
    expect(rows.last).to_contain_text("2850 km.")
    tab.get_by_label("I may use these for training").check()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Corrections (sft)").click()
    assert "2850 km." in download.value.path().read_text()
    tab.get_by_role("button", name="Delete").click()
    expect(tab.get_by_text("Nothing like that.")).to_be_visible()
    assert len(kept.feedback) == 2


def slow_at_first(tab: Any, pattern: str) -> None:
    """The first request to such an address takes longer than those after it."""
    asked: list[Any] = []

    def handle(route: Any) -> None:
        asked.append(route)
        if len(asked) == 1:
            tab.wait_for_timeout(500)
        route.continue_()

    tab.route(pattern, handle)


def test_a_thumb_pressed_twice_in_a_hurry_is_taken_back_however_long_the_server_takes(tab, server, kept):
    slow_at_first(tab, "**/api/feedback*")
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    good, bad = (answers(tab).get_by_role("button", name=name) for name in ("Good answer", "Bad answer"))
    expect(good).to_be_visible()
    with tab.expect_response(lambda response: response.request.method == "DELETE"):
        for thumb in (bad, good, good):
            thumb.click()
    for thumb in (bad, good):
        expect(thumb).to_have_attribute("aria-pressed", "false")
    assert [row["value"] for row in kept.feedback.values()] == ["down"]  # a real server keeps one thumb: the other took its place


def test_the_branch_that_was_gone_to_last_is_the_one_that_stays(tab, server, kept):
    talk = kept.conversation("talk")
    question = kept.add(talk, "user", "Which?")["id"]
    first, *_ = [kept.add(talk, "assistant", text, question)["id"] for text in ("one", "two", "three")]
    tab.goto(f"{server}#/c/{talk}")
    patched: list[str] = []
    tab.on("response", lambda response: patched.append(response.url) if response.request.method == "PATCH" else None)
    slow_at_first(tab, "**/api/conversations/*")
    for shown in ("three", "two"):
        expect(answers(tab)).to_contain_text(shown)
        answers(tab).get_by_role("button", name="Previous branch").click()
    expect(answers(tab)).to_contain_text("one")
    for _ in range(600):
        if len(patched) == 2:
            break
        tab.wait_for_timeout(100)
    assert len(patched) == 2 and kept.conversations[talk]["head"] == first


def test_levers_are_waited_for_and_then_shown(tab, server):
    """A server that was just started takes some seconds to describe its levers."""
    held: list[Any] = []
    tab.route("**/api/levers", lambda route: held.append(route))
    tab.goto(server)
    tab.get_by_role("button", name="How it answers").click()
    panel = tab.get_by_role("complementary", name="How it answers")
    expect(panel.get_by_role("group", name="Levers").get_by_role("status")).to_contain_text("Their settings are being read")
    expect(panel.get_by_label("Most tokens")).to_be_enabled()
    held[0].continue_()
    expect(panel.get_by_role("switch", name="prompt_lookup")).to_be_visible()
    expect(panel.get_by_text("Their settings are being read")).to_have_count(0)


def test_a_dialog_gives_the_focus_back_to_what_opened_it(tab, server):
    tab.goto(server)
    say(tab, "Tell me about the Danube")
    correct = answers(tab).get_by_role("button", name="Correct this answer")
    for leave in (lambda: tab.keyboard.press("Escape"), lambda: tab.get_by_role("button", name="Cancel").click()):
        correct.press("Enter")
        expect(tab.get_by_role("textbox", name="How should it have been")).to_be_visible()
        leave()
        expect(correct).to_be_focused()


def test_a_lever_is_pulled_with_its_settings_for_this_conversation(tab, server, kept):
    tab.goto(server)
    tab.get_by_role("button", name="How it answers").click()
    tab.get_by_text("1 lever that is not for single answers").click()
    refused = tab.get_by_role("switch", name="quantize")
    expect(refused).to_be_disabled()
    refused_one = tab.locator(".lever.refused", has=refused)
    refused_one.get_by_text("Its settings").click()
    expect(refused_one).to_contain_text("bits = 8")
    expect(refused_one).to_contain_text("of each weight")
    expect(refused).to_have_accessible_description(re.compile(r"pulled when the server starts: steelyard serve --try quantize"))
    tab.get_by_role("switch", name="advice").check()
    tab.get_by_role("switch", name="prompt_lookup").check()
    tokens = tab.get_by_role("spinbutton", name="tokens", exact=True)
    tokens.fill("40")
    tokens.blur()
    expect(tokens).to_have_attribute("aria-invalid", "true")
    tokens.fill("4")
    tab.get_by_role("combobox", name="mode", exact=True).select_option("sampled")
    tab.get_by_role("checkbox", name="quick").check()
    say(tab, "Tell me about the Danube")
    expect(answers(tab)).to_contain_text("prompt_lookup")
    drawn, around = {"prompt_lookup": {"tokens": 4, "mode": "sampled", "quick": True}}, {"advice": {"text": "Be brief."}}
    assert kept.asked[0]["levers"] == [drawn, around], "in the order in which they act, however they were chosen"
    panel = tab.get_by_role("complementary")
    expect(panel).to_contain_text("Tokens per second")
    expect(panel).to_contain_text(re.compile(r"Energy of the answer\s*1.2 to 5.7 J \(modelled\)"))
    expect(answers(tab)).to_contain_text("1.2 to 5.7 J (modelled)")
    tab.reload()
    tab.get_by_role("button", name="How it answers").click()
    expect(tab.get_by_role("switch", name="prompt_lookup")).to_be_checked()


def test_a_file_goes_along_with_its_message(tab, server, kept):
    tab.goto(server)
    tab.locator("input[type=file]").set_input_files({"name": "notes über.txt", "mimeType": "text/plain", "buffer": b"hello"})
    expect(tab.get_by_role("list", name="Attached files")).to_contain_text("notes")
    say(tab, "read this")
    expect(tab.get_by_role("button", name="Save notes über.txt")).to_be_visible()
    assert kept.message("m1")["parts"][1] == {"type": "file", "attachment": "a1", "name": "notes über.txt"}


def test_a_persons_own_table_becomes_a_chart_without_a_model(tab, server, kept):
    tab.goto(f"{server}#/charts")
    tab.locator("input[type=file]").set_input_files({"name": "sales.csv", "mimeType": "text/csv", "buffer": SALES.encode()})
    expect(tab.get_by_role("heading", name="sales.csv")).to_be_visible()
    expect(tab.get_by_role("checkbox", name="sales, gross")).to_be_checked()
    expect(tab.locator("canvas")).to_be_visible()
    expect(tab.get_by_role("gridcell", name="1.200,5")).to_be_visible()
    assert kept.asked == [] and kept.attachments == {}


def test_reports_are_listed_and_open_in_a_frame_of_their_own(tab, server):
    tab.goto(f"{server}#/reports")
    tab.get_by_role("link", name="quickstart").click()
    expect(tab.frame_locator("iframe").get_by_role("heading", name="Report of quickstart")).to_be_visible()


def test_the_page_works_on_a_narrow_screen_and_by_keyboard(chromium: Any, server: str, kept: Kept):
    kept.conversation("an older one")
    context = chromium.new_context(viewport={"width": 390, "height": 700}, color_scheme="dark")
    tab = context.new_page()
    tab.goto(server)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    expect(tab.get_by_role("textbox", name="Message", exact=True)).to_be_focused()
    tab.get_by_role("button", name="Menu").click()
    tab.get_by_role("link", name="an older one").click()
    expect(tab.get_by_role("heading", name="an older one")).to_be_visible()
    tab.keyboard.press("Control+k")
    expect(tab.get_by_role("searchbox", name="Search")).to_be_focused()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 26)"
    context.close()


def test_the_look_is_the_systems_until_a_person_chooses_and_the_choice_is_kept(tab, server):
    tab.emulate_media(color_scheme="dark")
    tab.goto(server)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(ground)
    tab.get_by_role("button", name="Look: as the system has it").click()
    light = tab.evaluate(ground)
    assert light != dark
    tab.reload()
    tab.get_by_role("button", name="Look: light").click()
    assert tab.evaluate(ground) == dark
    tab.emulate_media(color_scheme="light")
    assert tab.evaluate(ground) == dark, "chosen, whatever the system has"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_assistive_technology_finds_no_fault(chromium: Any, server: str, kept: Kept, scheme: str):
    """Axe's rules of WCAG 2.2 A and AA: names, roles, contrast, landmarks, keyboard."""
    talk = kept.conversation("talk")
    kept.add(talk, "user", "with sources")
    generation = {"model": "small-model", "tokens": tokens_of(CITED), "reason": "stop", "citations": SOURCES, "usage": None}
    kept.add(talk, "assistant", CITED, generation=generation)
    kept.add(talk, "user", "hidden one", hidden=True)
    axe = (WEB / "node_modules" / "axe-core" / "axe.min.js").read_text()
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    tab = context.new_page()
    faults: list[str] = []

    def look(place: str) -> None:
        tab.evaluate(axe)
        found = tab.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']})")["violations"]
        faults.extend(f"{place}: {one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"])

    tab.goto(f"{server}#/c/{talk}")
    tab.get_by_role("button", name="Show how sure").click()
    expect(tab.locator("[data-token]").first).to_be_visible()
    tab.get_by_role("button", name="How it answers").click()
    tab.get_by_role("switch", name="prompt_lookup").check()
    look("chat with levers")
    tab.get_by_role("button", name="Branches", exact=True).click()
    tab.get_by_role("button", name="Tags").click()
    look("tree and dialog")
    for place in ("feedback", "reports", "charts") if scheme == "light" else ():
        tab.goto(f"{server}#/{place}")
        look(place)
    context.close()
    assert not faults, "\n".join(faults)
