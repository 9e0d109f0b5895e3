"""Pointing at things: cells, columns, rows and points of a person's table, tables and sentences of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.test_places import PLANETS
from tests.web.conftest import WEB
from tests.web.fake_api import Kept
from tests.web.test_page_chat import answers, say

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

HOSTILE = '\ufeff"<img src=x onerror=alert(1)>";"größe ""cm""";leer;jahr\r\n'
HOSTILE += '東京;1,5;;2001\r\n<b>fett</b>;NaN;;2002\r\nkurz\r\n"zwei\nZeilen";1e400;;2003;zu viel\r\n'
DATA = (
    'The longest is the **Danube**. It is "2850 km" long! Others are shorter.\n\n| river | km |\n| --- | --- |\n| Danube | 2850 |\n| Rhine | 1233 |\n\n'
    '```csv\ncity;people\nBerlin;3,7\nBremen;0,6\n```\n\n```json\n[{"a": "x", "b": 1}, {"a": "y", "b": 3}]\n```\n\n```python\nprint(1)\n```\n'
)


def attach(tab: Any, name: str = "planets.csv", content: str = PLANETS) -> None:
    tab.locator(".composer input[type=file]").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content.encode()})


def beside(tab: Any) -> Any:
    return tab.locator("aside.wide")


def grid(tab: Any) -> Any:
    return tab.get_by_role("grid")


def chips(tab: Any) -> Any:
    return tab.get_by_role("list", name="What you ask about").get_by_role("listitem")


def answered(kept: Kept, text: str) -> str:
    """A conversation with a stored answer; returns its id."""
    conversation = kept.conversation("Rivers")
    kept.add(conversation, "user", "Which rivers?")
    kept.add(conversation, "assistant", text, generation={"model": "small-model", "reason": "stop", "tokens": [], "citations": []})
    return conversation


def test_a_column_of_an_attached_table_is_asked_about_and_what_is_sent_is_shown(tab, server, kept):
    tab.goto(server)
    attach(tab)
    tab.get_by_role("button", name="Show planets.csv as table and chart").click()
    expect(beside(tab).locator("canvas")).to_be_visible()
    grid(tab).get_by_role("columnheader", name="mass").click()
    expect(chips(tab)).to_have_count(1)
    expect(grid(tab).get_by_role("columnheader", name="mass")).to_have_attribute("aria-selected", "true")
    grid(tab).get_by_role("gridcell", name="146").click()
    expect(chips(tab)).to_have_count(2)
    tab.get_by_role("button", name="column mass in planets.csv", exact=True).click()
    sent = tab.get_by_label("What is sent along").text_content()
    assert "The mean of mass is 333.327." in sent
    tab.get_by_role("button", name="Do not send moons of Saturn in planets.csv").click()
    expect(chips(tab)).to_have_count(1)
    expect(tab.get_by_role("button", name="Send the whole file too")).to_have_attribute("aria-pressed", "false")
    tab.get_by_label("Answer with one of the figures").check()
    say(tab, "What is the mean?")
    expect(answers(tab).last).to_contain_text("Danube")
    assert kept.asked[0]["settings"]["quote"] is True
    (message,) = [m for c in kept.conversations.values() for m in c["messages"] if m["role"] == "user"]
    place, text, file = message["parts"]
    assert place["text"] == sent and text["text"] == "What is the mean?" and file["read"] == "none"
    mine = tab.get_by_role("article", name="You")
    mine.get_by_role("button", name="column mass in planets.csv").click()
    assert mine.get_by_label("What is sent along").text_content() == sent
    expect(chips(tab)).to_have_count(0)
    tab.reload()
    expect(mine.get_by_role("button", name="column mass in planets.csv")).to_be_visible()
    mine.get_by_role("button", name="Show planets.csv as table and chart").click()
    expect(grid(tab)).to_be_visible()


def test_the_keyboard_reaches_every_cell_heading_and_row(tab, server):
    tab.goto(server)
    attach(tab)
    tab.get_by_role("button", name="Show planets.csv as table and chart").press("Enter")
    grid(tab).get_by_role("columnheader", name="planet").focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        tab.keyboard.press(key)
    expect(chips(tab)).to_have_text(["column mass in planets.csv"])
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", " "):
        tab.keyboard.press(key)
    expect(chips(tab).last).to_have_text("moons of Venus in planets.csv")
    expect(tab.locator("[aria-live]", has_text="moons of Venus goes with your next message.")).to_have_count(1)
    for key in ("Home", "Enter", "ArrowDown", "Shift+Enter"):
        tab.keyboard.press(key)
    expect(chips(tab).last).to_have_text("2 rows in planets.csv")
    for key in ("Control+End", "Enter"):
        tab.keyboard.press(key)
    expect(chips(tab).last).to_have_text("moons of Neptune in planets.csv")
    tab.keyboard.press("Enter")
    expect(chips(tab)).to_have_count(4)
    assert grid(tab).locator('[tabindex="0"]').count() == 1


