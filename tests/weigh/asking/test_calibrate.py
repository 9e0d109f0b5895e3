"""Calibrating: from a task's questions to a file that its own model accepts, and no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from tiny_talker import tiny_talker
from typer.testing import CliRunner

from steelyard.augment.uncertainty import calibration
from steelyard.augment.uncertainty.abstain import Abstain
from steelyard.augment.uncertainty.confidence import ConfidenceLever
from steelyard.cli.main import app
from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.recipe_parts import Arm, ModelSource
from steelyard.core.run import Run
from steelyard.core.seeds import derive
from steelyard.weigh.asking.answering import answer_all
from steelyard.weigh.asking.arms import ArmOpener
from steelyard.weigh.asking.calibrate import calibrate, foreign, task_fingerprint
from steelyard.weigh.records import Records
from steelyard.weigh.scorers import calibration as calibrated
from steelyard.weigh.tasks.facts import Facts
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value


class Lottery(Task):
    """Questions whose answers are right by lot; every fourth is about the same thing as the one before."""

    name: ClassVar[str] = "lottery"
    summary: ClassVar[str] = "Right by lot."
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("right", "quality", "share", True, margin=0.03, binary=True), *calibrated.METRICS)

    questions: int = 120
    luck: float = 0.5

    def samples(self, seed: int) -> list[Sample]:
        return [
            Sample(
                f"q{number}",
                Ask((Message("user", f"Draw {derive(seed, number) % 10_000}"),), AnswerSettings(max_tokens=3, token_events=True)),
                cluster=f"c{number - (number % 4 == 3)}",
            )
            for number in range(self.questions)
        ]

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        right = derive("lot", sample.id) / 2**63 < self.luck
        return {"right": float(right)} | calibrated.values(calibrated.sure_of(output, output.text), right)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("calibrated") / "tiny"
    tiny_talker().save(place)
    return place


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    return calibrate(str(model), Lottery(luck=0.9), tmp_path_factory.mktemp("run"), alpha=0.4, delta=0.3)


def test_one_question_of_each_thing_is_judged(made):
    found, judged = made
    assert found.n == 90 == len(judged.scores)
    assert judged.left_out == {"about an entity that was asked about before": 30}
    assert found.right == pytest.approx(sum(judged.right) / 90)
    assert all(0 <= score <= 1 for score in judged.scores)
    assert set(found.quality) == {"auroc", "auroc_low", "auroc_high", "brier", "raw_brier", "log_loss", "raw_log_loss"}


def test_where_confidence_tells_nothing_its_chance_is_the_share_that_was_right(made):
    found, _ = made
    assert found.calibrator(0.3) == pytest.approx(found.right, abs=0.15)
    assert found.quality["brier"] < found.quality["raw_brier"]


def test_the_file_is_bound_to_model_levers_and_task(made, model, tmp_path):
    found, _ = made
    assert found.threshold is not None and found.threshold.share > 0.5
    found.write(tmp_path / "c.json")
    opener = ArmOpener(Run(tmp_path / "run", 5, say=lambda line: None))
    try:
        lever = Abstain(calibration=tmp_path / "c.json")
        opened = opener.open(Arm(name="careful", source=ModelSource(name=str(model)), levers=(lever,)))
        try:
            task = Lottery(luck=0.9)
            assert foreign(opened.answerer, task, 5) is None
            assert "these very questions" in (foreign(opened.answerer, task, found.seed) or "")
            assert "nothing is promised" in (foreign(opened.answerer, Lottery(luck=0.8), 5) or "")
            with Records(tmp_path / "records.sqlite") as records:
                outputs = answer_all(opened, task.name, task.samples(5)[:8], records, seed=5)
                again = answer_all(opened, task.name, task.samples(5)[:8], records, seed=5)
            assert {output.confidence.kind for output in outputs} <= {"calibrated", "abstained"}
            assert again == outputs, "records keep what was said of the confidence"
        finally:
            opened.close()
        tiny_talker(seed=3).save(tmp_path / "other")
        with pytest.raises(SteelyardError, match="made for another model"):
            opener.open(Arm(name="other", source=ModelSource(name=str(tmp_path / "other")), levers=(lever,)))
    finally:
        opener.close()


def test_a_probe_is_calibrated_on_questions_it_was_not_fitted_on(model, tmp_path):
    found, judged = calibrate(str(model), Lottery(questions=160), tmp_path / "run", name="p_ik")
    assert found.probe is not None and len(found.probe.weights) == 32
    assert found.n == 60, "half of 120 questions about different things"
    assert found.quality["auroc_low"] < 0.5 < found.quality["auroc_high"], (
        "lots cannot be foreseen; a probe judged on its own questions would seem to"
    )
    assert calibration.read(_written(found, tmp_path)) == found


def _written(found, folder: Path) -> Path:
    found.write(folder / "c.json")
    return folder / "c.json"


def test_a_promise_that_cannot_be_kept_is_refused(model, tmp_path):
    with pytest.raises(SteelyardError, match="no threshold over 90 judged answers"):
        calibrate(str(model), Lottery(luck=0.6), tmp_path / "run", alpha=0.05)


def test_settings_and_code_make_another_task_and_seeds_do_not():
    assert task_fingerprint(Lottery()) == task_fingerprint(Lottery())
    assert task_fingerprint(Lottery()) != task_fingerprint(Lottery(luck=0.4))
    assert task_fingerprint(Facts.model_construct(answerable=3)) != task_fingerprint(Lottery())


def test_the_command_says_what_is_wrong_without_a_traceback(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["calibrate", str(model), "problems=24", "--task", "arithmetic", "--json"])
    assert result.exit_code == 2 and "can be used" in result.output and "Traceback" not in result.output
    wrong = CliRunner().invoke(app, ["calibrate", str(model), "problems", "--task", "arithmetic"])
    assert wrong.exit_code == 2 and "KEY=VALUE" in wrong.output
    typo = CliRunner().invoke(app, ["calibrate", str(model), "--task", "arithmetik"])
    assert typo.exit_code == 2 and "arithmetic" in typo.output


def test_confidence_of_a_lever_is_what_a_report_judges(model, tmp_path):
    """An arm's own word counts, not its tokens' probability."""
    task = Lottery()
    opener = ArmOpener(Run(tmp_path, 0, say=lambda line: None))
    try:
        opened = opener.open(
            Arm(name="arm", source=ModelSource(name=str(model)), levers=(ConfidenceLever.model_validate({"measure": "entropy"}),))
        )
        try:
            with Records(tmp_path / "records.sqlite") as records:
                (output,) = answer_all(opened, task.name, task.samples(1)[:1], records, seed=1)
        finally:
            opened.close()
    finally:
        opener.close()
    assert output.confidence is not None and output.confidence.kind == "entropy"
    assert task.score(task.samples(1)[0], output)["auroc"][0] == output.confidence.value
    assert json.dumps(output.confidence.value)
