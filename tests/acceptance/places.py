"""On generated tables a small model's answer states the figure that the server computed; without the figures it states another."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from acceptance.circle_server import PATIENCE, serving
from acceptance.experiment import MODEL, Bench, Claim, Experiment, Finding, compared, counted
from steelyard.core.seeds import derive
from steelyard.weigh.tasks.task import Metric

TASK = "figures of generated tables"
RIGHT = Metric("right figure", "quality", "share", True, margin=0.02, floor=0.0, binary=True)
TOLD = 5e-6  # relative: figures are told with six significant digits
TOKENS = 32
AT_ONCE = 4
COMPUTED = "Figures computed by the server"
ROWS_OF = {"river": "length", "city": "height", "farm": "output", "book": "price", "machine": "weight"}
NAMES = "Alder Birch Cedar Dogwood Elm Fir Gorse Hazel Ivy Juniper Larch Maple Oak Pine Rowan Spruce Teak Willow".split()
ASKED: dict[str, tuple[tuple[str, str], Callable[[Sequence[float]], float]]] = {
    "mean": (("What is the mean of {column}?", "How much is {column} on average?"), statistics.fmean),
    "sum": (("What is the sum of {column}?", "What do all values of {column} add up to?"), math.fsum),
    "maximum": (("What is the maximum of {column}?", "What is the largest {column}?"), max),
}


@dataclass(frozen=True)
class Made:
    """A generated table.

    Attributes:
        name: of its file.
        column: the one that is asked about.
        content: the file.
        numbers: of that column, as they were drawn, before anything read them from the file.
    """

    name: str
    column: str
    content: str
    numbers: tuple[float, ...]


def made(seed: int) -> Made:
    """A table of 8 to 14 named rows in two groups, with numbers of one to five digits before the decimal sign."""
    rng = random.Random(seed)
    thing = rng.choice(sorted(ROWS_OF))
    names = rng.sample(NAMES, rng.randint(8, 14))
    numbers = tuple(round(rng.uniform(1, 10 ** rng.randint(1, 5)), rng.randint(0, 2)) for _ in names)
    separator, comma = rng.choice(((",", "."), (";", ",")))
    lines = [separator.join((thing, "region", ROWS_OF[thing]))]
    for name, number in zip(names, numbers, strict=True):
        lines.append(separator.join((name, rng.choice(("north", "south")), f"{number:.2f}".replace(".", comma))))
    return Made(f"{thing}s.csv", ROWS_OF[thing], "\n".join(lines), numbers)


def states(answer: str, figure: float) -> bool:
    """Whether one of the numbers in an answer is the figure, to the digits that figures are told with."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", answer)
    return any(math.isclose(float(number), figure, rel_tol=TOLD) for number in re.findall(r"-?\d+(?:\.\d+)?", plain))


def asked(client: httpx.Client, source: dict[str, str], question: str, *, figures: bool, quote: bool) -> tuple[str, str]:
    """What went along with a question about the last column, and the answer; greedy.

    Args:
        client: of the server.
        source: the attached file.
        question: its words.
        figures: whether the figures go along, or the rows alone.
        quote: whether the answer is held to be one of them.
    """
    place = {"type": "place", "source": source, "selection": {"kind": "column", "column": 2}}
    told = _called(client, "/api/places", {"place": place})["text"]
    rows = told.split(COMPUTED)[0].rstrip()
    parts = [place if figures else {"type": "text", "text": rows}, {"type": "text", "text": question}]
    conversation = _called(client, "/api/conversations", {})["id"]
    message = _called(client, f"/api/conversations/{conversation}/messages", {"role": "user", "parts": parts})["id"]
    body = {"parent": message, "model": MODEL, "settings": {"max_tokens": TOKENS, "quote": quote, "alternatives": 0}, "store": False}
    answer = []
    with client.stream("POST", f"/api/conversations/{conversation}/answer", json=body) as stream:
        stream.raise_for_status()
        for line in stream.iter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            answer.append(event["text"] if event.get("type") == "text" else "")
    return told if figures else rows, "".join(answer)


def _called(client: httpx.Client, path: str, body: Any) -> Any:
    answered = client.post(path, json=body)
    answered.raise_for_status()
    return answered.json()


