"""Decoding the same prompts here and in transformers, in one run: one stream and eight, float32 and bfloat16.

    python benchmarks/decoding.py [--model smollm2-135m-instruct] [--tokens 64] [--repeats 5]
    python benchmarks/decoding.py --kv-cache [--contexts 512 2048 8192] [--tokens 48]

Both sides read the same weights, answer greedily, and generate exactly `--tokens` tokens a prompt. Runs are interleaved (ours,
theirs, ours, ...), the first of each is not counted, and the ratio is the median over pairs. transformers answers eight prompts as
one padded batch with its key-value cache, which is its fast way on a CPU. Each run has a thread of its own, so that neither's idle
OpenMP workers slow the other down (see `steelyard.core.threads`). The last line printed is JSON.

With --kv-cache our engine is compared with itself instead: its own cache beside 8, 4 and 2 bits (`kv_cache`), one stream whose text ends
at each of the contexts. Runs are interleaved too; told are tokens per second from the answer's first token to its end (so reading the
prompt does not count), the ratio to the engine's own cache in the same round, and the bytes of a slot of that many tokens. Up to 60
tokens an answer, a prompt is read once; longer ones go further back than the memory in few bits can, and it is read in every round.
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
from steelyard.core.protocols import AnswerSettings
from steelyard.core.threads import apart
from steelyard.generate.engine import Engine
from steelyard.generate.spec import EngineSpec
from steelyard.generate.states.kv_cache import PLAIN, KvCache
from steelyard.model.model import Model

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


def caches(model: Model, dtype: str, context: int, tokens: int, repeats: int) -> dict[str, dict[str, object]]:
    """Tokens per second and a slot's bytes with the engine's own cache and with fewer bits, at the end of a text of `context` tokens."""
    draw = torch.Generator().manual_seed(context)
    prompt = torch.randint(1000, 40_000, (context - tokens,), generator=draw).tolist()
    settings, speeds, sizes = AnswerSettings(max_tokens=tokens, ignore_eos=True), {}, {}
    engines = {}
    try:
        for bits in (PLAIN, 8, 4, 2):
            spec = KvCache(bits=bits).decode(EngineSpec(model, dtype=dtype, slots=1, context=context))
            name = spec.numerics["cache"]
            engines[name], speeds[name] = Engine.from_spec(spec), []
            sizes[name] = engines[name].scheduler.host.state.bytes()
            engines[name].generate([prompt], settings=settings)  # not counted
        for number in range(repeats):
            for name in list(engines) if number % 2 == 0 else list(reversed(engines)):
                (answer,) = engines[name].generate([prompt], settings=settings)
                assert answer.timing.first_token is not None and answer.timing.finished is not None
                speeds[name].append((tokens - 1) / (answer.timing.finished - answer.timing.first_token))
    finally:
        for engine in engines.values():
            engine.close()
    own = next(iter(engines))
    return {name: beside(speeds[own], speeds[name]) | {"bytes_of_a_slot": sizes[name]} for name in engines}


def beside(own: list[float], other: list[float]) -> dict[str, object]:
    """Tokens per second, and the ratio to the engine's own cache in the same rounds."""
    ratios = sorted(few / plain for plain, few in zip(own, other, strict=True))
    return {
        "tokens_per_second": round(statistics.median(other), 1),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "rounds": len(ratios),
    }


def compare_caches(model: Model, contexts: list[int], tokens: int, repeats: int) -> dict[str, object]:
    results: dict[str, object] = {}
    for dtype in ("float32", "bfloat16"):
        for context in contexts:
            results[f"{dtype}, {context} tokens"] = told = caches(model, dtype, context, tokens, repeats)
            for name, figures in told.items():
                print(f"{dtype:9} {context:>6,} tokens  {name:<42} {figures}", flush=True)
    return results


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--kv-cache", action="store_true", help="our own cache beside 8, 4 and 2 bits")
    options.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192], help="tokens of a text, for --kv-cache")
    chosen = options.parse_args()
    model = steelyard.load(chosen.model)
    if chosen.kv_cache:
        if not 2 <= chosen.tokens < min(chosen.contexts) <= max(chosen.contexts) <= model.context_length:
            options.error(f"--contexts lie between --tokens and the model's {model.context_length}")
        report(chosen, compare_caches(model, chosen.contexts, chosen.tokens, chosen.repeats))
        return
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
    report(chosen, results)


def report(chosen: argparse.Namespace, results: dict[str, object]) -> None:
    """The last line: everything as JSON."""
    about = {"model": chosen.model, "tokens": chosen.tokens, "threads": torch.get_num_threads()}
    made_with = versions() | {"transformers": transformers.__version__}
    print(json.dumps(about | {"results": results, "versions": made_with, "machine": describe()}))


if __name__ == "__main__":
    main()
