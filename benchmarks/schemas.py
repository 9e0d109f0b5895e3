"""What constraints make of real JSON schemas and of the specification's own cases: accepted, refused, wrong; counted over all of them.

    python benchmarks/schemas.py [--data DIR] [--model smollm2-135m-instruct] [--sample N]

Reads `maskbench_dev.jsonl` (schemas from the web with instances, arXiv:2501.10868) and the folder `json_schema_tests` (JSON Schema's
own test suite, draft 2020-12). A schema is compiled or refused by name. Every instance is then spelled in the tokens of a real
vocabulary: it is accepted if each token is permitted where it comes and the end token after the last. A valid instance that is not
accepted is tried in other spellings of the same value (keys in another order, 1 for 1.0), as the grammar offers only one. Beside it
stands the check that a finished answer passes once more (`jsonschema`). No model runs. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import steelyard
from steelyard.core.errors import UnsupportedError
from steelyard.core.hardware import describe, versions
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.constraints import schemas
from steelyard.generate.constraints.constraint import Constrained
from steelyard.generate.constraints.grammars import Grammar, of_schema
from steelyard.generate.spec import EngineSpec
from steelyard.weigh.statistics.intervals import wilson

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("maskbench_dev.jsonl", "json_schema_tests")
MOST_KEYS = 5
"""Objects of more keys are not tried in every order."""


def groups(path: Path) -> list[dict[str, Any]]:
    """Schemas with their instances: {"name", "schema", "tests": [{"data", "valid", "description"}]}."""
    if path.is_dir():
        return [{"name": file.stem, **group} for file in sorted(path.glob("*.json")) for group in json.loads(file.read_text("utf-8"))]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def permitted(grammar: Grammar, spec: EngineSpec, text: str) -> bool:
    """Whether a model could write a text token by token and end there."""
    tokenizer = spec.model.tokenizer
    assert tokenizer is not None
    session = Constrained.of(grammar, spec).start(AnswerSettings())
    for token in tokenizer.encode(text, special=False):
        if not session.permits(token):
            return False
        session.advance(token)
    return session.permits(tokenizer.eos_ids[0])


def spellings(value: Any) -> Iterator[Any]:
    """The same value with keys in every order, and with whole numbers written without a point."""
    if isinstance(value, float) and value.is_integer():
        yield from (int(value), value)
    elif isinstance(value, list):
        yield from map(list, itertools.product(*map(spellings, value)))
    elif isinstance(value, dict):
        orders = itertools.permutations(value) if len(value) <= MOST_KEYS else [tuple(value)]
        for order in orders:
            yield from (dict(zip(order, inner, strict=True)) for inner in itertools.product(*(spellings(value[key]) for key in order)))
    else:
        yield value


def written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def judged(cases: list[dict[str, Any]], spec: EngineSpec) -> dict[str, Any]:
    """Counts, reasons of refusals, and every instance that went wrong."""
    counts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    for case in cases:
        try:
            grammar = of_schema(case["schema"])
        except UnsupportedError as error:
            counts["schemas refused by name"] += 1
            counts["instances of refused schemas"] += len(case["tests"])
            reasons[error.what.removeprefix("it cannot be honoured: ")[:90]] += 1
            continue
        counts["schemas honoured"] += 1
        for test in case["tests"]:
            text, kind = written(test["data"]), "valid" if test["valid"] else "invalid"
            passes = permitted(grammar, spec, text)
            if test["valid"] and not passes and any(permitted(grammar, spec, written(other)) for other in spellings(test["data"])):
                outcome = "accepted in another spelling"
            else:
                outcome = "accepted" if passes else "refused"
            counts[f"{kind} {outcome}"] += 1
            if (outcome == "refused") == test["valid"]:
                wrong.append(f"{case['name']}: {test.get('description')}: {text[:100]}")
            found = schemas.complaint(text, case["schema"]) is not None
            counts["check: valid complained of"] += found and test["valid"]
            counts["check: invalid found"] += found and not test["valid"]
    right = sum(counts[name] for name in ("valid accepted", "valid accepted in another spelling", "invalid refused"))
    n = right + len(wrong)
    low, high = wilson(right, n, 0.05) if n else (0.0, 1.0)
    return {
        "schemas": len(cases),
        **counts,
        "instances judged": n,
        "right": right / n if n else None,
        "right_interval": [round(low, 4), round(high, 4)],
        "wrong": wrong,
        "reasons": dict(reasons.most_common()),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=DATA, help="the folder that holds both sets")
    options.add_argument("--model", default="smollm2-135m-instruct", help="whose vocabulary texts are spelled in")
    options.add_argument("--sample", type=int, help="so many schemas of each set, drawn with seed 7; all of them if left out")
    chosen = options.parse_args()
    spec = EngineSpec(steelyard.load(chosen.model, dtype="stored"))
    results: dict[str, Any] = {}
    for name in SETS:
        if not (chosen.data / name).exists():
            raise SystemExit(f"{name} is not in {chosen.data}: give its folder with --data")
        cases, started = groups(chosen.data / name), time.perf_counter()
        if chosen.sample is not None:
            cases = random.Random(7).sample(cases, min(chosen.sample, len(cases)))
        results[name] = judged(cases, spec)
        print(f"{name} ({time.perf_counter() - started:.0f} s)")
        for key, value in results[name].items():
            if key not in ("wrong", "reasons"):
                print(f"  {key:36} {value}")
        for reason, count in results[name]["reasons"].items():
            print(f"    refused {count:3}  {reason}")
        for line in results[name]["wrong"]:
            print(f"    wrong  {line}")
    print(json.dumps({"model": chosen.model, "sample": chosen.sample, "results": results, "versions": versions(), "machine": describe()}))


if __name__ == "__main__":
    main()
