"""Our figures are lm-eval's, item by item, for two families: those kept in lm_eval_*.json, which say with what they were made.

`python benchmarks/lm_eval_parity.py --lm-eval PYTHON` compares with lm-eval itself, on more rows; `--store` makes the files anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from parity_models import opened
from parity_sets import SETS
from parity_sides import differences, ours, stored

from steelyard.generate.engine import Engine

HERE = Path(__file__).parent


@pytest.mark.parametrize("family", ["smollm2", "neox"])
def test_log_likelihoods_and_metrics_are_lm_evals(family: str, smollm: Path, shared_data: Path, tmp_path: Path) -> None:
    kept = stored(HERE / f"lm_eval_{family}.json")
    with Engine(opened(family, tmp_path), dtype="float32", deterministic=True, context=kept["window"]) as engine:
        found = [differences(name, ours(engine, name, shared_data, kept["counts"][name], tmp_path), kept["sets"][name]) for name in SETS]
    assert [row["set"] for row in found if not row["holds"]] == [], found


def test_a_dropped_start_token_would_be_noticed(smollm: Path, shared_data: Path, tmp_path: Path) -> None:
    """The negative control: the same comparison fails for a tokenizer that begins no text."""
    from dataclasses import replace

    from steelyard.model.tokenizer import Tokenizer

    kept, model = stored(HERE / "lm_eval_neox.json"), opened("neox", tmp_path)
    assert isinstance(model.tokenizer, Tokenizer)
    headless = replace(model, tokenizer=replace(model.tokenizer, prefix_ids=()))
    with Engine(headless, dtype="float32", deterministic=True, context=kept["window"]) as engine:
        row = differences("bbq", ours(engine, "bbq", shared_data, kept["counts"]["bbq"], tmp_path), kept["sets"]["bbq"])
    assert not row["holds"] and row["largest_difference"] > 1e-2
