"""Writes tests/weigh/tasks/lm_eval_prompts.json: what lm-eval's own task files make of made-up rows in the hub's form.

Run by an interpreter that has lm-eval: `python tests/parity/lm_eval_prompts.py`. Nothing is downloaded: the rows stand in for the
hub's. Kept are every request's arguments, which are what a model would read, and the metrics for made-up log-likelihoods.
"""

import json
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

import datasets
import lm_eval
from lm_eval.tasks import TaskManager, get_task_dict

OUT = Path(__file__).resolve().parents[1] / "weigh" / "tasks" / "lm_eval_prompts.json"

ARC = [
    {
        "id": "a",
        "question": "Which is a mammal?",
        "choices": {"text": ["shark", "whale", "trout", "frog"], "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
    },
    {
        "id": "b",
        "question": " What boils at 100 °C? ",
        "choices": {"text": ["iron", "water ", "salt"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
]
MC1 = {"choices": ["It falls.", "It rises.", "It stays."], "labels": [1, 0, 0]}
MC2 = {"choices": ["It falls.", "It drops down.", "It rises.", "It stays."], "labels": [1, 1, 0, 0]}
SETS = {
    "hellaswag": [
        {
            "ind": 1,
            "activity_label": "Baking bread",
            "ctx_a": "A woman kneads dough.",
            "ctx_b": "the oven",
            "ctx": "",
            "label": "2",
            "endings": [" is cold [substeps] now.", "explodes.", "warms up  slowly [title] The crust browns.", "sings."],
        },
        {
            "ind": 2,
            "activity_label": "Personal Care [title]",
            "ctx_a": "How to wash [title] Take soap.",
            "ctx_b": "",
            "ctx": "",
            "label": "0",
            "endings": ["Use water. [step] Rub your hands.", "Fly away.", "Éat it.", "Sleep [a] [b] now."],
        },
    ],
    "arc_easy": ARC,
    "arc_challenge": ARC[::-1],
    "piqa": [
        {"goal": "keep bread fresh", "sol1": "put it in a box", "sol2": "put it in the rain", "label": 0},
        {"goal": "Öffne die Tür?\n", "sol1": "push", "sol2": "pull it  hard", "label": 1},
    ],
    "mmlu_anatomy": [
        {"question": " Which bone is in the leg? ", "subject": "anatomy", "choices": ["femur", "ulna", "skull", "rib"], "answer": 0},
        {"question": "Which of\nthese?", "subject": "anatomy", "choices": ["1", "", "3 ", "4"], "answer": 3},
    ],
    "mmlu_high_school_us_history": [
        {"question": "When?", "subject": "high_school_us_history", "choices": ["1775", "1776", "1777", "1778"], "answer": 1}
    ],
    "truthfulqa_mc1": [{"question": "What does a stone do?", "mc1_targets": MC1, "mc2_targets": MC2}],
    "truthfulqa_mc2": [{"question": "What does a stone do when it's let go?", "mc1_targets": MC1, "mc2_targets": MC2}],
    "wikitext": [
        {
            "page": ' = A title = \n \n It was 3 @.@ 5 @-@ inch , the " best " ( or worst ) of the workers \' tools ; he said : no ! Why ? \n'
            " = = Section = = \n \n = = = Deeper = = = \n \n The [ first ] { x } N ° 1 @,@ 000 it 's ' done ' . \n"
        },
        {"page": "Plain words.\n"},
    ],
}


def main() -> None:
    manager = TaskManager()
    out = {}
    for name, rows in SETS.items():
        table = datasets.Dataset.from_list(rows)
        datasets.load_dataset = lambda *_, table=table, **__: datasets.DatasetDict(
            {split: table for split in ("train", "dev", "validation", "test")}
        )
        (task,) = get_task_dict([name], manager).values()
        task.set_config("num_fewshot", 0)
        task.build_all_requests(rank=0, world_size=1)
        kept: list[dict] = [{"arguments": [], "scores": [], "metrics": {}} for _ in rows]
        for request in task.instances:
            kept[request.doc_id]["arguments"].append(list(request.args))
        docs = list(task.eval_docs)
        for number, part in enumerate(kept):
            rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
            part["scores"] = [-3.0 - 1.7 * ((5 * place + 3 * number) % 4) for place in range(len(part["arguments"]))]
            results = part["scores"] if rolling else [(score, False) for score in part["scores"]]
            found = task.process_results(docs[number], results)
            part["metrics"] = {key: list(value) if isinstance(value, tuple) else float(value) for key, value in found.items()}
        out[name] = {"rows": rows, "requests": kept}
    made = {"made_by": "python tests/parity/lm_eval_prompts.py", "lm_eval": lm_eval.__version__, "sets": out}
    OUT.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


main()
