"""Calibrating a model's confidence: judged questions in, a calibration file out.

A task's questions are answered, scored as in any weighing, and each answer's confidence is set against whether it was right. Of questions
about one entity only the first counts, because what depends on another question is not exchangeable with a new one. A probe (P(IK)) is
fitted on one half of the questions; what it says of the other half is calibrated. Answers that abstain by themselves claim nothing and
are left out: they stay as they are when the model is served.

The threshold of `abstain` and the map to chances use the same answers: the promise holds for the threshold alone, whatever the map says.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from steelyard.augment.uncertainty import calibrators
from steelyard.augment.uncertainty.abstain import Abstain
from steelyard.augment.uncertainty.calibration import Calibration
from steelyard.augment.uncertainty.confidence import ConfidenceLever, said_by
from steelyard.augment.uncertainty.measure import Measure
from steelyard.augment.uncertainty.measures import measure
from steelyard.augment.uncertainty.p_ik import Probe, fit, states
from steelyard.augment.uncertainty.risk_control import Threshold, threshold
from steelyard.augment.uncertainty.subject import subject
from steelyard.core.errors import DataError, SteelyardError
from steelyard.core.fingerprint import digest, source_digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import Answerer, Confidence
from steelyard.core.recipe_parts import Arm, ModelSource
from steelyard.core.run import Run
from steelyard.weigh.asking.answering import answer_all
from steelyard.weigh.asking.arms import ArmOpener, OpenArm
from steelyard.weigh.cells.cells import base_cell
from steelyard.weigh.records import Records
from steelyard.weigh.scorers.calibration import AUROC
from steelyard.weigh.tasks.task import Ask, Output, Sample, Task

SEED = 1_000_003
"""Of the questions: another than recipes have, so that a weighing does not meet the questions that were calibrated on."""


def task_fingerprint(task: Task) -> str:
    """Digest of a task's settings, code and data: what a calibration is bound to. Seeds draw other questions of the same task."""
    versions = getattr(task, "data_versions", dict)()
    return digest([task.name, task.model_dump(mode="json"), source_digest(type(task)), versions])


def foreign(answerer: Answerer, task: Task, seed: int) -> str | None:
    """Why an answerer that abstains by a calibration promises nothing on a task's questions, or None."""
    here: Any = answerer
    if hasattr(here, "foreign"):  # it stands for answerers elsewhere, which are asked
        return here.foreign(task, seed)
    while here is not None:
        made, lever = getattr(here, "made", None), getattr(here, "lever", None)
        if isinstance(made, Calibration):
            same = made.task_fingerprint == task_fingerprint(task)
            if isinstance(lever, Abstain) and not same and not lever.transfer:
                return (
                    f"its calibration was made on {made.task} with other settings, code or data than {task.name} here: nothing is promised"
                )
            if same and made.seed == seed:
                return f"its calibration was made on these very questions: give the recipe another seed than {seed}"
        here = getattr(here, "inner", None)
    return None


@dataclass(frozen=True)
class Judged:
    """Answers to questions that do not depend on one another.

    Attributes:
        samples: the questions.
        scores: confidence, by the measure, in [0, 1].
        right: whether each answer was.
        left_out: how many were not used, and why.
    """

    samples: Sequence[Sample]
    scores: Sequence[float]
    right: Sequence[bool]
    left_out: dict[str, int]


def calibrate(
    model: str,
    task: Task,
    directory: Path,
    *,
    name: str = "mean_probability",
    levers: Sequence[Lever] = (),
    seed: int = SEED,
    alpha: float | None = None,
    delta: float = 0.1,
    count: int = 5,
    temperature: float = 1.0,
    run: Run | None = None,
) -> tuple[Calibration, Judged]:
    """Answers a task's questions and makes a calibration of what they show.

    Args:
        model: a got name, a directory or a .gguf file.
        task: with labelled questions that are answered in words.
        directory: keeps the answers, so that a call that was stopped goes on.
        name: the measure of confidence.
        levers: pulled on the model; the calibration is for it with these.
        seed: of the questions.
        alpha: largest share of wrong answers among those given, for `abstain`; None: no threshold is sought.
        delta: chance that this limit may fail.
        count, temperature: of the samples that some measures draw.
        run: says what is going on, and to whom.

    Raises:
        SteelyardError: the model or a lever cannot be had, the task is none that can be judged so, there are too few answers, or no
            threshold keeps the limit.
    """
    run = run or Run(directory, seed, say=lambda line: None)
    samples = task.samples(seed)
    temperatures = {sample.request.settings.temperature for sample in samples if isinstance(sample.request, Ask)}
    if len(temperatures) != 1 or not all(isinstance(sample.request, Ask) for sample in samples):
        raise SteelyardError(
            f"`{task.name}` is not answered in words", where="calibrate", do="Use a task such as facts, arithmetic or chat."
        )
    opener = ArmOpener(run)
    try:
        opened = opener.open(Arm(name="calibrated", source=ModelSource(name=model), levers=tuple(levers)))
        try:
            with Records(directory / "records.sqlite", say=run.say) as records:
                probe, judged = _judged(opened, task, samples, records, name, count, temperature, run)
            about = subject(opened.answerer)
        finally:
            opened.close()
    finally:
        opener.close()
    limit: Threshold | None = None if alpha is None else threshold(judged.scores, judged.right, alpha, delta)
    fitted, losses = calibrators.fit(judged.scores, judged.right)
    made = Calibration(
        subject=about,
        model=Path(model).name,
        task=task.name,
        task_fingerprint=task_fingerprint(task),
        seed=seed,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        measure=name,
        n=len(judged.scores),
        right=sum(judged.right) / len(judged.right),
        calibrator=fitted,
        temperature=temperatures.pop(),
        count=count,
        sampled_at=temperature,
        probe=probe,
        quality=_quality(judged, fitted, losses),
        threshold=limit,
    )
    return made, judged