def test_places_stand_in_the_order_of_pointing_however_long_the_server_takes_for_each(tab, server):
    """The first telling is answered last; and what is pointed at twice before it could be told is not asked about."""
    tab.goto(server)
    attach(tab)
    told = []

    def slow_at_first(route: Any) -> None:
        told.append(route)
        if len(told) == 1:
            tab.wait_for_timeout(500)
        route.continue_()

    tab.route("**/api/places", slow_at_first)
    tab.get_by_role("button", name="Show planets.csv as table and chart").click()
    for name in ("mass", "moons"):
        grid(tab).get_by_role("columnheader", name=name).click()
    for _ in range(2):
        grid(tab).get_by_role("gridcell", name="146").click()
    grid(tab).get_by_role("columnheader", name="planet").click()
    expect(chips(tab)).to_have_text(["column mass in planets.csv", "column moons in planets.csv", "column planet in planets.csv"])
    assert len(told) == 4


def test_a_point_of_a_chart_is_asked_about(tab, server):
    tab.goto(server)
    attach(tab, "two.csv", "name,value\nleft,3\nright,9\n")
    tab.get_by_role("button", name="Show two.csv as table and chart").click()
    canvas = beside(tab).locator("canvas")
    expect(canvas).to_be_visible()
    tab.wait_for_timeout(600)  # the drawing grows into place
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.75, "y": box["height"] * 0.7})
    expect(chips(tab)).to_have_text(["value at name right in two.csv"])
    canvas.click(position={"x": box["width"] * 0.3, "y": box["height"] * 0.85})
    expect(chips(tab).last).to_have_text("value at name left in two.csv")


def test_a_long_line_can_be_pressed_although_it_shows_no_points(tab, server):
    tab.goto(server)
    attach(tab, "long.csv", "day,value\n" + "".join(f"d{number},{number % 7}\n" for number in range(1000)))
    tab.get_by_role("button", name="Show long.csv as table and chart").click()
    canvas = beside(tab).locator("canvas")
    expect(canvas).to_be_visible()
    tab.wait_for_timeout(600)
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.5})
    expect(chips(tab)).to_have_count(1)
    expect(beside(tab)).to_contain_text("1,000 rows, the first 200 shown here.")


def test_a_persons_own_chart_asks_nobody_until_something_is_pointed_at(tab, server, kept):
    tab.goto(f"{server}#/charts")
    tab.set_input_files("main input[type=file]", {"name": "p.csv", "mimeType": "text/csv", "buffer": PLANETS.encode()})
    expect(grid(tab)).to_be_visible()
    assert kept.attachments == {}
    grid(tab).get_by_role("gridcell", name="5.97").click()
    tab.get_by_role("button", name="Ask in the conversation").click()
    expect(chips(tab)).to_have_text(["mass of Earth in p.csv"])
    say(tab, "Is that much?")
    expect(answers(tab).last).to_contain_text("Danube")
    assert len(kept.attachments) == 1


def test_tables_of_answers_are_drawn_and_pointed_into(tab, server, kept):
    tab.goto(f"{server}#/c/{answered(kept, DATA)}")
    draw = answers(tab).get_by_role("button", name="Draw as chart")
    expect(draw).to_have_count(3)
    for index, (cell, label) in enumerate((("2850", "km of Danube"), ("3,7", "people of Berlin"), ("3", "b of y"))):
        draw.nth(index).click()
        expect(beside(tab).locator("canvas")).to_be_visible()
        grid(tab).get_by_role("gridcell", name=cell, exact=True).click()
        expect(chips(tab)).to_have_count(index + 1)
        expect(chips(tab).last).to_contain_text(label)
    tab.get_by_role("button", name="Show how sure").click()
    draw.nth(1).click()
    grid(tab).get_by_role("columnheader", name="people").click()
    expect(chips(tab)).to_have_count(4)
    chips(tab).last.get_by_role("button").first.click()
    assert "4.3" in tab.get_by_label("What is sent along").text_content()


