"""lm-eval's side of the comparison, run by an interpreter that has it: `python lm_eval_side.py MODEL MAX_LENGTH THREADS`.

Reads one line of JSON for each set to run, {"name", "config", "rows", "batch"}, and writes one with what came out. It knows nothing of
Steelyard: the model is lm-eval's `HFLM` in float32, the task its own `ConfigurableTask`, and the way its `evaluate`.
"""

import json
import os
import sys
import time

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

import lm_eval
import torch
import transformers
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM


def main() -> None:
    folder, most, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    said = sys.stdout
    sys.stdout = sys.stderr  # lm-eval prints
    model = HFLM(pretrained=folder, device="cpu", dtype="float32", max_length=most, batch_size=8)
    versions = {"lm_eval": lm_eval.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    print(json.dumps({"ready": True, "versions": versions}), file=said, flush=True)
    seconds, busy = 0.0, 0.0

    def timed(run):
        def inner(*arguments, **settings):
            nonlocal seconds, busy
            begun, used = time.perf_counter(), time.process_time()
            out = run(*arguments, **settings)
            seconds, busy = seconds + time.perf_counter() - begun, busy + time.process_time() - used
            return out

        return inner

    model.loglikelihood, model.loglikelihood_rolling = timed(model.loglikelihood), timed(model.loglikelihood_rolling)
    for line in sys.stdin:
        asked, seconds, busy = json.loads(line), 0.0, 0.0
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": asked["rows"]}}, "test_split": "test"}
        task = ConfigurableTask(config={"task": asked["name"], **data, **asked["config"]})
        model.batch_size_per_gpu = asked["batch"]
        found = evaluate(lm=model, task_dict={asked["name"]: task}, log_samples=True, bootstrap_iters=0)
        samples = sorted(found["samples"][asked["name"]], key=lambda sample: sample["doc_id"])
        rolling = asked["config"]["output_type"] == "loglikelihood_rolling"
        items = [[float(each[0] if rolling else each[0][0]) for each in sample["resps"]] for sample in samples]
        metrics = {key.partition(",")[0]: value for key, value in found["results"][asked["name"]].items() if isinstance(value, float)}
        metrics = {key: value for key, value in metrics.items() if "stderr" not in key}
        each = {} if rolling else {key: [float(sample[key]) for sample in samples] for key in metrics}
        arguments = [
            list(sample["arguments"][i]) if isinstance(sample["arguments"], list) else sample["arguments"]
            for sample in samples[:1]
            for i in (0,)
        ]
        out = {"items": items, "each": each, "metrics": metrics, "seconds": seconds, "busy": busy, "first": arguments}
        print(json.dumps(out, default=str), file=said, flush=True)


main()
