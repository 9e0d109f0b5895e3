"""Arms trained from nothing say what scaling laws need; arms made otherwise say nothing."""

from __future__ import annotations

import pytest

from steelyard.core import recipe as recipes
from steelyard.core.run import Run
from steelyard.weigh.asking.arms import ArmOpener
from steelyard.weigh.runner import weigh

TEXT = "the quick brown fox jumps over the lazy dog while seven wizards mix bowls of jelly. " * 60
PLAN = {"width": 8, "depth": 1, "context": 32}


def training(text, **more):
    budget = {"steps": 3} if not {"tokens", "flops"} & set(more) else {}
    return {"pretrain": {"data": str(text), "batch": 2, "time": 16, "validation_batches": 2, **budget, **more}}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def trainings(tmp_path, text, arms, seeds=(1,)):
    one = recipes.from_mapping({"new": PLAN, "steps": [training(text)], "arms": arms, "seed": 1})
    opener, found = ArmOpener(Run(tmp_path / "run", 1, say=lambda line: None)), {}
    for name, arm in one.arms.items():
        for seed in seeds:
            opened = opener.open(arm, seed)
            found.setdefault(name, []).extend(opened.trainings)
            opened.close()
    return found


def test_sizes_budgets_and_learning_rates_are_one_family_and_anything_else_is_another(tmp_path, text):
    found = trainings(
        tmp_path,
        text,
        {
            "wider": {"new": PLAN | {"width": 16}, "steps": [training(text)]},
            "longer": {"new": PLAN, "steps": [training(text, tokens=200, learning_rate=0.01)]},
            "other mixer": ["lstm"],
            "other optimizer": {"new": PLAN, "steps": [training(text, optimizer="muon")]},
            "twice": {"new": PLAN, "steps": [training(text), training(text)]},
        },
    )
    (base,), family = found["base"], {name: {each.family for each in those} for name, those in found.items()}
    assert base.name == "attention" and base.tokens == 96 and base.flops > 0 and 0 < base.loss < 7 and base.seed == 1
    assert family["wider"] == family["longer"] == {base.family}
    assert family["other mixer"] != {base.family} and family["other optimizer"] != {base.family}
    assert found["wider"][0].parameters > base.parameters and found["longer"][0].tokens > base.tokens
    assert found["twice"] == []


def test_a_weighing_of_sizes_and_budgets_reports_their_law(tmp_path, text):
    arms = {
        f"{width} {tokens}": {"new": PLAN | {"width": width}, "steps": [training(text, tokens=tokens)]}
        for width, tokens in ((8, 64), (16, 64), (16, 128), (24, 128))
    }
    tasks = [{"bits_per_byte": {"path": str(text), "piece_bytes": 16, "pieces": 4}}]
    one = recipes.from_mapping({"new": PLAN, "steps": [training(text, tokens=256)], "arms": arms, "tasks": tasks, "axes": ["quality"]})
    report = weigh(one, tmp_path / "run", say=lambda line: None)
    (law,) = report.scaling
    assert [point.arms for point in law.points][-1] == ["24 128"] and len(law.points) == 5
    assert law.verdict.startswith("Not settled") and 'id="scaling"' in (tmp_path / "run" / "report.html").read_text()
