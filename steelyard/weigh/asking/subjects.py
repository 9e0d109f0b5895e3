"""What a recipe asks: its tasks with their samples, and each arm's one primary hypothesis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.recipe import Recipe
from steelyard.weigh.asking.axes import DIVERSITY, REPEATABILITY, repeated_task
from steelyard.weigh.cells.breakdowns import metrics_of
from steelyard.weigh.cells.checks import is_defect
from steelyard.weigh.cells.costs import MEASURED, METRICS
from steelyard.weigh.cells.scoring import clusters_of
from steelyard.weigh.tasks.perturbed import ITEMS, Perturbed, takes_part
from steelyard.weigh.tasks.right_answers import RightAnswers
from steelyard.weigh.tasks.task import Ask, Metric, Sample, Task

BASE = "base"
PROBED = ("repeatability", "diversity")
"""Axes for which a task's questions are asked again, so that any task will do."""
TAGGED = ("position", "languages")
"""Axes of which a task's samples may tell by their tags."""


@dataclass(frozen=True)
class Question:
    """A task with its samples; `of` names the task whose questions these are, asked in another way."""

    name: str
    task: Task
    samples: Sequence[Sample]
    of: str = ""

    @property
    def clusters(self) -> int:
        """Number of samples that do not depend on one another."""
        return len({name or position for position, name in enumerate(clusters_of(self.samples))})

    @property
    def metrics_with_floor(self) -> list[Metric]:
        return [metric for metric in self.task.metrics if metric.floor is not None]

    def trials(self, recipe: Recipe) -> int:
        """How often each sample is answered; greedy answers are the same every time, so once is enough."""
        drawn = any(isinstance(sample.request, Ask) and sample.request.settings.temperature > 0 for sample in self.samples)
        return (recipe.trials or 1) if drawn else 1

    def shown(self, primary: tuple[str, str] | None) -> Metric:
        """The metric a plan speaks of: the arm's primary one if it is of this task, else the task's first."""
        wanted = primary[1] if primary and primary[0] == self.name else ""
        return next((metric for metric in self.metrics if metric.name == wanted), self.task.metrics[0])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The task's, and those that its samples' tags allow."""
        return metrics_of(self.task, self.samples)


def questions(recipe: Recipe) -> list[Question]:
    """The tasks of a recipe with their samples, none where only costs are to be measured.

    Raises:
        RecipeError: there is nothing to weigh on.
        SteelyardError: a task has no samples, or two of the same name.
    """
    out, derived = list[Question](), list[Question]()
    for spec in recipe.tasks:
        task: Task = spec.build()
        if not any(metric.axis in recipe.axes for metric in task.metrics) and not wants(recipe, *PROBED, *TAGGED, "robustness"):
            continue
        where = f"task `{spec.name}`"
        try:
            samples = task.samples(recipe.seed)[: recipe.samples]
        except SteelyardError as error:
            raise error.at(where) from error
        if not samples:
            raise SteelyardError("it has no samples", where=where, do="Check its settings and its data.")
        if twice := [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]:
            raise SteelyardError(f"two samples are called `{twice[0]}`", where=where, do="Give every sample an id of its own.")
        question = Question(spec.name, task, samples)
        if any(metric.axis in recipe.axes for metric in question.metrics) or wants(recipe, *PROBED):
            out.append(question)
        derived += _derived(recipe, question, derived)
    out += derived
    if not out and not wants(recipe, *MEASURED):
        raise RecipeError("there is nothing to weigh on", where=recipe.name, do="Add `tasks: [facts]`, or an axis such as speed.")
    return out


def _derived(recipe: Recipe, question: Question, there: Sequence[Question]) -> list[Question]:
    """What is asked beside a task: its questions in other words, and how likely their right answers are.

    In other words are asked the first task that generates answers, the first that chooses among given ones, and every task whose
    robustness is some arm's primary hypothesis.
    """
    out, task, samples = list[Question](), question.task, question.samples
    if wants(recipe, "robustness") and takes_part(task, samples, recipe.seed):
        asks = isinstance(samples[0].request, Ask)
        taken = [isinstance(one.samples[0].request, Ask) for one in there if isinstance(one.task, Perturbed)]
        if asks not in taken or (question.name, "robustness") in recipe.primary.values():
            other = Perturbed(of=task, called=question.name, items=recipe.perturbed or ITEMS)
            if found := other.vary(samples, recipe.seed):
                out.append(Question(other.name, other, found, of=question.name))
    if wants(recipe, "quality"):
        other = RightAnswers(of=task, called=question.name)
        if found := other.scored(samples):
            out.append(Question(other.name, other, found, of=question.name))
    return out


def wants(recipe: Recipe, *axes: str) -> bool:
    """Whether any of these axes is to be reported."""
    return any(axis in recipe.axes for axis in axes)


def primaries(recipe: Recipe, asked: Sequence[Question]) -> Mapping[str, tuple[str, str]]:
    """Arm -> (task, metric) of its primary hypothesis: the recipe's choice, else quality on the first task.

    A planted defect has none: it is a check, not a hypothesis.
    """
    out: dict[str, tuple[str, str]] = {}
    for name, arm in recipe.arms.items():
        if name == BASE or is_defect(arm):
            continue
        if name in recipe.primary:
            out[name] = _chosen(recipe, name, asked)
        elif asked:
            first = asked[0]
            metrics = [metric for metric in first.metrics if metric.axis in recipe.axes] or list(first.metrics)
            out[name] = (first.name, next((metric for metric in metrics if metric.axis == "quality"), metrics[0]).name)
        else:
            out[name] = ("", next(metric for metric in METRICS if metric.axis in recipe.axes).name)
    return out


def _chosen(recipe: Recipe, arm: str, asked: Sequence[Question]) -> tuple[str, str]:
    task, axis = recipe.primary[arm]
    if axis in MEASURED:
        return "", next(metric for metric in METRICS if metric.axis == axis).name
    repeated = repeated_task([(question.name, question.samples) for question in asked])
    if axis in ("repeatability", "diversity") and repeated is not None:
        return repeated, (REPEATABILITY if axis == "repeatability" else DIVERSITY).name
    mine = [question for question in asked if question.name == task or axis == "robustness" and question.of == task]
    found = [(question.name, metric.name) for question in mine for metric in question.metrics if metric.axis == axis]
    if not found:
        raise RecipeError(
            f"the task `{task}` has no metric on the axis `{axis}`", where=f"primary.{arm}", do="Choose another task or axis."
        )
    return found[0]
