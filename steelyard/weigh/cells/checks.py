"""Is the balance itself true? The base against itself, and a change known to be bad.

*A/A, greedy*: the base answers a subset again, in other company. A deterministic engine must give the same records.
*A/A, sampled*: the base's answers under one seed against those under another, at temperature 0.8: nothing changed but chance, so
a "better" or "worse" may come up as often as the stated error rate, and no more.
*Planted defect*: must come out "worse". If it does not, this weighing could not have seen a gross fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from steelyard.core.recipe import Arm
from steelyard.weigh.cells.cells import base_estimate, draft_cells, finish
from steelyard.weigh.cells.scoring import Scored, clusters_of
from steelyard.weigh.cells.verdicts import at_floor
from steelyard.weigh.planted_defect import PlantedDefect
from steelyard.weigh.report.report import Cell
from steelyard.weigh.tasks.task import Ask, Choose, Sample, Task

GREEDY = "A/A greedy"
SAMPLED = "A/A sampled"
DEFECT = "planted defect"
AGAIN = -1  # the trial under which records of the greedy A/A are kept
AGAIN_COUNT = 16  # samples answered again
DEFECT_COUNT = 40  # samples put to the planted defect
SCRAMBLED_COUNT = 160  # to one that only mixes up the words, which does far less harm than a wrong template


def a_a(name: str, task: Task, one: Scored, other: Scored) -> list[Cell]:
    """Cells of the base against itself on one task."""
    return [finish(draft) for draft in draft_cells(name, task, one, [other])]


def defect_arm(base: Arm, templated: bool = True) -> Arm:
    """The base with the defect that suits it: an endpoint's template is out of reach, and some models have none; words all have."""
    kind = "wrong_template" if templated and "weights" in base.source.capabilities else "scrambled_prompt"
    return Arm(name=DEFECT, source=base.source, levers=(*base.levers, PlantedDefect(kind=kind)))


def defect_count(arm: Arm) -> int:
    """How many samples are put to a planted defect. Through an endpoint only words can be mixed up: of 100 facts SmolLM2-135M-Instruct names
    43 as asked and 28 so; drawn anew from these, 40 facts showed it in 37 of 100 checks, 160 in 93."""
    scrambled = any(isinstance(lever, PlantedDefect) and lever.kind == "scrambled_prompt" for lever in arm.levers)
    return SCRAMBLED_COUNT if scrambled else DEFECT_COUNT


def is_defect(arm: Arm) -> bool:
    """Whether an arm of the recipe is itself a planted defect."""
    return any(isinstance(lever, PlantedDefect) for lever in arm.levers)


def writes(samples: Sequence[Sample]) -> bool:
    """Whether answers are written to these samples. A wrong template spoils what a model writes; which of given answers it finds likelier
    it hardly moves (measured on 135M with the task `corrections`), while a question in the wrong order does."""
    return any(isinstance(sample.request, Ask) for sample in samples)


def reaches(samples: Sequence[Sample]) -> bool:
    """Whether a defect in the prompt can show on these samples: raw text has no prompt."""
    return any(isinstance(sample.request, Ask | Choose) for sample in samples)


def shows_nothing(task: Task, base: Scored) -> bool:
    """Whether a defect cannot show in the first of the base's answers: it gave none, or is at floor there already."""
    if base.obstacle:
        return True
    some, metric = base.first(DEFECT_COUNT), task.metrics[0]
    found = base_estimate(metric, some.values[metric.name], clusters_of(some.samples))
    return found is None or at_floor(metric, found.interval)


def defect_cells(task: Task, base: Scored, run: Scored, name: str = DEFECT) -> list[Cell]:
    """Cells of the planted defect on one task; the first metric is the one that must be worse."""
    cells = [finish(draft) for draft in draft_cells(name, task, base, [run])]
    return [dataclasses.replace(cell, primary=cell.metric == task.metrics[0].name) for cell in cells]


def complaints(a_a_cells: Sequence[Cell], defects: Sequence[Cell]) -> list[str]:
    """What the checks say against this report, one sentence each."""
    found = []
    greedy = [cell for cell in a_a_cells if cell.arm == GREEDY]
    if moved := [cell for cell in greedy if cell.verdict not in ("identical", "not measurable", "floor")]:
        named = ", ".join(sorted({f"{cell.task} {cell.metric}" for cell in moved}))
        found.append(f"The base did not repeat itself: its greedy answers differed when asked again ({named}).")
    telling = [cell for cell in defects if cell.primary]
    if telling and all(cell.verdict == "not measurable" for cell in telling):
        found.append(f"Whether a planted defect would show is not known: {telling[0].note or 'it has no value here'}.")
    elif telling and not any(cell.verdict == "worse" for cell in telling):
        seen = ", ".join(f"{cell.task} {cell.metric}: {cell.verdict}" for cell in telling)
        found.append(f"The balance is not trustworthy here: a planted defect was not found to be worse ({seen}).")
    return found
