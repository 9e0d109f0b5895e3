"""A load run: how fast are 1, 8 and 32 users served who ask without a pause, beside llama.cpp's server?

    python benchmarks/load.py [--llama DIR] [--users 1 8 32] [--seconds 60] [--rounds 1] [--slots 8] [--threads 2] [--locust locust]

Locust (PyPI, MIT) is the users; it may live in an environment of its own, whose program `--locust` names. Every question has 120 token ids
that nobody asked before and an answer of 128 tokens, read as it streams. Both servers have the same GGUF file, slots and threads, ours with
the file's own blocks as weights; they are asked in turns, each while the other is idle, after `--seconds` / 6 (at least 10 s) of the same
load to be warm. Told are tokens a second (all that came while the users asked), the 50th and 95th percentile of the wait for the first
token and of the time between two, and failures. Users beyond the slots wait in the server's queue, which is part of their first token's
wait. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from clients import LLAMA, SERVER, llama_command, our_command, running

from steelyard.core.errors import SteelyardError
from steelyard.core.get import locate
from steelyard.core.hardware import describe, versions

PROMPT, TOKENS = 120, 128
NUMBERS = ("tokens_per_second", "first_token_p50", "first_token_p95", "between_p50", "between_p95", "failures")


def asked(locust: str, url: str, model: str, users: int, seconds: float, seed: int) -> dict[str, Any]:
    """What so many users heard in so many seconds, as `load_user.py` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        settings = {"LOAD_MODEL": model, "LOAD_PROMPT": PROMPT, "LOAD_TOKENS": TOKENS, "LOAD_SEED": seed, "LOAD_RESULT": result}
        options = ["--headless", "--users", str(users), "--spawn-rate", str(max(users, 8)), "--run-time", f"{seconds:.0f}s", "--host", url]
        done = subprocess.run(
            [locust, "-f", str(Path(__file__).with_name("load_user.py")), *options, "--only-summary", "--exit-code-on-error", "0"],
            env=os.environ | {key: str(value) for key, value in settings.items()},
            capture_output=True,
            text=True,
        )
        if done.returncode or not result.exists():
            raise SteelyardError(f"locust ended with {done.returncode}", where=locust, do=(done.stdout + done.stderr)[-2000:])
        return json.loads(result.read_text())


def figures(heard: dict[str, Any], seconds: float) -> dict[str, float]:
    """Tokens a second, percentiles in seconds, failures. An answer that was cut off by the end counts as far as it came."""
    answers = [answer for answer in heard["answers"] if len(answer) > 1]
    if not any(len(answer) > 2 for answer in answers):
        raise SteelyardError(f"no two tokens of an answer came in {seconds:.0f} s", do="Give it more seconds.")
    start = min(answer[0] for answer in heard["answers"])
    waits = [answer[1] - answer[0] for answer in answers]
    gaps = [after - before for answer in answers for before, after in zip(answer[1:], answer[2:], strict=False)]
    tokens = sum(1 for answer in answers for at in answer[1:] if at <= start + seconds)
    return {
        "tokens_per_second": tokens / seconds,
        **{f"first_token_p{share}": percentile(waits, share) for share in (50, 95)},
        **{f"between_p{share}": percentile(gaps, share) for share in (50, 95)},
        "failures": heard["failures"],
        "answers": len(answers),
        "unanswered": len(heard["answers"]) - len(answers),
    }


def percentile(values: list[float], share: int) -> float:
    """The smallest value that `share` percent do not exceed."""
    return sorted(values)[min(len(values) - 1, -(-len(values) * share // 100) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="folder of llama-server")
    parser.add_argument("--locust", default="locust", help="the program")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if shutil.which(options.locust) is None:
        parser.error("locust is not installed here; put it into an environment of its own and name its program with --locust")
    path, room = locate(options.model), PROMPT + TOKENS + 64
    rounds: dict[tuple[str, int], list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory())
        ours = our_command(options.model, options.threads, room, data, options.slots)
        sides = {SERVER: stack.enter_context(running(ours, "/ready")).url}
        if options.llama:
            theirs = llama_command(options.llama, path, options.threads, room, options.slots)
            sides[LLAMA] = stack.enter_context(running(theirs, "/health")).url
        seed = 0
        for name, url in sides.items():
            asked(options.locust, url, options.model, options.slots, max(10.0, options.seconds / 6), seed := seed + 1)
            print(f"{name} is warm", flush=True)
        for turn in range(options.rounds):
            for users in options.users:
                for name in list(sides) if turn % 2 == 0 else list(reversed(sides)):
                    heard = asked(options.locust, sides[name], options.model, users, options.seconds, seed := seed + 1)
                    found = figures(heard, options.seconds)
                    rounds.setdefault((name, users), []).append(found)
                    print(f"{name:<18} {users:>3} users  " + "  ".join(f"{key} {found[key]:.4g}" for key in NUMBERS), flush=True)
    results = [
        {"side": name, "users": users, **{key: statistics.median(run[key] for run in runs) for key in runs[0]}, "rounds": len(runs)}
        for (name, users), runs in rounds.items()
    ]
    print("\n| users | server | tokens/s | first token, p50 | p95 | between two, p50 | p95 | failures |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for one in sorted(results, key=lambda one: (one["users"], one["side"] != SERVER)):
        first, between = (
            (f"{one[f'first_token_p{share}']:.2f} s" for share in (50, 95)),
            (f"{1000 * one[f'between_p{share}']:.1f} ms" for share in (50, 95)),
        )
        cells = [str(one["users"]), one["side"], f"{one['tokens_per_second']:.0f}", *first, *between, f"{one['failures']:.0f}"]
        print(f"| {' | '.join(cells)} |")
    for users in options.users if options.llama else ():
        pairs = zip(rounds[SERVER, users], rounds[LLAMA, users], strict=True)
        ratios = sorted(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs)
        print(f"{users} users: {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] times llama.cpp's tokens a second")
    told = {"model": options.model, "prompt": PROMPT, "tokens": TOKENS, "seconds": options.seconds, "slots": options.slots}
    print(json.dumps(told | {"threads": options.threads, "results": results, "machine": describe(), "versions": versions()}))


if __name__ == "__main__":
    main()
