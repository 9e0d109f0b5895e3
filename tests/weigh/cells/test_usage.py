"""Requests and tokens behind an answer."""

from __future__ import annotations

import dataclasses

import pytest

from steelyard.core.protocols import Usage
from steelyard.weigh.cells.cells import finish
from steelyard.weigh.cells.scoring import score
from steelyard.weigh.cells.usage import usage_drafts
from steelyard.weigh.tasks.arithmetic import Arithmetic
from steelyard.weigh.tasks.task import Output

TASK = Arithmetic.model_validate({"problems": 20})


def scored(usages):
    samples = TASK.samples(1)
    return score(TASK, samples, [[Output(text="4", usage=usage, reason="stop") for usage in usages]])


def test_what_an_arm_asks_more_is_told_and_paired() -> None:
    base = scored([Usage(10, 5)] * 20)
    arm = scored([Usage(30, 5, 3)] * 10 + [Usage(10, 5)] * 10)
    cells = {draft.metric.name: finish(draft) for draft in usage_drafts("repair", "arithmetic", base, arm)}
    assert set(cells) == {"requests", "tokens_read"}  # as many tokens are written: no news
    requests = cells["requests"]
    assert (requests.base, requests.value, requests.n, requests.verdict) == (1.0, 2.0, 20, "worse")
    assert requests.low is not None and requests.low > 0.4 and requests.axis == "money"


def test_answers_that_failed_or_told_nothing_are_left_out_on_both_sides() -> None:
    base = scored([Usage(10, 5)] * 20)
    arm = scored([None] * 5 + [Usage(20, 5)] * 15)
    failed = dataclasses.replace(arm, outputs=[[Output(failure="gone", usage=Usage(99, 9))], *arm.outputs[1:]])
    (draft,) = usage_drafts("long", "arithmetic", base, failed)
    assert finish(draft).n == 15 and finish(draft).value == pytest.approx(20)
    assert usage_drafts("same", "arithmetic", base, base) == []
    assert usage_drafts("endpoint", "arithmetic", base, scored([None] * 20)) == []