def test_a_sentence_of_an_answer_is_asked_about_by_pointer_and_keyboard(tab, server, kept):
    tab.goto(f"{server}#/c/{answered(kept, DATA)}")
    answers(tab).hover()
    answers(tab).get_by_role("button", name="Ask about a sentence").click()
    sentences = answers(tab).locator(".sentence[role=button]")
    expect(sentences).to_have_count(3)
    expect(sentences.first).to_be_focused()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    expect(chips(tab)).to_have_text(['“It is "2850 km" long!”'])
    answers(tab).get_by_text("Danube", exact=True).first.click()
    expect(chips(tab)).to_have_count(2)
    chips(tab).last.get_by_role("button").first.click()
    assert tab.get_by_label("What is sent along").text_content().endswith("> The longest is the **Danube**.")
    answers(tab).locator(".sentence[role=button]").first.focus()
    tab.keyboard.press("Escape")
    expect(answers(tab).locator(".sentence")).to_have_count(0)
    say(tab, "Is that so?")
    expect(answers(tab)).to_have_count(2)
    home = next(iter(kept.conversations.values()))
    places = [part for part in home["messages"][2]["parts"] if part["type"] == "place"]
    text = home["messages"][1]["parts"][0]["text"]
    assert [text[place["source"]["start"] : place["source"]["end"]] for place in places] == [
        'It is "2850 km" long!',
        "The longest is the **Danube**.",
    ]


def test_a_hostile_table_is_shown_as_it_is_and_computed_alike_on_both_sides(tab, server, kept):
    tab.goto(server)
    attach(tab, "böse <b>.csv", HOSTILE)
    tab.get_by_role("button", name="Show böse <b>.csv as table and chart").click()
    expect(grid(tab).get_by_role("columnheader")).to_have_text(
        ["Row", "<img src=x onerror=alert(1)>", 'größe "cm"', "leer", "jahr", "column 5"]
    )
    assert grid(tab).locator("img, b").count() == 0
    for cell in ("1,5", "<b>fett</b>", "zu viel", "1e400"):
        grid(tab).get_by_role("gridcell", name=cell, exact=True).click()
    for name in ("leer", "jahr"):
        grid(tab).get_by_role("columnheader", name=name).click()
    expect(chips(tab)).to_have_count(6)
    expect(tab.get_by_text("the server reads")).to_have_count(0)


def test_what_the_server_refuses_is_said_and_nothing_is_added(tab, server, kept):
    refusal = 'new Response(JSON.stringify({error: {message: "Other tables are being read."}}), {status: 429})'
    tab.add_init_script(
        f"const real = fetch; fetch = (path, init) => path === '/api/places' ? Promise.resolve({refusal}) : real(path, init)"
    )
    tab.goto(server)
    attach(tab)
    tab.get_by_role("button", name="Show planets.csv as table and chart").click()
    expect(grid(tab)).to_be_visible()
    problems = tab.get_by_text("Other tables are being read.")
    grid(tab).get_by_role("gridcell", name="5.97").click()
    expect(problems).to_be_visible()
    expect(chips(tab)).to_have_count(0)


def test_an_edited_message_keeps_its_places_and_how_it_was_to_be_answered(tab, server, kept):
    tab.goto(server)
    attach(tab)
    tab.get_by_role("button", name="Show planets.csv as table and chart").click()
    grid(tab).get_by_role("columnheader", name="moons").click()
    expect(chips(tab)).to_have_count(1)
    tab.get_by_label("Answer with one of the figures").check()
    say(tab, "How many?")
    expect(answers(tab)).to_have_count(1)
    mine = tab.get_by_role("article", name="You")
    mine.hover()
    mine.get_by_role("button", name="Edit").click()
    tab.get_by_role("textbox", name="Edit").fill("How many in all?")
    with tab.expect_response("**/answer"):
        tab.get_by_role("button", name="Save and answer again").click()
    expect(mine).to_contain_text("How many in all?")
    expect(mine.get_by_role("button", name="column moons in planets.csv")).to_be_visible()
    expect(answers(tab)).to_have_count(1)
    assert [asked["settings"].get("quote") for asked in kept.asked] == [True, True]
    answers(tab).get_by_role("button", name="Answer again").click()
    expect(tab.get_by_text("2/2").last).to_be_visible()
    assert kept.asked[2]["settings"]["quote"] is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_assistive_technology_finds_no_fault_where_things_are_pointed_at(chromium: Any, server: str, kept: Kept, scheme: str):
    """Axe's rules of WCAG 2.2 A and AA, over the grid, its chart, what is sent along and the sentences of an answer."""
    axe = (WEB / "node_modules" / "axe-core" / "axe.min.js").read_text()
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(f"{server}#/c/{answered(kept, DATA)}")
    answers(tab).get_by_role("button", name="Draw as chart").first.click()
    grid(tab).get_by_role("columnheader", name="km").click()
    chips(tab).get_by_role("button").first.click()
    answers(tab).get_by_role("button", name="Ask about a sentence").click()
    expect(answers(tab).locator(".sentence").first).to_be_visible()
    tab.evaluate(axe)
    found = tab.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']})")["violations"]
    context.close()
    assert [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]] == []
