"""The levers `confidence` and `abstain`: what they say, when they keep silent, and what they refuse."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from pathlib import Path

import pytest
from tiny_talker import tiny_talker

from steelyard.augment.answerers import LocalAnswerer
from steelyard.augment.prompt.prompt import Prompt
from steelyard.augment.uncertainty.abstain import Abstain
from steelyard.augment.uncertainty.calibration import Calibration
from steelyard.augment.uncertainty.calibrators import Platt
from steelyard.augment.uncertainty.confidence import ConfidenceLever
from steelyard.augment.uncertainty.p_ik import Probe
from steelyard.augment.uncertainty.risk_control import Threshold
from steelyard.augment.uncertainty.subject import subject
from steelyard.core import levers
from steelyard.core.errors import RecipeError, SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, Citation, Confidence, Done, Message, Text, Token, Usage
from steelyard.generate.engine import Engine

QUESTION = [Message("user", "Where?")]
PLAIN = AnswerSettings(max_tokens=6)


class Speaker:
    """Says two sentences with tokens of known probability."""

    def __init__(self, capabilities=frozenset({"logprobs", "score"}), reason="stop", sure=0.9):
        self.capabilities, self.reason, self.sure = capabilities, reason, sure
        self.fingerprint = f"speaker {sorted(capabilities)}"
        self.heard: list[AnswerSettings] = []

    async def answer(self, conversation, settings):
        self.heard.append(settings)
        yield Citation("book", "Atlas", "...", 1.0)
        for text, chance in (("In ", self.sure), ("Lima. ", self.sure), ("Far", 0.25), ("away.", 0.25)):
            if settings.token_events and "logprobs" in self.capabilities:
                others = tuple((i, math.log(0.1)) for i in range(settings.alternatives))
                yield Token(1, text, math.log(chance), 0.0, math.log(chance), others)
            yield Text(text)
        yield Usage(5, 4)
        yield Done(self.reason)

    async def score(self, conversation, continuations):
        raise AssertionError("nobody asks for scores here")


def said(answerer, settings=PLAIN):
    async def listen():
        return [event async for event in answerer.answer(QUESTION, settings)]

    return asyncio.run(listen())


def text_of(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def confidences(events) -> list[Confidence]:
    return [event for event in events if isinstance(event, Confidence)]


def made_for(answerer, path: Path, above: float | None = 0.5, **changes) -> Path:
    """A calibration of this answerer by mean token probability."""
    limit = None if above is None else Threshold(0.1, 0.1, above, changes.pop("share", 0.4), 0.05, 300)
    made = Calibration(
        subject=subject(answerer), model="speaker", task="facts", task_fingerprint="f", seed=1, made="2026-01-01T00:00:00+00:00",
        measure="mean_probability", n=300, right=0.5, calibrator=Platt(1.0, -1.0), threshold=limit,
    )  # fmt: skip
    dataclasses.replace(made, **changes).write(path)
    return path


def test_confidence_is_said_before_the_end_and_the_words_stay():
    inner = Speaker()
    events = said(ConfidenceLever().wrap(inner))
    assert text_of(events) == text_of(said(inner))
    assert [type(event) for event in events[-3:]] == [Confidence, Usage, Done]
    assert events[-3] == Confidence(pytest.approx(math.sqrt(0.9 * 0.25)), "mean_probability")


def test_tokens_are_read_but_shown_only_to_those_who_ask():
    inner = Speaker()
    answerer = ConfidenceLever(measure="margin").wrap(inner)
    assert not any(isinstance(event, Token) for event in said(answerer))
    assert inner.heard[-1].alternatives == 2
    shown = [event for event in said(answerer, dataclasses.replace(PLAIN, token_events=True, alternatives=1)) if isinstance(event, Token)]
    assert len(shown) == 4 and all(len(token.alternatives) == 1 for token in shown)


def test_each_sentence_is_told_at_its_place():
    events = said(ConfidenceLever(sentences=True).wrap(Speaker()))
    whole, first, second = confidences(events)
    assert whole.start is None
    assert text_of(events)[first.start : first.end] == "In Lima." and first.value == pytest.approx(0.9)
    assert text_of(events)[second.start : second.end] == "Faraway." and second.value == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["mean_probability", "entropy", "p_true"])
def test_what_an_answerer_does_not_tell_cannot_be_measured(name):
    with pytest.raises(UnsupportedError, match="does not tell"):
        ConfidenceLever(measure=name).wrap(Speaker(frozenset()))


@pytest.mark.parametrize("name", ["joint_probability", "mean_probability", "least_probability", "margin"])
def test_an_endpoint_is_measured_by_the_tokens_it_tells_and_an_answer_without_them_has_no_number(name):
    telling = Speaker(frozenset({"remote", "logprobs"}))
    assert len(confidences(said(ConfidenceLever(measure=name).wrap(telling)))) == 1
    silent = Speaker(frozenset({"remote"}))
    events = said(ConfidenceLever(measure=name).wrap(silent))
    assert silent.heard[-1].token_events and not confidences(events) and text_of(events)


def test_an_endpoint_tells_no_entropy():
    with pytest.raises(UnsupportedError, match="does not tell entropies"):
        ConfidenceLever(measure="entropy").wrap(Speaker(frozenset({"remote"})))


@pytest.mark.parametrize("reason", ["error", "cancelled", "timeout"])
def test_an_answer_that_broke_off_has_no_confidence(reason):
    events = said(ConfidenceLever().wrap(Speaker(reason=reason)))
    assert not confidences(events) and events[-1] == Done(reason)


def test_p_ik_without_a_calibration_is_refused_when_the_recipe_is_read():
    with pytest.raises(RecipeError, match="steelyard calibrate"):
        levers.parse({"confidence": "p_ik"})
    assert isinstance(levers.parse("confidence"), ConfidenceLever)


def test_with_a_calibration_the_number_is_a_chance_and_says_so(tmp_path):
    inner = Speaker()
    file = made_for(inner, tmp_path / "c.json")
    (whole,) = confidences(said(ConfidenceLever(calibration=file).wrap(inner)))
    assert whole == Confidence(pytest.approx(Platt(1.0, -1.0)(math.sqrt(0.9 * 0.25))), "calibrated")


def test_an_answer_drawn_otherwise_is_not_called_calibrated(tmp_path):
    inner = Speaker()
    lever = ConfidenceLever(calibration=made_for(inner, tmp_path / "c.json"))
    (whole,) = confidences(said(lever.wrap(inner), dataclasses.replace(PLAIN, temperature=0.8)))
    assert whole == Confidence(pytest.approx(math.sqrt(0.9 * 0.25)), "mean_probability")


def test_a_calibration_is_refused_on_another_model_and_with_other_levers(tmp_path):
    inner = Speaker()
    file = made_for(inner, tmp_path / "c.json")
    for other in (Speaker(frozenset({"logprobs"})), Prompt(system="Be brief.").wrap(inner)):
        for lever in (ConfidenceLever(calibration=file), Abstain(calibration=file)):
            with pytest.raises(SteelyardError, match="made for another model"):
                lever.wrap(other)
    assert Abstain(calibration=file).wrap(ConfidenceLever().wrap(inner))  # it only speaks of the answer


def test_an_unsure_answer_is_held_back(tmp_path):
    inner = Speaker()
    events = said(
        Abstain(calibration=made_for(inner, tmp_path / "c.json", above=0.5)).wrap(inner), dataclasses.replace(PLAIN, token_events=True)
    )
    assert text_of(events) == "I am not sure."
    (told,) = confidences(events)
    assert told.kind == "abstained" and 0 <= told.value < 1
    assert not any(isinstance(event, Token) for event in events), "what is not said is not shown either"
    assert any(isinstance(event, Citation) for event in events) and events[-1] == Done("stop")


def test_a_sure_answer_passes_unchanged_and_tells_its_chance(tmp_path):
    inner = Speaker()
    events = said(Abstain(calibration=made_for(inner, tmp_path / "c.json", above=0.3)).wrap(inner))
    assert text_of(events) == text_of(said(inner))
    assert confidences(events)[0].kind == "calibrated"


def test_exactly_at_the_threshold_it_is_not_sure(tmp_path):
    inner = Speaker(sure=0.25)
    (one,) = confidences(said(ConfidenceLever().wrap(inner)))
    assert text_of(said(Abstain(calibration=made_for(inner, tmp_path / "c.json", above=one.value)).wrap(inner))) == "I am not sure."


def test_no_calibration_changes_nothing():
    inner = Speaker()
    assert Abstain().wrap(inner) is inner


def test_a_calibration_without_a_threshold_or_that_answers_next_to_nothing_is_refused(tmp_path):
    inner = Speaker()
    with pytest.raises(SteelyardError, match="--alpha"):
        Abstain(calibration=made_for(inner, tmp_path / "c.json", above=None)).wrap(inner)
    with pytest.raises(SteelyardError, match=r"answers 4\.0%"):
        Abstain(calibration=made_for(inner, tmp_path / "c.json", share=0.04)).wrap(inner)
    with pytest.raises(SteelyardError):
        Abstain(calibration=tmp_path / "nothing.json").wrap(inner)


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"presence_penalty": 1.0}, {"constraint": {"regex": "yes|no"}}])
def test_no_promise_is_made_for_answers_drawn_otherwise(tmp_path, change):
    inner = Speaker()
    with pytest.raises(UnsupportedError, match="the promise was made for answers drawn at temperature 0"):
        said(Abstain(calibration=made_for(inner, tmp_path / "c.json")).wrap(inner), dataclasses.replace(PLAIN, **change))


def test_another_calibration_is_another_arm(tmp_path):
    inner = Speaker()
    one, other = (Abstain(calibration=made_for(inner, tmp_path / "c.json", above=above)).wrap(inner).fingerprint for above in (0.2, 0.7))
    assert one != other != inner.fingerprint


def test_a_probe_reads_the_engines_state_and_a_calibration_survives_other_numerics(tmp_path):
    model = tiny_talker()
    with Engine(model, dtype="float32", kernels="reference") as engine, Engine(model, deterministic=True, slots=2) as again:
        file = made_for(LocalAnswerer(engine), tmp_path / "c.json", measure="p_ik", probe=Probe((0.1,) * 32, 0.5))
        first, second = (confidences(said(ConfidenceLever(calibration=file).wrap(LocalAnswerer(one))))[0] for one in (engine, again))
        state = engine.states([QUESTION])[0]
        expected = Platt(1.0, -1.0)(1 / (1 + math.exp(-(0.1 * float(state.sum()) + 0.5))))
        assert first == Confidence(pytest.approx(expected, abs=1e-6), "calibrated")
        assert second.value == pytest.approx(expected, abs=0.02)
        narrow = made_for(LocalAnswerer(engine), tmp_path / "d.json", measure="p_ik", probe=Probe((0.1,) * 8, 0.5))
        with pytest.raises(UnsupportedError, match="width 8"):
            said(ConfidenceLever(calibration=narrow).wrap(LocalAnswerer(engine)))
    other = tiny_talker(seed=1)
    with Engine(other, dtype="float32") as engine, pytest.raises(SteelyardError, match="another model"):
        ConfidenceLever(calibration=file).wrap(LocalAnswerer(engine))
