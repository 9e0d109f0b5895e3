"""The watermark: its key finds it in text alone, no other key does, and unmarked text is taken for marked as seldom as stated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

import torch
from scipy.stats import binom

from acceptance.experiment import Bench, Claim, Experiment, Finding, compared, counted
from acceptance.stories import questions, written
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.processor import View
from steelyard.generate.processors.green_lists import FALSE_POSITIVES, Detection, GreenLists, detect
from steelyard.generate.processors.watermark import Mark, MarkSession, Watermark
from steelyard.generate.spec import EngineSpec
from steelyard.weigh.report.report import Cell
from steelyard.weigh.statistics.intervals import wilson
from steelyard.weigh.tasks.task import Metric

Z = Metric("z_score", "quality", "standard deviations", True, margin=0.5)
ROOT = Metric("z_per_root_of_n", "quality", "1/sqrt(n-grams)", True, margin=0.15)
BAR, ALPHA = 4.0, 0.05
WHAT = "made-up stories"


class Weighed(Watermark):
    """The lever, and what it costs at each step: the surprise that the model feels at words drawn from its own distribution (the
    entropy) and at words drawn from the marked one."""

    def decode(self, spec: EngineSpec) -> EngineSpec:
        *others, mark = super().decode(spec).processors
        return replace(spec, processors=(*others, WeighedMark(mark.lists, mark.delta)))  # type: ignore[attr-defined]


COSTS: list[list[tuple[float, float]]] = []
"""Of each story of the last run, in the order they began: nats expected at each token without and with the mark."""


class WeighedMark(Mark):
    def start(self, settings: AnswerSettings) -> WeighedSession:
        COSTS.append([])
        return WeighedSession(super().start(settings), COSTS[-1])


@dataclass(frozen=True)
class WeighedSession:
    session: MarkSession
    costs: list[tuple[float, float]]

    def __call__(self, logits: torch.Tensor, view: View) -> torch.Tensor:
        shaped = self.session(logits, view)
        logprobs = torch.log_softmax(logits.double(), -1)
        expected = [-float((probabilities * logprobs).sum()) for probabilities in (logprobs.exp(), torch.softmax(shaped.double(), -1))]
        self.costs.append((expected[0], expected[1]))
        return shaped

    def advance(self, token: int) -> None:
        """Nothing to remember."""

    def rewind(self, count: int) -> None:
        """Nothing to forget."""


def above_bar(found: Sequence[Detection]) -> Cell:
    """The median z beside the bar. The interval: the order statistics that hold the median with 95%, on Wilson's shares of a half."""
    z = sorted(one.z_score for one in found)
    low, high = (z[min(len(z) - 1, int(share * len(z)))] for share in wilson(len(z) // 2, len(z), 0.05))
    return Cell(
        "marked", WHAT, "quality", "median z", "standard deviations", True, BAR, None, median(z), (low, high), median(z) - BAR, low - BAR,
        high - BAR, len(z), False, "better" if low > BAR else "underpowered" if median(z) > BAR else "worse", note="the base is the bar",
    )  # fmt: skip


def mistaken(arm: str, texts: Sequence[list[int]], lists: Callable[[int], GreenLists], keys: int) -> Cell:
    """How often texts have p <= 0.05 under keys they were not marked with, each key used once."""
    found = [detect(text, lists(number * keys + key)) for number, text in enumerate(texts) for key in range(keys)]
    hits = sum(one.p_value <= ALPHA for one in found)
    marked = sum(one.marked for one in found)
    fine = wilson(hits, len(found), 0.05)[0] <= ALPHA and binom.sf(marked - 1, len(found), FALSE_POSITIVES) > 1e-3
    note = f"{marked} of {len(found)} called marked at the detector's own bar; the largest z is {max(one.z_score for one in found):.2f}"
    return counted(
        arm, WHAT, "p at most 0.05", hits, len(found), "identical" if fine else "worse", base=ALPHA, higher_is_better=False, note=note
    )


def run(bench: Bench) -> Finding:
    lever = Watermark(key="ours")
    lists = GreenLists(lever.key, lever.gamma, lever.width)
    count, tokens, keys = bench.pick(64, 4), bench.pick(200, 100), bench.pick(25, 50)
    COSTS.clear()
    model, stories = written(bench, {"plain": None, "marked": Weighed(**lever.settings)}, count, tokens)
    tokenizer = model.tokenizer
    assert tokenizer is not None
    ids = {arm: [tokenizer.encode(story.text) for story in each] for arm, each in stories.items()}  # from text alone, as a user would
    found = {arm: [detect(text, lists) for text in texts] for arm, texts in ids.items()}
    z = {arm: [one.z_score for one in each] for arm, each in found.items()}

    def per_root(texts: Sequence[list[int]]) -> list[float]:
        return [one.z_score / math.sqrt(one.scored) for one in (detect(text, lists) for text in texts)]

    asked = [tokenizer.encode(model.render(turns)) for turns in questions(bench, count)]
    behind = median(detect([*before, *text], lists).z_score for before, text in zip(asked, ids["marked"], strict=True))
    middle = [text[3 * len(text) // 8 : 5 * len(text) // 8] for text in ids["marked"]]
    opening = [text[: len(text) // 4] for text in ids["marked"]]
    # Proved in the paper: on average over keys the expected surprise grows by no larger share than this.
    bound = (math.exp(lever.delta) - 1) * lever.gamma
    cost = Metric("expected_nats_per_token", "quality", "nats/token", False, margin=bound, relative=True)
    plain, marked = ([sum(step[side] for step in each) / len(each) for each in COSTS] for side in (0, 1))
    roots = [per_root(texts) for texts in (opening, middle, ids["marked"])]
    growth = compared("marked", WHAT, ROOT, roots[1], roots[2])
    return Finding(
        [
            Claim(
                "marked stories hold more green tokens than unmarked ones",
                compared("marked", WHAT, Z, z["plain"], z["marked"]),
                ("better",),
            ),
            Claim(f"the median z of {tokens} tokens is above 4", above_bar(found["marked"]), ("better",)),
            # A quarter of the reduced form's few short stories says too little to be judged.
            *([] if bench.reduced else [Claim("a quarter from its middle shows as much a root of its length", growth, ("equivalent",))]),
            Claim(
                f"the mark adds less surprise than the paper proves, {bound:.0%} of the entropy",
                compared("marked", WHAT, cost, plain, marked),
                ("equivalent",),
            ),
            Claim(
                "other keys find nothing in marked stories",
                mistaken("other keys", ids["marked"], lambda n: GreenLists(f"other {n}"), keys),
                ("identical",),
                control=True,
            ),
            Claim(
                "no key finds anything in unmarked stories",
                mistaken("unmarked", ids["plain"], lambda n: GreenLists(f"any {n}"), keys),
                ("identical",),
                control=True,
            ),
        ],
        {"marked": [lever]},
        notes=(
            f"With the question and its turn markers in front ({median(map(len, asked)):.0f} tokens) the median z is {behind:.2f} instead "
            f"of {median(z['marked']):.2f}.",
            f"z a root of its length: {mean(roots[2]):.2f} in whole stories, {mean(roots[1]):.2f} in the quarter from the middle, "
            f"{mean(roots[0]):.2f} in the first. Stories begin alike, where words leave less of a choice; the first quarter was asked about "
            "before, of 32 stories, and passed once (+0.05 [-0.00, +0.11] for the whole) and failed once (+0.11 [+0.04, +0.17]).",
        ),
    )


EXPERIMENT = Experiment(
    "watermark",
    "watermark",
    "Sampled stories marked with gamma 0.25 and delta 2 are found by tokenizer and key with a median z above 4 at 200 tokens.",
    "Other keys must find nothing in marked stories, nor any key in unmarked ones, but for the stated share of false positives.",
    "real model",
    run,
    needs=("smollm",),
)
