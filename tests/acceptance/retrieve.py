"""Looking questions up in an encyclopedia makes more answers right; looking them up among articles with exchanged names does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from acceptance.experiment import Bench, Claim, Experiment, Finding, cells
from steelyard.augment.retrieve.retrieve import Retrieve
from steelyard.core.levers import Lever
from steelyard.core.references import IndexRef
from steelyard.data import encyclopedia
from steelyard.weigh.tasks.facts import Facts


def exchanged(path: Path) -> Path:
    """The encyclopedia with articles under one another's names, within a topic: found as before, fluent, and about something else."""
    topics: dict[str, list[encyclopedia.Article]] = {}
    for article in encyclopedia.read().values():
        topics.setdefault(article.topic, []).append(article)
    rows = []
    for articles in topics.values():
        shift = max(1, len(articles) // 2)
        for article, other in zip(articles, [*articles[shift:], *articles[:shift]], strict=True):
            rows.append({"title": article.title, "text": other.extract.replace(other.title, article.title)})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(bench: Bench) -> Finding:
    other = exchanged(bench.directory / "exchanged.jsonl")
    arms: dict[str, Sequence[Lever]] = {"library": [Retrieve()], "exchanged": [Retrieve(documents=IndexRef(str(other)))]}
    task = Facts(answerable=bench.pick(90, 12), invented=bench.pick(20, 0), max_tokens=bench.pick(24, 12))
    asked = bench.ask(task, arms)
    found = {arm: cells(task, asked, arm) for arm in arms}
    given = {arm: sum(bool(trials[0].citations) for trials in asked[arm][0].outputs) for arm in arms}
    nothing = ("floor", "identical", "equivalent", "underpowered", "worse")
    return Finding(
        [
            Claim("more facts are right", found["library"]["right"], ("better",)),
            *([] if bench.reduced else [Claim("answers are more truthful", found["library"]["truthful"], ("better",))]),
            Claim("passages under the wrong name make no more of them right", found["exchanged"]["right"], nothing, control=True),
        ],
        {"library": arms["library"]},
        [f"Questions that were given passages: {given['library']} with the encyclopedia, {given['exchanged']} with the exchanged one."],
    )


EXPERIMENT = Experiment(
    "retrieve",
    "retrieve",
    "Passages from an encyclopedia, given with the question, make more closed-book facts right.",
    "The same encyclopedia with articles under one another's names must not.",
    "real model",
    run,
    needs=("smollm", "encyclopedia"),
)
