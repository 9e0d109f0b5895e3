"""Writes tests/parity/lm_eval_generation.json: digests of the prompts that lm-eval's own task files make of the shared rows, their stop
strings, and what SmolLM2-135M-Instruct answers to some of them through lm-eval's Hugging Face backend (float32, CPU, greedy).

Run by an interpreter that has lm-eval: `python tests/parity/lm_eval_generation.py FOLDER_OF_SHARED_DATA FOLDER_OF_THE_MODEL`. The first rows
are asked, the next ones are the examples, in their order. Nothing is downloaded and no row is kept: a digest is enough to see that two
prompts are the same. `--asked 40 --tokens 64 --out FILE` makes a longer comparison for `GENERATION=FILE pytest tests/parity/test_generation_parity.py`.
"""

import argparse
import csv
import hashlib
import json
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

import datasets
import lm_eval
from lm_eval.api.samplers import FirstNSampler
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, get_task_dict

SHOWN = 5  # rows
ANSWERED = ("gsm8k::0", "nq_open::5", "bbh:boolean_expressions:0", "bbh:causal_judgement:5", "mgsm:es:0")
"""What is put to the model."""


def rows_of(data: Path, name: str, part: str) -> list[dict]:
    """The first rows of a set, in the hub's form."""
    if name == "gsm8k":
        return [json.loads(line) for line in (data / "gsm8k_train_2000.jsonl").read_text(encoding="utf-8").splitlines()]
    if name == "nq_open":
        lines = (data / "nq_open_oracle_500.jsonl").read_text(encoding="utf-8").splitlines()
        return [{"question": row["question"], "answer": row["answers"]} for row in map(json.loads, lines)]
    if name == "bbh":
        return json.loads((data / "bbh" / f"{part}.json").read_text(encoding="utf-8"))["examples"]
    with (data / "mgsm" / f"{part}_first50.tsv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        {"question": question, "answer": None, "answer_number": int(number.replace(",", "")), "equation_solution": None}
        for question, number in lines
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--asked", type=int, default=6, help="rows of each set")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer at most")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    data, manager, kept = given.data, TaskManager(), {}
    model = HFLM(pretrained=str(given.model), device="cpu", dtype="float32", max_length=2048, batch_size=1)
    parts = [("gsm8k", "", "gsm8k"), ("nq_open", "", "nq_open")]
    parts += [("bbh", path.stem, f"bbh_zeroshot_{path.stem}") for path in sorted((data / "bbh").glob("*.json"))]
    parts += [("mgsm", path.stem.partition("_")[0], "") for path in sorted((data / "mgsm").glob("*_first50.tsv"))]
    for name, part, called in parts:
        rows = rows_of(data, name, part)
        asked, shown = (datasets.Dataset.from_list(some) for some in (rows[: given.asked], rows[given.asked : given.asked + SHOWN]))
        datasets.load_dataset = lambda *_, asked=asked, shown=shown, **__: datasets.DatasetDict(
            {"train": shown, "validation": asked, "test": asked}
        )
        for shots in (0, SHOWN):
            (task,) = get_task_dict([called or f"mgsm_direct_{part}"], manager).values()
            task.set_config("num_fewshot", shots)
            task.sampler = FirstNSampler(list(shown))
            task.build_all_requests(rank=0, world_size=1)
            digests = [hashlib.sha256(one.args[0].encode()).hexdigest()[:16] for one in task.instances]
            found = {"prompts": digests, "until": task.instances[0].args[1]["until"]}
            if f"{name}:{part}:{shots}" in ANSWERED:
                for one in task.instances:
                    one.args[1].update(max_gen_toks=given.tokens, do_sample=False)
                found["answers"] = model.generate_until(task.instances, disable_tqdm=True)
            kept[f"{name}:{part}:{shots}"] = found | ({"description": task.config.description} if name == "bbh" else {})
    made = {
        "made_by": "python tests/parity/lm_eval_generation.py",
        "lm_eval": lm_eval.__version__,
        "asked": given.asked,
        "shown": SHOWN,
        "tokens": given.tokens,
        "sets": kept,
    }
    given.out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


main()
