"""What a model reads and where it stops, in plain text, is what lm-eval's own task files say, with and without examples; and what it
answers, greedily in float32, is what lm-eval's Hugging Face backend has it answer.

Prompts are compared by their digests, made by lm-eval from the same rows (lm_eval_generation.json); rows are those of the shared data.
`GENERATION=FILE python -m pytest tests/parity/test_generation_parity.py -k answers` compares with a longer file of lm_eval_generation.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from steelyard.augment.answerers import LocalAnswerer
from steelyard.generate.engine import Engine
from steelyard.model.load import load
from steelyard.weigh.asking.answering import answer_all
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.records import Records
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.task import Ask, Sample

KEPT = json.loads(Path(os.environ.get("GENERATION") or Path(__file__).with_name("lm_eval_generation.json")).read_text("utf-8"))
LONG = "bbh:causal_judgement:5"
FEW = 2
"""Rows of each set whose answers are compared unless `GENERATION` says more; none of those with long examples."""
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


def samples_of(called: str, data: Path, folder: Path, **more: Any) -> list[Sample]:
    """The samples that lm-eval was given too."""
    name, part, shots = called.split(":")
    asked, shown = parts(data, folder, name, part)
    settings: dict[str, Any] = {"path": str(asked), "examples": str(shown), "shots": int(shots), "raw": True, **more}
    if name == "bbh":
        settings["description"] = KEPT["sets"][called]["description"]
    return registry.make(name, settings).samples(3)


@pytest.mark.parametrize("called", sorted(KEPT["sets"]))
def test_prompts_and_stop_strings_are_lm_evals(called: str, shared_data: Path, tmp_path: Path) -> None:
    kept = KEPT["sets"][called]
    requests = [sample.request for sample in samples_of(called, shared_data, tmp_path)]
    assert all(isinstance(request, Ask) and request.raw and len(request.conversation) == 1 for request in requests)
    prompts = [request.conversation[0].content for request in requests if isinstance(request, Ask)]
    assert [hashlib.sha256(prompt.encode()).hexdigest()[:16] for prompt in prompts] == kept["prompts"]
    assert all(list(request.settings.stop) == kept["until"] for request in requests if isinstance(request, Ask))


def test_answers_are_lm_evals_letter_for_letter(smollm: Path, shared_data: Path, tmp_path: Path) -> None:
    kept = {called: one["answers"] for called, one in KEPT["sets"].items() if "answers" in one}
    if not os.environ.get("GENERATION"):
        kept = {called: answers[:FEW] for called, answers in kept.items() if called != LONG}
    found = {}
    with (
        Engine(load(str(smollm)), dtype="float32", deterministic=True, context=2048) as engine,
        Records(tmp_path / "records.sqlite") as records,
    ):
        arm = OpenArm("base", LocalAnswerer(engine), engine.fingerprint, read_fingerprint=engine.fingerprint, engine=engine)
        for number, called in enumerate(kept):
            (folder := tmp_path / str(number)).mkdir()
            samples = samples_of(called, shared_data, folder, max_tokens=KEPT["tokens"])[: len(kept[called])]
            found[called] = [output.text for output in answer_all(arm, called, samples, records, seed=3)]
    assert found == kept and all(kept.values())
