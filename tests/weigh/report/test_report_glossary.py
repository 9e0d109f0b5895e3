"""Every measure of the tasks that come with the package is explained on the page, and only what is known."""

import pytest

from steelyard.core.recipe_parts import task_names
from steelyard.weigh.asking.axes import DIVERSITY, REPEATABILITY
from steelyard.weigh.cells.costs import METRICS, TRAINING
from steelyard.weigh.cells.usage import METRICS as USAGE
from steelyard.weigh.report.glossary import MEANINGS, entries, glossary
from steelyard.weigh.scorers import calibration, choosing, perplexity, truthfulness
from steelyard.weigh.tasks.registry import find
from steelyard.weigh.tasks.right_answers import ANSWER_LOGPROB


def declared(name: str) -> list[str]:
    """The metrics a task class names without settings; of those that make theirs from settings, none."""
    metrics = vars(find(name)).get("metrics", ())
    return [metric.name for metric in metrics] if isinstance(metrics, tuple) else []


@pytest.mark.parametrize("task", task_names())
def test_the_measures_of_every_task_are_explained(task):
    assert not [metric for metric in declared(task) if not entries(metric)]


def test_the_measures_of_scorers_axes_and_costs_are_explained():
    scored = [
        one for module in (calibration, choosing, perplexity, truthfulness) for one in vars(module).values() if hasattr(one, "margin")
    ]
    known = [*scored, DIVERSITY, REPEATABILITY, *METRICS, TRAINING, *USAGE, ANSWER_LOGPROB]
    assert len(known) > 30 and not [metric.name for metric in known if not entries(metric.name)]


def test_an_ending_is_explained_once_beside_the_measure_it_stands_behind():
    found = glossary(["right", "right_in_de", "right_in_sw", "right_in_the_middle", "acc_drop_under_typos", "no_such_metric"])
    assert [name for name, _ in found] == ["right", "... in de, en, ...", "... in the middle", "acc", "... drop under ..."]
    assert entries("own_measure_in_de") == [] and entries("first_token_p95") == entries("first_token_p50")


def test_an_explanation_is_one_sentence_and_ends():
    assert all(text.endswith(".") and text == text.strip() and "  " not in text for text in MEANINGS.values())