def run(bench: Bench) -> Finding:
    tables = [made(derive(bench.seed, "table", number)) for number in range(bench.pick(20, 2))]
    kinds = list(ASKED)[: bench.pick(3, 2)]
    right: dict[str, list[float]] = {}
    sent = 0
    with serving(MODEL, bench.directory) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        sources = []
        for table in tables:
            kept = client.post("/api/attachments", content=table.content.encode(), headers={"X-Name": table.name})
            sources.append({"attachment": kept.json()["id"]})
        cases = [(number, kind) for number in range(len(tables)) for kind in kinds]

        def one(arm: str, case: tuple[int, str]) -> tuple[str, bool]:
            number, kind = case
            wordings, compute = ASKED[kind]
            question = wordings[arm == "other words"].format(column=tables[number].column)
            source = sources[(number + 1) % len(tables) if arm == "elsewhere" else number]
            told, answer = asked(client, source, question, figures=arm != "rows", quote=arm not in ("rows", "figures"))
            return told, states(answer, compute(tables[number].numbers))

        for arm in ("rows", "figures", "quote", "other words", "elsewhere"):
            with ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(lambda case, arm=arm: one(arm, case), cases))
            right[arm] = [float(hit) for _, hit in answers]
            if arm == "quote":
                exact = ((told, ASKED[kind][1](tables[number].numbers)) for (told, _), (number, kind) in zip(answers, cases, strict=True))
                sent = sum(states(told.split(COMPUTED)[1], figure) for told, figure in exact)
            bench.say(f"{arm}: {sum(right[arm]):g} of {len(cases)} answers state the figure")
    n = len(cases)
    whole = [all(right["quote"][place] for place, case in enumerate(cases) if case[0] == number) for number in range(len(tables))]
    clusters = [str(number) for number, _ in cases]
    quoted, hits = int(sum(right["quote"])), int(sum(right["elsewhere"]))
    return Finding(
        [
            Claim(
                "the figure that goes along is the one computed apart from the server",
                counted("figures", TASK, "sent along", sent, n, "identical" if sent == n else "worse"),
                ("identical",),
            ),
            Claim(
                "a free answer states the right figure more often with the figures sent along",
                compared("figures", TASK, RIGHT, right["rows"], right["figures"], clusters),
                ("better",),
            ),
            Claim(
                "an answer that quotes states the right figure",
                counted("quote", TASK, "right figure", quoted, n, "identical" if quoted == n else "worse"),
                ("identical",),
            ),
            Claim(
                "on every table all answers that quote state the right figure",
                counted("quote", TASK, "tables all right", sum(whole), len(tables), "identical" if all(whole) else "worse"),
                ("identical",),
            ),
            Claim(
                "asked in other words than those of the figures, one that quotes is right more often than a free one asked in theirs",
                compared("other words", TASK, RIGHT, right["figures"], right["other words"], clusters),
                ("better",),
            ),
            Claim(
                "without the figures the same questions are rarely answered rightly",
                counted(
                    "rows",
                    TASK,
                    "right figure",
                    int(sum(right["rows"])),
                    n,
                    "worse" if sum(right["rows"]) < n / 2 else "identical",
                    note="the largest number stands among the rows and could be read off",
                ),
                ("worse",),
                control=True,
            ),
            Claim(
                "the figures of another table give no right answer",
                counted("elsewhere", TASK, "right figure", hits, n, "better" if hits else "identical", base=0.0),
                ("identical",),
                control=True,
            ),
        ],
        notes=[
            f"Through the server, on {len(tables)} generated tables with {len(kinds)} questions each, greedy, at most {TOKENS} tokens; in the "
            "words of the figures but for the arm `other words`.",
            f"A figure counts as stated where a number of the answer is within {TOLD:g} of it.",
            "Right of all: " + ", ".join(f"{arm} {sum(each):g} of {n}" for arm, each in right.items()) + ".",
        ],
    )


EXPERIMENT = Experiment(
    "places",
    "",
    "The figures that the server sends along with a question about a table are what a small model's answer states, always where it quotes.",
    "The same questions without the figures, and with those of another table, must not be answered rightly.",
    "real model",
    run,
    needs=("smollm",),
    in_ci=False,
)