def _judged(
    opened: OpenArm, task: Task, samples: Sequence[Sample], records: Records, name: str, count: int, temperature: float, run: Run
) -> tuple[Probe | None, Judged]:
    if name == "p_ik":
        first, second = _halves(samples)
        plain = _answers(opened, task, first, records, run, None)
        asked = [sample.request.conversation for sample in plain.samples if isinstance(sample.request, Ask)]
        probe = fit(states(opened.answerer, asked), plain.right)
        return probe, _answers(opened, task, second, records, run, measure(name, probe=probe))
    return None, _answers(opened, task, samples, records, run, measure(name, count=count, temperature=temperature))


def _answers(opened: OpenArm, task: Task, samples: Sequence[Sample], records: Records, run: Run, measured: Measure | None) -> Judged:
    """Answers and what became of them; without a measure every answer counts as equally sure."""
    arm = opened
    if measured is not None:
        answerer = said_by(ConfidenceLever.model_validate({}), opened.answerer, measured, None)
        how = [repr(measured), source_digest(type(measured))]
        arm = dataclasses.replace(opened, answerer=answerer, fingerprint=digest([opened.fingerprint, how]))
    outputs = answer_all(
        arm, task.name, samples, records, seed=run.seed, progress=lambda done, total: run.progress("answering", done, total, "")
    )
    kept: list[tuple[Sample, float, bool]] = []
    left_out: dict[str, int] = {}
    seen: set[str] = set()
    for sample, output in zip(samples, outputs, strict=True):
        right = outcome(task, sample, output)
        sure = 0.0 if measured is None else output.confidence.value if output.confidence is not None else None
        if output.failure is not None:
            reason = f"failed ({output.failure:.80})"
        elif sample.cluster and sample.cluster in seen:
            reason = "about an entity that was asked about before"
        elif right is None:
            reason = "abstained, or not to be judged"
        elif sure is None:
            reason = "without confidence"
        else:
            kept.append((sample, sure, right))
            reason = ""
        seen.add(sample.cluster)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
    if not kept:
        raise DataError(f"none of {len(samples)} answers can be used: {', '.join(left_out)}", where="calibrate", do="Use another task.")
    return Judged([s for s, _, _ in kept], [c for _, c, _ in kept], [r for _, _, r in kept], left_out)


def outcome(task: Task, sample: Sample, output: Output) -> bool | None:
    """Whether an answer is right; None where it abstains or nobody can say.

    Raises:
        SteelyardError: the task has no metric of right and wrong.
    """
    values = task.score(sample, dataclasses.replace(output, confidence=Confidence(0.5, "any")))  # tasks judge what is claimed
    for metric in task.metrics:
        if metric.kind == "auroc":
            pair = values.get(metric.name)
            return bool(pair[1]) if isinstance(pair, tuple) else None
    for metric in task.metrics:
        if metric.axis == "quality" and metric.binary:
            value = values.get(metric.name)
            return None if value is None or isinstance(value, tuple) else bool(value)
    raise SteelyardError(f"`{task.name}` does not tell right from wrong", where="calibrate", do="Use a task with a yes-or-no metric.")


def _halves(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Two halves; questions about one thing are on one side."""
    sides: dict[str, int] = {}
    first, second = [], []
    for position, sample in enumerate(samples):
        side = sides.setdefault(sample.cluster or f"#{position}", len(sides) % 2)
        (second if side else first).append(sample)
    return first, second


def _quality(judged: Judged, fitted: Any, losses: dict[str, float]) -> dict[str, float]:
    scores, right = numpy.asarray(judged.scores), numpy.asarray(judged.right, numpy.float64)
    made = calibrators.fit_isotonic if fitted.as_dict()["kind"] == "isotonic" else calibrators.fit_platt
    chances = calibrators.held_out(made, scores, right)
    out = {
        "brier": float(((chances - right) ** 2).mean()),
        "raw_brier": float(((scores - right) ** 2).mean()),
        "log_loss": losses[fitted.as_dict()["kind"]],
        "raw_log_loss": losses["raw"],
    }
    pairs = list(zip(scores.tolist(), right.tolist(), strict=True))
    area = base_cell("", AUROC, pairs, [""] * len(pairs))
    if area is None or area.value is None or area.value_interval is None:
        return out
    low, high = area.value_interval
    return {"auroc": area.value, "auroc_low": max(low, 0.0), "auroc_high": min(high, 1.0), **out}
