"""The settings of levers as the page lets a person choose and write them, from the schemas of the levers themselves."""

from __future__ import annotations

import re

import pytest

from steelyard.augment.retrieve.retrieve import Retrieve
from steelyard.generate.beams.beam import Beam
from steelyard.generate.processors.typical import Typical
from steelyard.generate.readouts.dola import Dola
from steelyard.generate.speculation.speculative import Speculative
from steelyard.serve.lever_catalogue import told
from tests.web.test_page_chat import answers, say

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def test_settings_of_every_form_are_chosen_or_written_and_what_is_wrong_is_told(tab, server, kept):
    levers = [told(kind) | {"per_request": True} for kind in (Beam, Dola, Typical, Speculative, Retrieve)]
    tab.route("**/api/levers", lambda route: route.fulfill(json={"levers": levers}))
    tab.route("**/api/indexes", lambda route: route.fulfill(json={"indexes": [], "shared": ["encyclopedia", "handbook"]}))
    tab.goto(server)
    tab.get_by_role("button", name="How it answers").click()
    panel = tab.get_by_role("complementary", name="How it answers")
    for name in ("speculative", "beam", "dola", "typical", "retrieve"):
        panel.get_by_role("switch", name=name, exact=True).check()
    beam = panel.get_by_role("switch", name="beam", exact=True)
    expect(beam).to_have_accessible_description(re.compile("above 0 is refused"))
    panel.get_by_role("button", name="Set the temperature to 0").press("Enter")
    expect(beam).to_be_focused()
    expect(panel.get_by_role("slider", name=re.compile("Temperature"))).to_have_value("0")
    expect(beam).to_have_accessible_description("")
    draft = panel.get_by_role("combobox", name="draft")
    assert draft.locator("option").all_text_contents() == ["other-model"], "another model than the one that answers"
    expect(draft).to_have_value("0")  # the first is taken: without one the lever cannot be pulled
    documents = panel.get_by_role("combobox", name="documents", exact=True)
    documents.select_option("handbook")
    panel.get_by_role("combobox", name="early_stopping").select_option("never")
    layers = panel.get_by_role("combobox", name="layers", exact=True)
    assert layers.locator("option").all_text_contents() == ["—", "low", "high", "a list of your own…"]
    layers.select_option("a list of your own…")
    own = panel.get_by_role("textbox", name="layers: a list of your own…")
    for written, wrong in (("2, x", "This is no number."), ("2, 2.5", "2.5 is no whole number."), ("-1", "It must be at least 0.")):
        own.fill(written)
        expect(own).to_have_accessible_description(re.compile(re.escape(wrong)))
        expect(own).to_have_attribute("aria-invalid", "true")
    own.fill("2, 4،6")
    own.blur()
    expect(own).to_have_attribute("aria-invalid", "false")
    mass = panel.get_by_role("spinbutton", name="mass")
    mass.fill("0")
    expect(mass).to_have_accessible_description(re.compile("It must be more than 0."))
    mass.fill("0.5")
    say(tab, "Tell me about the Danube")
    expect(answers(tab)).to_contain_text("dola")
    asked = {name: settings for one in kept.asked[0]["levers"] for name, settings in one.items()}
    assert (asked["dola"]["layers"], asked["beam"]["early_stopping"], asked["typical"]["mass"]) == ([2, 4, 6], "never", 0.5)
    assert (asked["speculative"]["draft"], asked["retrieve"]["documents"]) == ("other-model", "handbook")
    tab.reload()
    tab.get_by_role("button", name="How it answers").click()
    expect(own).to_have_value("2, 4, 6")
