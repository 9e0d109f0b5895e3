"""Two filled-in forms shown first make more answers valid; two turns about something else do not. Wordings vary: that is shown beside."""

from __future__ import annotations

import random
from collections.abc import Sequence

from acceptance.experiment import Bench, Claim, Experiment, Finding, cells
from steelyard.augment.prompt.prompt import Prompt
from steelyard.core.levers import Lever
from steelyard.core.seeds import derive
from steelyard.data.generated.forms import training_pair
from steelyard.weigh.tasks.json_forms import JsonForms

WORDINGS = (
    "You fill in forms. Answer with one JSON object and nothing else.",
    "Output JSON only.",
    "Read the text carefully, then write the requested keys with their values as a JSON object.",
)


def run(bench: Bench) -> Finding:
    filled = [training_pair(random.Random(derive(bench.seed, "shown", number))) for number in range(2)]
    other = [("Who wrote the play Hamlet?", "William Shakespeare."), ("Name the capital of Italy.", "Rome.")]
    arms: dict[str, Sequence[Lever]] = {
        "shown": [Prompt(examples=[{"user": question, "assistant": answer} for question, answer in filled])],  # type: ignore[arg-type]
        "elsewhere": [Prompt(examples=[{"user": question, "assistant": answer} for question, answer in other])],  # type: ignore[arg-type]
    }
    worded = {f"wording {number}": [Prompt(system=text)] for number, text in enumerate(bench.pick(WORDINGS, ()), 1)}
    task = JsonForms(forms=bench.pick(30, 4), fields=2, shown=0, max_tokens=bench.pick(48, 20))
    asked = bench.ask(task, {**arms, **worded})
    found = {arm: cells(task, asked, arm) for arm in asked if arm != "base"}
    nothing = ("floor", "identical", "equivalent", "underpowered", "worse")
    spread = ", ".join(f"{found[arm]['parses'].value:.2f}" for arm in worded)
    return Finding(
        [
            Claim("more answers are nothing but JSON", found["shown"]["parses"], ("better",)),
            Claim("more fields hold the right value", found["shown"]["fields"], ("better",)),
            Claim("two turns about something else bring no more right fields", found["elsewhere"]["fields"], nothing, control=True),
        ],
        {"shown": arms["shown"]},
        [f"System prompts of three wordings, without examples, made this share of answers nothing but JSON: {spread}."] if worded else [],
    )


EXPERIMENT = Experiment(
    "prompt",
    "prompt",
    "Two examples of filled-in forms, given as earlier turns, make more answers well-formed and right.",
    "Two earlier turns about something else must not make more fields right.",
    "real model",
    run,
    needs=("smollm",),
)
