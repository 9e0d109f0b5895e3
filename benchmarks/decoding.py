"""Decoding the same prompts here and in transformers, in one run: one stream and eight, float32 and bfloat16.

    python benchmarks/decoding.py [--model smollm2-135m-instruct] [--tokens 64] [--repeats 5]

Both sides read the same weights, answer greedily, and generate exactly `--tokens` tokens a prompt. Runs are interleaved (ours,
theirs, ours, ...), the first of each is not counted, and the ratio is the median over pairs. transformers answers eight prompts as
one padded batch with its key-value cache, which is its fast way on a CPU. Each run has a thread of its own, so that neither's idle
OpenMP workers slow the other down (see `steelyard.core.threads`). The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

import steelyard
from steelyard.core.hardware import describe, versions
from steelyard.core.threads import apart
from steelyard.generate.engine import Engine

QUESTIONS = (
    "Tell me a story about a dragon who was afraid of the dark.",
    "Explain how a bicycle stays upright.",
    "What should I know before I visit Japan?",
    "Write a letter to a friend who has moved away.",
    "How do bees make honey? Explain it in detail.",
    "Why do leaves change their colour in autumn?",
    "Describe the life of a medieval blacksmith.",
    "Give me a recipe for bread, step by step.",
)


def ours(engine: Engine, prompts: list[list[int]], tokens: int) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        answers = engine.generate(prompts, max_tokens=tokens, ignore_eos=True)
        seconds = time.perf_counter() - start
        assert all(len(answer.tokens) == tokens for answer in answers)
        return len(prompts) * tokens / seconds

    return run


def theirs(model: transformers.PreTrainedModel, prompts: list[list[int]], tokens: int) -> Callable[[], float]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    @torch.inference_mode()
    def generate() -> torch.Tensor:
        return model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0, use_cache=True
        )

    def run() -> float:
        start = time.perf_counter()
        out = apart(generate)
        assert out.shape[1] == longest + tokens
        return len(prompts) * tokens / (time.perf_counter() - start)

    return run


def interleaved(first: Callable[[], float], second: Callable[[], float], repeats: int) -> dict[str, object]:
    """Tokens per second of both, and the ratio first / second of each pair of runs."""
    first(), second()
    pairs = [(first(), second()) for _ in range(repeats)]
    ratios = sorted(mine / other for mine, other in pairs)
    return {
        "steelyard_tokens_per_second": round(statistics.median(mine for mine, _ in pairs), 1),
        "transformers_tokens_per_second": round(statistics.median(other for _, other in pairs), 1),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "pairs": repeats,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    model = steelyard.load(chosen.model)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        for name in ("float32", "bfloat16"):
            peer = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=getattr(torch, name)).eval()
            with Engine(model, dtype=name) as engine:
                prompts = [engine.encode([{"role": "user", "content": question}]) for question in QUESTIONS]
                for streams in (1, 8):
                    mine = ours(engine, prompts[:streams], chosen.tokens)
                    other = theirs(peer, prompts[:streams], chosen.tokens)
                    results[f"{name}, {streams} stream{'s' * (streams > 1)}"] = result = interleaved(mine, other, chosen.repeats)
                    print(f"{name:9} {streams} streams  {result}", flush=True)
            del peer
    about = {"model": chosen.model, "tokens": chosen.tokens, "threads": torch.get_num_threads()}
    made_with = versions() | {"transformers": transformers.__version__}
    print(json.dumps(about | {"results": results, "versions": made_with, "machine": describe()}))


if __name__ == "__main__":
    main()
