"""Numbers in recipes: yes and no are none."""

from __future__ import annotations

from typing import Any

import pytest

from steelyard.core import recipe
from steelyard.core.errors import SteelyardError
from steelyard.core.numbers import Numbers

RECIPE = """\
new: {width: 32, depth: 1, context: 16}
steps:
  - pretrain: {data: texts, steps: 2, time: 8}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    "override",
    [
        "new.width=true",
        "new.depth=false",
        "new.initial=true",
        "new.mixer={attention: {window: true}}",
        "new.channel={moe: {experts: true}}",
        "new.tokenizer={kind: bpe, data: texts, vocabulary: true}",
        "steps.pretrain.steps=true",
        "steps.pretrain.learning_rate=true",
        "steps.pretrain.betas=[true, 0.9]",
        "steps.pretrain.validate_every=true",
        "judge={model: somebody, labels: pairs.jsonl, labelled: true}",
    ],
)
def test_yes_and_no_are_refused_where_a_number_is_asked_for(file, override):
    with pytest.raises(SteelyardError, match="number"):
        recipe.read(file, [override])


@pytest.mark.parametrize("override", ["new.tied=false", "steps.pretrain.compile=true", "new.mixer={attention: {output_norm: true}}"])
def test_yes_and_no_stay_what_they_are_elsewhere(file, override):
    assert recipe.read(file, [override])


class Anything(Numbers):
    schema_of: dict[str, Any]
    sizes: list[Any] | int = 0


def test_what_is_nested_deeply_or_contains_itself_is_read_to_its_end():
    deep: dict[str, Any] = {"leaf": 1}
    for _ in range(20_000):
        deep = {"inner": deep}
    itself: list[Any] = [1]
    itself.append(itself)
    many: list[Any] = [0]
    for _ in range(64):
        many = [many, many]
    for sizes in (itself, many):
        Anything(schema_of=deep, sizes=sizes)
    with pytest.raises(ValueError, match="not yes or no"):
        Anything(schema_of={}, sizes=[[[1], [True]]])
