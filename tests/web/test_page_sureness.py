"""How sure an answer is, on the page: a calibrated chance with what it was measured on, silence, and raw numbers that are called so."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.web.fake_api import Kept, tokens_of

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

TEXT = "Lima 🇵🇪 is the capital of Peru. It lies at the sea."
BASIS = {
    "task": "facts", "n": 312, "made": "2026-03-04T12:00:00+00:00", "measure": "mean_probability", "right": 0.41,
    "abstains": False, "threshold": {"alpha": 0.1, "delta": 0.05, "share": 0.38},
}  # fmt: skip


def shown(tab: Any, server: str, kept: Kept, confidence: dict[str, Any] | None, text: str = TEXT) -> Any:
    """The article of an answer that was stored with this confidence."""
    name = kept.conversation("Peru")
    kept.add(name, "user", "What is the capital of Peru?")
    generation = {"model": "small-model", "reason": "stop", "tokens": tokens_of(text), "citations": [], "confidence": confidence}
    kept.add(name, "assistant", text, generation=generation)
    tab.goto(f"{server}#/c/{name}")
    answer = tab.get_by_role("article", name="Answer")
    expect(answer).to_contain_text(text[-15:])
    return answer


def test_a_calibrated_chance_is_shown_with_what_it_was_measured_on_and_sentence_by_sentence(tab, server, kept):
    places = [(0, 31, 0.83), (32, len(TEXT), 0.21)]
    sentences = [{"start": start, "end": end, "value": value} for start, end, value in places]
    answer = shown(tab, server, kept, {"value": 0.72, "kind": "calibrated", "calibration": BASIS, "sentences": sentences})
    expect(answer.get_by_text("Calibrated chance of being right: 72%")).to_be_visible()
    expect(answer).to_contain_text(
        "Measured on 312 judged answers to facts on Mar 4, 2026, by mean_probability; it holds for questions like those."
    )
    expect(answer.get_by_text("raw")).to_have_count(0)
    assert answer.get_by_role("listitem").count() == 0, "sentences are folded away"
    answer.get_by_text("Sentence by sentence").focus()
    tab.keyboard.press("Enter")
    expect(answer.get_by_role("listitem")).to_have_text(["83% Lima 🇵🇪 is the capital of Peru.", "21% It lies at the sea."])


def test_a_model_that_keeps_silent_says_so_and_what_it_promises(tab, server, kept):
    confidence = {"value": 0.3, "kind": "abstained", "calibration": {**BASIS, "abstains": True}}
    answer = shown(tab, server, kept, confidence, "I am not sure.")
    expect(answer.get_by_text("The model says: I am not sure")).to_be_visible()
    expect(answer).to_contain_text("At most 10% of what it answers is wrong, with probability 95%; it answers 38% of such questions.")


@pytest.mark.parametrize("confidence", [{"value": 0.64, "kind": "entropy"}, None])
def test_what_is_not_calibrated_is_called_raw_and_shown_only_when_asked_for(tab, server, kept, confidence):
    answer = shown(tab, server, kept, confidence)
    expect(answer.get_by_text("raw")).to_have_count(0)
    tab.get_by_role("button", name="Show how sure the model is").click()
    badge = answer.locator(".badge")
    tokens = tokens_of(TEXT)
    mean = math.exp(sum(token["logprob"] for token in tokens) / len(tokens))
    expect(badge).to_have_text("raw: 64% (entropy)" if confidence else f"raw: {mean:.0%} per token on average")
    expect(badge).to_have_attribute(
        "title", "How probable the model found its own words. It has not been calibrated, so it is no chance of being right."
    )
    expect(answer.get_by_text("Measured on")).to_have_count(0)
