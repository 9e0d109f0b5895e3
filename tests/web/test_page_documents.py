"""Documents on the page over the real server: read when attached, indexed beside the answers, searched, and shown with the reasons."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from tests.serve.drawn import picture
from tests.serve.live_server import LiveServer
from tests.web.test_page_chat import answers, say
from tests.written_documents import docx, pdf

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

RIVERS = (
    "# Rivers of Orvia 🐟🐟\n\nThe Zvarna is a river in Orvia. It is 412 km long and ends in Lake Tessel.\n\n"
    + "Rivers carry water. " * 300
)


@pytest.fixture
def server(running: LiveServer) -> str:
    return running.url


def file(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def shot(tab: Any, name: str) -> None:
    """A picture of the tab, for whoever wants to look: in the folder that the environment names."""
    if folder := os.environ.get("STEELYARD_SHOTS"):
        tab.screenshot(path=f"{folder}/documents_{name}.png")


def attach(tab: Any, *files: dict[str, Any]) -> None:
    tab.locator(".composer input[type=file]").set_input_files(list(files))


def test_a_person_makes_an_index_asks_it_and_sees_what_was_retrieved_and_why(tab, server):
    tab.goto(server + "/#/documents")
    tab.get_by_label("Name of a new index").fill("Orvia")
    tab.get_by_role("button", name="New index").click()
    index = tab.get_by_role("group", name="Orvia")
    index.locator("input[type=file]").set_input_files(
        [
            file("rivers.md", RIVERS.encode()),
            file("bad.docx", docx([("Normal", "&b;")], before='<!DOCTYPE x [<!ENTITY b "ha">]>')),
            file("rivers.md", RIVERS.encode()),
        ]
    )
    row = index.get_by_role("row").filter(has_text="rivers.md")
    expect(row.locator(".number")).to_have_text(re.compile(r"[1-9]"))
    expect(index.get_by_role("row").filter(has_text="bad.docx")).to_contain_text("Could not be read: it declares XML entities")
    expect(index.get_by_role("status")).to_contain_text("rivers.md: it is in the index already")
    shot(tab, "indexes")
    index.get_by_role("button", name="Ask it").click()
    say(tab, "How long is the Zvarna?")
    answer = answers(tab).last
    expect(answer.get_by_role("group", name="Sources").get_by_role("button")).to_contain_text("Rivers of Orvia")
    expect(answer.get_by_role("button", name="Good answer")).to_be_attached()  # it is stored, and no longer the one that came
    answer.get_by_text("What was retrieved and why").click()
    table = answer.get_by_role("table")
    expect(table).to_contain_text("The Zvarna is a river in Orvia.")
    expect(table.get_by_role("row").nth(1)).to_contain_text("yes")
    answer.get_by_role("group", name="Sources").get_by_role("button").first.click()
    place = tab.get_by_role("complementary", name="Source").locator("mark")
    expect(place).to_contain_text("The Zvarna is a river in Orvia.")
    assert place.inner_text().rstrip().endswith("carry water."), "it ends where the passage ends, whatever letters stand before it"
    expect(tab.get_by_role("complementary", name="Source")).to_contain_text("In rivers.md")
    shot(tab, "why")
    tab.reload()  # it is all kept
    expect(answers(tab).last.get_by_text("What was retrieved and why")).to_be_visible()
    tab.get_by_role("button", name="How it answers").click()
    expect(tab.get_by_label("Documents to search before answering")).to_have_value("Orvia")
    tab.get_by_label("Documents to search before answering").select_option("")
    tab.goto(server + "/#/documents")
    row.get_by_role("button", name="Take out rivers.md").click()
    expect(row).to_have_count(0)
    tab.on("dialog", lambda dialog: dialog.accept())
    index.get_by_role("button", name="Delete").click()
    expect(index).to_have_count(0)


def test_a_source_that_the_operator_registered_opens_in_its_document_at_the_passage(tab, server, running):
    tab.goto(server)
    tab.get_by_role("button", name="How it answers").click()
    tab.get_by_label("Documents to search before answering").select_option(running.settings.documents[0])
    say(tab, "Who built the Brindle?")
    sources = answers(tab).last.get_by_role("group", name="Sources").get_by_role("button")
    sources.filter(has_text="The Brindle").click()
    source = tab.get_by_role("complementary", name="Source")
    mark = source.locator("mark")
    expect(mark).to_have_text("The Brindle 🚣🚣 was built\nin 1874 by Ida Halvorsen.")
    expect(mark).to_be_in_viewport()
    around = source.locator("blockquote")
    expect(around).to_contain_text("Boat 39 🚣 is kept dry.")
    expect(around).to_contain_text("The ferry leaves at noon.")
    assert around.evaluate("node => node.scrollTop") > 0, "it is opened at the passage, not at its beginning"
    shot(tab, "registered")


def test_how_far_an_index_is_is_followed_until_it_can_be_asked(tab, server):
    document = {"id": "d", "name": "rivers.md", "size": 9, "passages": None, "error": None}
    index = {"id": "i", "name": "Orvia", "updated": "2026-01-01T00:00:00+00:00", "passages": 0, "error": None, "documents": [document]}
    state: dict[str, Any] = {"state": "waiting", "done": 0, "total": 3, "document": "", "passages": 0}
    now: dict[str, Any] = {"built": False, "progress": state}
    tab.route("**/api/indexes", lambda route: route.fulfill(json={"indexes": [index | now], "shared": []}))
    tab.goto(server + "/#/documents")
    status = tab.get_by_role("group", name="Orvia").get_by_role("status")
    bar = tab.get_by_role("progressbar", name="How far the index Orvia is")
    expect(status).to_contain_text("Waiting for its turn.")
    state.update(state="reading", done=1, document="lakes.md")
    expect(status).to_contain_text("Reading lakes.md: 1 of 3 documents are read.")
    expect(bar).to_have_attribute("max", "3")
    state.update(state="indexing", done=2)
    expect(status).to_contain_text("Indexing: 2 of 3 documents are in.")
    expect(bar).to_have_js_property("value", 2)
    ask = tab.get_by_role("button", name="Ask it")
    expect(ask).to_be_disabled()
    now.update(built=True, progress=None)
    expect(ask).to_be_enabled()
    expect(bar).to_have_count(0)


def test_what_was_read_of_a_file_is_told_and_shown_before_it_is_sent(tab, server):
    pytest.importorskip("pypdfium2")
    tab.goto(server)
    attach(tab, file("two.pdf", pdf(["The Danube is long.", "So is the Rhine."])), file("broken.pdf", b"%PDF-1.7 nothing"))
    composer = tab.get_by_role("region", name="Write")
    expect(composer).to_contain_text("characters of text")
    expect(composer).to_contain_text("Could not be read: a damaged PDF. The model is told its name alone.")
    shot(tab, "attached")
    composer.get_by_role("button", name="Show the text").click()
    shown = tab.get_by_role("dialog", name="Text of two.pdf")
    expect(shown).to_contain_text("page 2")
    expect(shown).to_contain_text("So is the Rhine.")
    shown.get_by_role("button", name="Close").click()
    composer.get_by_role("button", name="Leave its text out").click()
    composer.get_by_role("button", name="Give its text too").click()
    say(tab, "What are they?")
    expect(answers(tab).last).to_contain_text(re.compile(r"\d+ tokens?"))


def test_a_document_too_long_for_the_model_is_searched_instead(tab, server):
    tab.goto(server)
    attach(tab, file("long.txt", ("Filling words stand here. " * 1500 + "The Mirl is 33 km long.").encode()))
    composer = tab.get_by_role("region", name="Write")
    expect(composer).to_contain_text(re.compile(r"About [\d,]+ tokens; this model reads 2,048\."))
    composer.get_by_role("button", name="Search it instead").click()
    expect(composer).to_contain_text("this conversation searches it, as “long”")
    say(tab, "How long is the Mirl?")
    expect(answers(tab).last.get_by_role("group", name="Sources").get_by_role("button").first).to_contain_text("long")


def test_a_piece_is_cut_out_of_a_picture_that_was_sent_already(tab, server):
    tab.set_default_timeout(60_000)
    tab.goto(server)
    attach(tab, file("map.png", picture([(20, 20, "Orvia")])))
    composer = tab.get_by_role("region", name="Write")
    expect(composer.get_by_role("button", name="Ask about a piece of map.png")).to_be_visible(timeout=60_000)
    if composer.get_by_role("button", name="Leave its text out").count():  # where the text of pictures can be read
        composer.get_by_role("button", name="Leave its text out").click()
    say(tab, "What is it?")
    expect(answers(tab).last.get_by_role("button", name="Good answer")).to_be_attached()
    tab.get_by_role("article", name="You").get_by_role("button", name="Ask about a piece of map.png").click()
    dialog = tab.get_by_role("dialog", name="A piece of map.png")
    dialog.get_by_role("application").press("ArrowRight")
    dialog.get_by_role("button", name="Take this piece").click()
    expect(composer.get_by_role("list", name="Attached files")).to_contain_text("map 512x192", timeout=60_000)
    say(tab, "And this?", "Enter")
    waiting = tab.get_by_role("region", name="Messages that wait")
    waiting.get_by_role("button", name="Remove map 512x192").click()
    expect(waiting).to_contain_text("And this?")
    expect(waiting.locator(".badge")).to_have_count(0)


def test_a_person_asks_about_a_piece_of_a_picture_with_mouse_or_keyboard_and_sees_its_ocr_text_first(tab, server):
    pytest.importorskip("rapidocr_onnxruntime", reason="the extra `ocr` is not installed")
    tab.set_default_timeout(60_000)
    tab.goto(server)
    attach(tab, file("invoice.jpg", picture([(20, 20, "Invoice from Orvia"), (20, 150, "Total: 128.50 EUR")])))
    composer = tab.get_by_role("region", name="Write")
    composer.get_by_role("button", name="Ask about a piece of invoice.jpg").click(timeout=60_000)
    dialog = tab.get_by_role("dialog", name="A piece of invoice.jpg")
    area = dialog.get_by_role("application")
    expect(dialog.get_by_role("status")).to_have_text("512 × 192 pixels, 64 from the left, 24 from the top")
    box = area.bounding_box()
    tab.mouse.move(box["x"] + 1, box["y"] + 0.55 * box["height"])
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
    tab.mouse.up()
    expect(dialog.get_by_role("status")).to_have_text(re.compile(r"51\d × 84 pixels, [0-2] from the left, 13[12] from the top"))
    area.press("Shift+ArrowRight")
    area.press("ArrowDown")
    expect(dialog.get_by_role("status")).to_have_text(re.compile(r"52\d × 84 pixels, [0-2] from the left, 13[67] from the top"))
    shot(tab, "crop")
    dialog.get_by_role("button", name="Take this piece").click()
    expect(composer.get_by_role("list", name="Attached files")).to_contain_text("invoice 52", timeout=60_000)
    expect(composer).to_contain_text("(OCR); may hold errors")
    composer.get_by_role("button", name="Show the text").click()
    expect(tab.get_by_role("dialog", name="Text of invoice")).to_contain_text("128.50")
    expect(tab.get_by_role("dialog", name="Text of invoice")).to_contain_text("rapidocr-onnxruntime")
    tab.get_by_role("button", name="Close").click()
    shot(tab, "chips")
    composer.get_by_role("button", name="Leave its text out").click()
    expect(composer).to_contain_text("The model is told its name alone.")
    composer.get_by_role("button", name="Give its text too").click()
    say(tab, "How much is it?")
    expect(answers(tab).last.get_by_role("button", name="Good answer")).to_be_attached()
    shot(tab, "asked")
