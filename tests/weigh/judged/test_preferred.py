"""What a judge and what people prefer, as cells of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steelyard.core import recipe as recipes
from steelyard.core.errors import RecipeError
from steelyard.core.protocols import Score
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.runner import rescore, weigh
from tests.weigh.simple_arms import Bench, Calculator, recipe


class Examiner(Calculator):
    """A judge that takes the text with `good` in it, or the arithmetic that is right; `kind` says otherwise."""

    def __init__(self, kind: str):
        super().__init__(1.0, name=kind)
        self.kind, self.read = kind, 0

    async def score(self, conversation, continuations):
        self.read += 1
        asked, _, rest = conversation[-1].content.partition("\n\nAnswer A:\n")
        one, _, rest = rest.partition("\n\nAnswer B:\n")
        other = rest.split("\n\n")[0]
        if self.kind == "first":
            return [Score(0.0, True, 1, 1), Score(-1.0, False, 1, 1)]
        if "good" in one + other:
            lean = 1.0 if "good" in one else -1.0
            wrong = self.kind == "coarse" and int("".join(filter(str.isdigit, one + other)) or 0) % 5 == 0  # on one pair in five
            return [Score(-lean if wrong else lean, False, 1, 1), Score(0.0, False, 1, 1)]
        from tests.weigh.simple_arms import calculated

        right = str(calculated(asked.rsplit("user: ", 1)[1]))
        return [Score(float(one.strip() == right), False, 1, 1), Score(float(other.strip() == right), False, 1, 1)]


class Hall(Bench):
    """A bench whose `judge-KIND` opens an examiner."""

    def open(self, arm, seed=None, *, deterministic=True):
        name = Path(arm.source.name).name
        if not name.startswith("judge-"):
            return super().open(arm, seed, deterministic=deterministic)
        self.judge = Examiner(name.removeprefix("judge-"))
        return OpenArm(arm.name, self.judge, self.judge.fingerprint, slots=4)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "people.jsonl"
    rows = [{"prompt": f"Question {i}", "chosen": f"good {i}", "rejected": f"poor {i}"} for i in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def weighed(tmp_path: Path, labels: Path, kind: str, **changes):
    bench, lines = Hall(), []
    asked = recipe(arms={"better": "skill-100", "same": "skill-70"}, judge={"model": f"judge-{kind}", "labels": str(labels)}, **changes)
    return weigh(asked, tmp_path / "run", say=lines.append, opener=bench), bench, lines


def test_a_judge_that_agrees_with_people_gives_cells_beside_the_base(tmp_path: Path, labels: Path) -> None:
    report, bench, lines = weighed(tmp_path, labels, "right")
    cell = report.cell("better", "preferred_by_judge")
    assert cell.verdict == "better" and cell.base == 0.5 and not cell.primary and cell.n == 60
    right = report.cell("better", "right")
    assert cell.value is not None and right.base is not None and right.value is not None
    assert cell.value == pytest.approx(0.5 + (right.value - right.base) / 2, abs=0.02)
    assert "people.jsonl" in cell.note and "100.0%" in cell.note and "count as half a win" in cell.note
    assert report.cell("same", "preferred_by_judge").verdict == "identical"
    assert any(line.startswith("judge: judge-right agrees with people.jsonl on 100.0%") for line in lines)
    asked = bench.judge.read
    again, bench, _ = weighed(tmp_path, labels, "right")
    assert again.cell("better", "preferred_by_judge") == cell and bench.judge.read == 0 and asked > 200
    assert rescore(tmp_path / "run", say=lambda line: None).cell("better", "preferred_by_judge") == cell


def test_a_judge_that_errs_is_corrected(tmp_path: Path, labels: Path) -> None:
    cell = weighed(tmp_path, labels, "coarse")[0].cell("better", "preferred_by_judge")
    assert "corrected for the judge's error" in cell.note and "80.0% [" in cell.note
    assert cell.verdict == "better" and cell.low is not None and cell.low > 0


def test_a_judge_no_better_than_a_coin_measures_nothing(tmp_path: Path, labels: Path) -> None:
    report, bench, _ = weighed(tmp_path, labels, "first")
    cell = report.cell("better", "preferred_by_judge")
    assert cell.verdict == "not measurable" and cell.value is None and cell.n == 0
    assert "judge-first is not shown to be better than a coin" in cell.note and "takes what stands first in 100%" in cell.note
    assert bench.judge.read == 200  # only labels: what cannot be measured is not asked


def test_a_judge_that_is_not_there_costs_nobody_their_report(tmp_path: Path, labels: Path) -> None:
    asked = recipe(arms={"better": "skill-100"}, judge={"model": "broken-weights", "labels": str(labels)})
    report = weigh(asked, tmp_path / "run", say=lambda line: None, opener=Hall())
    assert "could not be opened" in report.cell("better", "preferred_by_judge").note
    assert report.cell("better", "right").verdict == "better"


def test_peoples_choices_are_cells_too(tmp_path: Path) -> None:
    path = tmp_path / "ann.jsonl"
    won = [("b+", "tiny")] * 60 + [("tiny", "b+")] * 20 + [("other", "tiny")] * 2
    path.write_text("".join(json.dumps({"first": one, "second": two, "winner": "first", "placed": False}) + "\n" for one, two in won))
    arms = {"brief": "skill-100", "other": "skill-90", "unmet": "skill-80"}
    asked = recipe(arms=arms, choices={"files": [str(path)], "arms": {"base": "tiny", "brief": "b+"}})
    report = weigh(asked, tmp_path / "run", say=lambda line: None, opener=Hall())
    cell = report.cell("brief", "preferred_by_people")
    assert cell.value == pytest.approx(0.75) and cell.n == 80 and cell.verdict == "better"
    assert "never beaten" in report.cell("other", "preferred_by_people").note
    assert "nobody compared `unmet`" in report.cell("unmet", "preferred_by_people").note
    again = recipes.read(tmp_path / "run" / "recipe.resolved.yaml")
    assert again.choices == asked.choices and again.judge is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"judge": {"labels": "x.jsonl"}}, "say who judges"),
        ({"judge": {"model": "skill-1", "labels": "x.jsonl", "tasks": ["poetry"]}}, "no task of this recipe is called `poetry`"),
        ({"judge": {"model": "skill-1", "label": "x.jsonl"}}, "label"),
        ({"choices": {"files": []}}, "files"),
        ({"choices": {"files": ["x"], "arms": {"nobody": "y"}}}, "no arm of this recipe is called `nobody`"),
    ],
)
def test_what_a_recipe_gets_wrong_is_told(wrong: dict, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        recipe(arms={"good": "skill-90"}, **wrong)
