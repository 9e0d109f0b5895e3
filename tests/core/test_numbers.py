"""Numbers in recipes: yes and no are none."""

from __future__ import annotations

import pytest

from steelyard.core import recipe
from steelyard.core.errors import SteelyardError

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
