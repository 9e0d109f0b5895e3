"""A recipe about a tiny random model, with every kind of request, and levers on weights, decoding and nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_talker import tiny_talker

from steelyard.core import recipe_yaml

AXES = ["quality", "calibration", "format", "repeatability", "diversity"]


def tiny_weighing(folder: Path, *, problems: int, rows: int, pieces: int) -> Path:
    """Writes the recipe and all it names into a folder, with so many samples of each kind; the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_talker(max_position_embeddings=512).save(folder / "tiny")
    (folder / "text.txt").write_text(" ".join(f"Sentence {i} is about the number {i * i}." for i in range(10 * pieces)))
    asked = [{"question": f"{i} and {i}?", "choices": [str(2 * i), "a fish"], "answer": 0} for i in range(rows)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, asked)))
    tasks = [
        {"arithmetic": {"problems": problems, "shown": 1, "max_tokens": 8}},
        {"choices": {"path": "rows.jsonl"}},
        {"bits_per_byte": {"path": "text.txt", "pieces": pieces, "piece_bytes": 120}},
    ]
    arms = {"int8": [{"quantize": {"bits": 8}}], "lookup": ["prompt_lookup"]}
    (folder / "recipe.yaml").write_text(recipe_yaml.write({"base": "./tiny", "arms": arms, "tasks": tasks, "axes": AXES, "seed": 3}))
    return folder / "recipe.yaml"
