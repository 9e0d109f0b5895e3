"""Writes docs/challenges.md from the results kept in docs/results: challenge -> command -> figure -> evidence.

    python docs/tools/challenges.py            (`make docs` does it; `--check` only says whether the page is what it should be)

A figure stands here only if an experiment measured it and kept it. Where there is none, or its claim did not hold, the row says
"not shown". The README's table, between the two marks named below, is the short form of the same rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.core.files import write_text

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "challenges.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- challenges: begin -->", "<!-- challenges: end -->"
NOT_SHOWN = "not shown"


@dataclass(frozen=True)
class Figure:
    """Where a figure is kept: the experiment, the arm and the metric, and what the figure is, in words."""

    experiment: str
    arm: str
    metric: str
    words: str


@dataclass(frozen=True)
class Challenge:
    """One open challenge, and the figures that speak to it."""

    name: str
    question: str
    figures: tuple[Figure, ...] = ()


CHALLENGES = (
    Challenge(
        "Hallucination",
        "Does the model say what is true, and say so when it does not know?",
        (Figure("retrieve", "library", "truthful", "truthfulness score with passages from an encyclopedia"),),
    ),
    Challenge(
        "Context",
        "Is what the model is given to read put to use?",
        (Figure("retrieve", "library", "right", "facts right with passages from an encyclopedia"),),
    ),
    Challenge("Modalities", "Images, sound, video, molecules."),
    Challenge(
        "Speed and cost",
        "The same answers sooner, in less memory.",
        (
            Figure("prompt_lookup", "lookup", "passes_per_token", "forward passes a token on answers that quote, text unchanged"),
            Figure("self_speculative", "self_speculative", "passes_per_token", "whole passes a token, guessing without every fourth block"),
            Figure(
                "batching",
                "continuous",
                "passes_per_token",
                "passes a token where answers of mixed lengths come and go, beside static batches",
            ),
            Figure("quantize", "int8", "weights", "megabytes of weights in 8 bits, beside bfloat16"),
            Figure("numerics", "stored", "weights", "megabytes of weights in the file's own blocks, beside bfloat16"),
            Figure("numerics", "stored", "bits_per_byte", "bits a byte in the file's own blocks, beside bfloat16"),
            Figure("quantize", "int8", "bits_per_byte", "bits a byte in 8 bits, beside bfloat16"),
            Figure("kv_cache", "bits_4", "cache", "megabytes of 8,192 tokens' keys and values in 4 bits, beside float32"),
            Figure("kv_cache", "bits_4", "bits_per_byte", "bits a byte with a cache in 4 bits, beside float32"),
            Figure("offload", "offload", "peak_memory", "megabytes that a model of 538 takes with its blocks on disk, logits unchanged"),
        ),
    ),
    Challenge(
        "Architectures",
        "Other mixers than attention, in a fair race.",
        (
            Figure("mamba", "selective", "characters_right", "marks found 8 times farther back than trained, beside a time-invariant twin"),
            Figure("rwkv", "rwkv", "bits_per_byte", "bits a byte at 16 times the length trained, beside the trained length"),
            Figure("moe", "experts", "bits_per_byte", "bits a byte of experts, beside a dense channel of equal operations"),
            Figure(
                "recurrent_gemma", "gated", "characters_right", "marked letters found by gates that hear the token, beside constant rates"
            ),
            Figure("s4", "hippo", "characters_right", "delayed letters held by S4 from HiPPO's start, beside a random one"),
            Figure(
                "ternary",
                "ternary",
                "bits_per_byte",
                "bits a byte with maps of three values, trained so, beside floats; 15% more was the claim",
            ),
            Figure("performer", "1024 features", "recalled", "recalled by a kernel of 1,024 random features, beside 64"),
            Figure(
                "patches", "entropy patches", "bits_per_byte", "bits a byte of bytes in entropy patches, beside tokens at equal operations"
            ),
            Figure("long_range", "lstm", "characters_right", "marks found 4 times farther back than trained by an LSTM, beside attention"),
            Figure("scaling", "law", "loss", "nats a byte that a law of small trainings foretells of a larger one, and what it reached"),
        ),
    ),
    Challenge("Hardware", "Photonic, analog and other processors."),
    Challenge("Agents", "Plans, tools and their budgets."),
    Challenge(
        "Human preference",
        "Learning from what people prefer.",
        (
            Figure("circle", "taught", "own_answer", "bits a byte by which a corrected answer fits its own question, after 48 corrections"),
            Figure("circle", "taught", "right", "wanted answers written, letter for letter, where none was corrected"),
        ),
    ),
    Challenge(
        "The chat interface",
        "What people need around a model that answers.",
        (Figure("places", "quote", "right figure", "answers about a table that quote a computed figure state the right one"),),
    ),
    Challenge(
        "Other languages",
        "Quality and cost beyond English.",
        (
            Figure("languages", "German", "tokens", "tokens of the same problem in German, beside English"),
            Figure("languages", "Telugu", "tokens", "tokens of the same problem in Telugu, beside English"),
            Figure("languages", "Telugu", "bits", "bits of the same problem in Telugu, beside English"),
        ),
    ),
    Challenge(
        "Evaluation at scale",
        "Can a verdict be trusted?",
        (
            Figure("error_rate", "adjusted", "false claims", "of simulated A/A reports make a false claim; 5% is stated"),
            Figure("coverage", "paired", "coverage", "of simulated pairs have their true difference inside the 95% interval"),
            Figure("planted_defect", "wrong_template", "right", "facts right under a planted defect, which must come out worse"),
            Figure("arena", "arena", "intervals that hold it", "of an arena's 95% intervals hold the planted rating"),
            Figure(
                "judge", "80% judge", "intervals that hold it", "of intervals by a judge who errs in one pair of five hold the true share"
            ),
        ),
    ),
    Challenge(
        "Uncertainty",
        "Does confidence mean anything?",
        (
            Figure("uncertainty", "joint_probability", "auroc", "AUROC of planted facts beside guesses, by the tokens' probability"),
            Figure("uncertainty", "p_ik", "auroc", "AUROC of a probe on the hidden state, on facts it was not fitted on"),
            Figure("abstain", "abstain", "limits broken", "of random splits broke a limit that 10% may break"),
        ),
    ),
    Challenge(
        "Bias",
        "Whom do errors hit?",
        (
            Figure("fairness", "base", "stereotyped", "of pairs the more stereotyped sentence is the likelier to the model; half is none"),
            Figure("fairness", "by name", "origin_words_gap", "words' gap between English and Arabic names, where it was planted"),
        ),
    ),
    Challenge(
        "Generalisation",
        "Is what was learned of use on what was never seen?",
        (
            Figure("sft", "taught", "valid", "answers valid on forms that share no subject and no key with those trained on"),
            Figure("reversal", "both ways", "picked", "asked the other way round who somebody is: told in both orders, beside told in one"),
        ),
    ),
    Challenge(
        "Slow thinking",
        "More computation for harder questions.",
        (
            Figure("recurrent_depth", "looped, 2 loops", "recalled", "recalled when a block is looped twice, beside once"),
            Figure("repair", "both", "valid", "forms valid when asked again with the fault named, beside form put right without asking"),
        ),
    ),
    Challenge("Memory", "What was said last week."),
    Challenge(
        "Openness",
        "Models that anyone's tools open, results that anyone can repeat.",
        (
            Figure(
                "open_formats", "saved", "largest difference", "largest logit difference to transformers on a saved model; allowed is 1e-4"
            ),
        ),
    ),
)
"""The seventeen, in the order people meet them."""


def results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Every full experiment's result, by name."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        value = json.loads(path.read_text(encoding="utf-8"))
        if "experiment" in value and not value["reduced"]:
            found[value["experiment"]] = value
    return found


def find(figure: Figure, kept: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A figure's result and cell, or None where nothing is kept."""
    result = kept.get(figure.experiment)
    for cell in result["cells"] if result else ():
        if (cell["arm"], cell["metric"]) == (figure.arm, figure.metric):
            return result, cell
    return None


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def told(cell: dict[str, Any]) -> str:
    """A cell as one phrase: from, to, the interval of the difference (of the value, where both sides are equal case by case), the verdict,
    and what an equivalence allows."""
    if cell["value"] is None:
        return "no value"
    change = f"{number(cell['base'])} → {number(cell['value'])}" if cell["base"] is not None else number(cell["value"])
    interval = ""
    if cell["verdict"] == "identical" and cell["value_interval"] and cell["value_interval"][0] != cell["value_interval"][1]:
        interval = " [{}, {}]".format(*map(number, cell["value_interval"]))  # equal case by case: only the share itself is in doubt
    elif cell["verdict"] != "identical" and cell["low"] is not None and cell["low"] != cell["high"]:
        interval = f", difference {cell['difference']:+.3g} [{cell['low']:+.3g}, {cell['high']:+.3g}]"
    count = f", n = {cell['n']}" if cell["n"] > 1 else ""
    allowed = f" within ±{number(cell['margin'])}" if cell["verdict"] == "equivalent" and cell.get("margin") else ""
    return f"{change} {cell['unit']}{interval}{count}: {cell['verdict']}{allowed}"


