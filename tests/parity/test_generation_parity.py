"""What a model reads and where it stops, in plain text, is what lm-eval's own task files say, with and without examples.

Prompts are compared by their digests, made by lm-eval from the same rows (lm_eval_generation.json); rows are those of the shared data.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.task import Ask

KEPT = json.loads(Path(__file__).with_name("lm_eval_generation.json").read_text(encoding="utf-8"))
FILES = {
    "gsm8k": "gsm8k_train_2000.jsonl",
    "nq_open": "nq_open_oracle_500.jsonl",
    "bbh": "bbh/{part}.json",
    "mgsm": "mgsm/{part}_first50.tsv",
}


def parts(data: Path, folder: Path, name: str, part: str) -> tuple[Path, Path]:
    """The asked rows and the examples, each as a file of the set's own form."""
    source = data / FILES[name].format(part=part)
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    out = []
    for place, (first, last) in enumerate(((0, KEPT["asked"]), (KEPT["asked"], KEPT["asked"] + KEPT["shown"]))):
        path = folder / str(place) / source.name
        path.parent.mkdir(exist_ok=True)
        if source.suffix == ".json":
            rows = json.loads(source.read_text(encoding="utf-8"))["examples"][first:last]
            path.write_text(json.dumps({"examples": rows}), encoding="utf-8")
        else:
            path.write_text("".join(lines[first:last]), encoding="utf-8")
        out.append(path)
    return out[0], out[1]


@pytest.mark.parametrize("called", sorted(KEPT["sets"]))
def test_prompts_and_stop_strings_are_lm_evals(called: str, shared_data: Path, tmp_path: Path) -> None:
    name, part, shots = called.split(":")
    kept = KEPT["sets"][called]
    asked, shown = parts(shared_data, tmp_path, name, part)
    settings: dict[str, Any] = {"path": str(asked), "examples": str(shown), "shots": int(shots), "raw": True}
    if name == "bbh":
        settings["description"] = kept["description"]
    samples = registry.make(name, settings).samples(3)
    requests = [sample.request for sample in samples]
    assert all(isinstance(request, Ask) and request.raw and len(request.conversation) == 1 for request in requests)
    prompts = [request.conversation[0].content for request in requests if isinstance(request, Ask)]
    assert [hashlib.sha256(prompt.encode()).hexdigest()[:16] for prompt in prompts] == kept["prompts"]
    assert all(list(request.settings.stop) == kept["until"] for request in requests if isinstance(request, Ask))
