"""The page in another language, which is written from the right."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import PATIENT, SLOW_MACHINE_MS, WEB
from tests.web.fake_api import Kept

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_that_wants_arabic_gets_all_of_the_page_in_it_from_the_right(chromium: Any, server: str, kept: Kept, width: int):
    talk = kept.conversation("حديث")
    kept.add(talk, "user", "ما أطول نهر؟")
    kept.add(talk, "assistant", "The **Danube** is long.")
    context = chromium.new_context(viewport={"width": width, "height": 800}, locale="ar-EG", reduced_motion="reduce")
    context.add_init_script(PATIENT)
    tab = context.new_page()
    tab.set_default_timeout(SLOW_MACHINE_MS)
    tab.goto(f"{server}#/c/{talk}")
    expect(tab.locator("html")).to_have_attribute("dir", "rtl")
    expect(tab.locator("html")).to_have_attribute("lang", "ar")
    answer = tab.get_by_role("article", name="الجواب")
    expect(answer).to_contain_text("Danube")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.get_by_role("article", name="أنت").locator(".said").bounding_box()["x"] < width / 2, (
        "what a person says stands on the other side"
    )
    box = tab.get_by_role("textbox", name="الرسالة", exact=True)
    box.fill("واحد")
    box.press("Enter")
    box.fill("اثنان")
    box.press("Enter")
    expect(tab.get_by_role("button", name="أرسل الرسالتين")).to_be_visible()
    tab.get_by_role("button", name="كيف يجيب").click()
    expect(tab.get_by_role("complementary", name="كيف يجيب")).to_contain_text("الحرارة")
    tab.evaluate((WEB / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = tab.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa']})")["violations"]
    assert not found, [node["html"][:160] for one in found for node in one["nodes"]]
    context.close()


def test_a_language_is_chosen_on_the_page_and_kept(tab, server):
    tab.goto(server)
    expect(tab.get_by_role("link", name="Documents")).to_be_visible()
    tab.get_by_label("Language").select_option("ar")
    expect(tab.get_by_role("link", name="الوثائق")).to_be_visible()
    tab.reload()
    expect(tab.get_by_role("heading", name="عمَّ تودّ أن تسأل؟")).to_be_visible()
    tab.get_by_label("اللغة").select_option("en")
    expect(tab.get_by_role("link", name="Documents")).to_be_visible()