def evidence(result: dict[str, Any], cell: dict[str, Any]) -> str:
    """How far the claim reaches: the experiment's own level where claim and controls held."""
    sound = all(control["holds"] for control in result["controls"])
    return result["evidence"] if cell["holds"] and sound else NOT_SHOWN


def rows(kept: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """(challenge, command, figure, evidence), one for each figure, or one that says it is not shown."""
    for challenge in CHALLENGES:
        found = [(figure, *at) for figure in challenge.figures if (at := find(figure, kept))]
        if not found:
            yield f"**{challenge.name}**. {challenge.question}", "", "", NOT_SHOWN
        for place, (figure, result, cell) in enumerate(found):
            name = f"**{challenge.name}**. {challenge.question}" if place == 0 else ""
            yield name, f"`{result['command']}`", f"{figure.words}: {told(cell)}", evidence(result, cell)


def table(kept: dict[str, dict[str, Any]]) -> str:
    lines = ["| challenge | command | figure | evidence |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(kept))])


def experiment(result: dict[str, Any]) -> str:
    """One experiment in full: what was expected, what was found, where."""
    machine, versions = result["machine"], result["versions"]
    worked = f" ({result['processor_seconds']:.0f} s of processor time)" if "processor_seconds" in result else ""
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB; " + ", ".join(
        f"{name} {versions[name]}" for name in ("steelyard", "torch", "transformers") if name in versions
    )
    lines = [
        f"### {result['experiment']}",
        "",
        f"Hypothesis: {result['hypothesis']}  ",
        f"Control: {result['control']}  ",
        f"Outcome: **{result['outcome']}**; evidence: {result['evidence'] if result['outcome'] == 'as expected' else NOT_SHOWN}.",
        "",
        "| | claim | figure | holds |",
        "| --- | --- | --- | --- |",
    ]
    for kind in ("cells", "controls"):
        for cell in result[kind]:
            part = "control" if kind == "controls" else "hypothesis"
            lines.append(f"| {part} | {cell['claim']} | {cell['metric']} {told(cell)} | {'yes' if cell['holds'] else 'no'} |")
    lines += ["", *(f"Note: {note}  " for note in result["notes"])]
    lines.append(
        f"`{result['command']}`, seed {result['seed']}, {result['started'][:10]}, {result['seconds']:.0f} s{worked}, load average "
        f"{result['load_average']:.1f} at the start; {where}. [All of it as JSON](results/{result['experiment']}.json)."
    )
    return "\n".join(lines)


def page(kept: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    shown = "\n\n".join(experiment(result) for result in kept.values()) or "No experiment's result is kept yet."
    return f"""<!-- Written by docs/tools/challenges.py from docs/results. Change those, then run `make docs`. -->
# Open challenges, and what is shown here

Each row names a challenge, the command that measures something about it, the figure that command gave with its 95% interval, and how
far the claim reaches: *mechanism* (shown on data or models made for it), *real model* (SmolLM2-135M-Instruct or larger), *at scale*,
or *not shown*. A figure whose claim did not hold is printed with its verdict and counts as not shown. SmolLM2-135M is small: what
holds for it may not hold for a model a hundred times its size.

{table(kept)}

## The experiments

Every experiment has a hypothesis and a negative control, takes at most five minutes on two idle cores, and keeps its result. An outcome
is *as expected*, *no effect at this scale*, *contrary*, or *control failed* (then nothing of it is to be believed).

{shown}
"""


def with_table(readme: str, kept: dict[str, dict[str, Any]]) -> str:
    """The README with its table renewed, where it has the marks for one."""
    if BEGIN not in readme or END not in readme:
        return readme
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{before}{BEGIN}\n{table(kept)}\n{END}{after}"


def main() -> None:
    kept = results()
    wanted = {PAGE: page(kept), README: with_table(README.read_text(encoding="utf-8"), kept)}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        sys.exit(f"not what docs/results says: {', '.join(path.name for path in stale)}; run `make docs`" if stale else 0)
    for path in stale:
        write_text(path, wanted[path])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
