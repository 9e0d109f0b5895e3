"""The small circle closes: corrections made on the page are exported, learned and weighed on corrections that were held out.

The control learns the same file with its answers shuffled among its questions. They teach how a line is written as well as the right
ones do; what they cannot teach is which line belongs to a note. So the verdict is on `own_answer` of the task `corrections`, in which
what makes all lines likelier alike cancels out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from acceptance.circle_server import (
    browsing,
    correct_by_calls,
    correct_on_page,
    exported_by_calls,
    exported_by_page,
    serving,
)
from acceptance.customers import Note, notes
from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding
from steelyard.core.errors import SteelyardError
from steelyard.train.make import make
from steelyard.train.supervised.sft import Sft
from steelyard.weigh.report.report import Cell
from steelyard.weigh.runner import weigh

NO_GAIN = ("worse", "underpowered", "equivalent", "identical", "floor")


def gathered(bench: Bench, learned: list[Note], held: list[Note], typed: int) -> list[dict[str, Any]]:
    """What a person's export holds after all notes were asked and their answers corrected, the first `typed` of them on the page."""
    with serving(MODEL, bench.directory / "served") as url:
        if typed:
            with browsing(url) as tab:
                correct_on_page(tab, learned[:typed])
                correct_by_calls(url, MODEL, learned[typed:] + held)
                tab.reload()
                text = exported_by_page(tab)
        else:
            correct_by_calls(url, MODEL, learned + held)
            text = exported_by_calls(url)
    rows = [json.loads(line) for line in text.splitlines()]
    wanted = {note.text: note.line for note in learned + held}
    if {row["messages"][0]["content"]: row["messages"][-1]["content"] for row in rows} != wanted or len(rows) != len(wanted):
        raise SteelyardError(f"the export's {len(rows)} rows are not the {len(wanted)} corrections that were made")
    return rows


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every question with the answer of the one half a file further on."""
    answers = [row["messages"][-1] for row in rows]
    shift = len(rows) // 2
    return [
        row | {"messages": [*row["messages"][:-1], answer]} for row, answer in zip(rows, answers[shift:] + answers[:shift], strict=True)
    ]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def weighed(bench: Bench, task: str, settings: dict[str, Any]) -> dict[tuple[str, str], Cell]:
    """(arm, metric) -> cell of one task, from the report of a weighing of both made models beside the base."""
    arms = {name: {"base": str(bench.directory / name)} for name in ("taught", "shuffled")}
    recipe = {"base": MODEL, "arms": arms, "tasks": [{task: settings}], "axes": ["quality"], "seed": bench.seed}
    path = bench.directory / f"weigh-{task}.yaml"
    path.write_text(json.dumps(recipe))
    return {(cell.arm, cell.metric): cell for cell in weigh(path, bench.directory / task, say=bench.say).cells}


def run(bench: Bench) -> Finding:
    count, asked, typed = bench.pick((48, 24, 6), (4, 4, 0))
    learned, held = notes("learned", count, bench.seed), notes("held out", asked, bench.seed)
    bench.directory.mkdir(parents=True, exist_ok=True)
    rows = gathered(bench, learned, held, typed)
    here = bench.directory
    written(here / "held.jsonl", rows[count:])
    written(here / "lines.jsonl", [{"prompt": note.text, "check": {"contains": note.line}} for note in held])
    settings = {"epochs": bench.pick(2, 1), "batch": 4, "learning_rate": 5e-4, "rank": 16}
    for name, part in (("taught", rows[:count]), ("shuffled", shuffled(rows[:count]))):
        recipe = {"base": MODEL, "steps": [{"sft": {"data": str(written(here / f"{name}.jsonl", part)), **settings}}], "seed": bench.seed}
        (here / f"{name}.yaml").write_text(json.dumps(recipe))
        make(here / f"{name}.yaml", here / name, say=bench.say)
    cells = weighed(bench, "corrections", {"path": str(here / "held.jsonl")})
    if not bench.reduced:
        cells |= weighed(bench, "chat", {"path": str(here / "lines.jsonl"), "max_tokens": 32})
    claims = [
        Claim("corrections that were held out become likelier", cells["taught", "bits_per_byte"], ("better",)),
        Claim("each note's own line gains on other notes' lines", cells["taught", "own_answer"], ("better",)),
        Claim("shuffled corrections do not teach which line belongs to a note", cells["shuffled", "own_answer"], NO_GAIN, control=True),
    ]
    if not bench.reduced:
        claims.insert(2, Claim("the line that was wanted is written, letter for letter", cells["taught", "right"], ("better",)))
        claims.append(Claim("nor is one wanted line written after them", cells["shuffled", "right"], NO_GAIN, control=True))
    form = cells["shuffled", "bits_per_byte"]
    return Finding(
        claims,
        {"taught": [Sft(data="taught.jsonl", **settings)]},
        [
            f"{count} corrections learned, {asked} held out (other things, troubles, names and wordings); {typed} were typed into the page's "
            f"own form in Chromium, the others sent by the same calls of the API; exported {'by the page' if typed else 'by its call'}.",
            f"Bits a byte fall with shuffled corrections too, {_number(form.base)} to {_number(form.value)}: they teach how such lines are "
            "written, which is why the verdict is on own_answer.",
            "One training seed.",
        ],
    )


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3g}"


EXPERIMENT = Experiment(
    "circle",
    "",
    "Corrections made on the page, exported and learned by sft, make held-out corrections of the same kind likelier and get them written.",
    "The same corrections shuffled among their questions must teach neither which line belongs to a note nor to write it.",
    "real model",
    run,
    needs=("smollm",),
    in_ci=False,  # a server, a training and two weighings
)
