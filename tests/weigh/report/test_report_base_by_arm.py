"""Where the base's value depends on the arm beside it, no one value is shown as the base's."""

import dataclasses

from example_report import example_report
from rich.console import Console

from steelyard.weigh.report.columns import base_name, base_span, base_spans, column_of, grid, task_key, task_title
from steelyard.weigh.report.findings import limits
from steelyard.weigh.report.html import page
from steelyard.weigh.report.lm_eval import to_lm_eval
from steelyard.weigh.report.markdown import to_markdown
from steelyard.weigh.report.report import Cell, Report
from steelyard.weigh.report.terminal import table

BASES = {"int8": 0.338, "lookup": 0.333, "library": 0.338, "broken": 0.338}


def changed(change) -> Report:
    report = example_report(flips=0)
    return dataclasses.replace(report, cells=[change(cell) for cell in report.cells])


def by_arm(cell: Cell) -> Cell:
    if cell.metric != "right_when_answered":
        return cell
    return dataclasses.replace(cell, metric="right_at_equal_coverage", base=BASES[cell.arm])


REPORT = changed(by_arm)
COLUMN = next(column_of(cell) for cell in REPORT.cells if cell.metric == "right_at_equal_coverage")


def test_only_what_differs_between_arms_has_a_span_and_no_single_value():
    assert base_spans(REPORT) == {COLUMN: (0.333, 0.338)}
    cells = grid(REPORT)
    assert cells[COLUMN, "base"].value is None and cells[COLUMN, "int8"].base == 0.338
    assert all(cell.value is not None for (column, arm), cell in cells.items() if arm == "base" and column != COLUMN)
    assert base_span([]) is None and base_spans(example_report(flips=0)) == {}


def test_page_markdown_and_terminal_tell_the_span_and_each_arms_own_base():
    shown = page(changed(lambda cell: dataclasses.replace(by_arm(cell), primary=cell.metric == "right_when_answered")))
    assert "33.3 to 33.8%" in shown and "beside base 33.3%" in shown and "beside base 33.8%" in shown
    assert "Not drawn: facts · right at equal coverage" in shown  # a base with two values has no place in a picture
    primary = changed(lambda cell: dataclasses.replace(by_arm(cell), primary=cell.metric == "right_when_answered"))
    text = to_markdown(primary)
    assert "33.3 to 33.8%, by arm" in text and "beside base 33.3%" in text
    console = Console(width=100, record=True, force_terminal=False)
    with console.capture() as captured:
        console.print(table(primary))
    assert "33.3 to 33.8" in captured.get() and "By arm: the base's value depends on the arm" in captured.get()


def test_an_export_of_the_base_alone_leaves_such_a_value_out():
    assert "right_at_equal_coverage,none" not in to_lm_eval(REPORT, "base")["results"]["facts"]
    assert "right_at_equal_coverage,none" in to_lm_eval(REPORT, "int8")["results"]["facts"]


def test_tasks_asked_in_another_way_are_one_name_in_a_list():
    assert task_title("facts, perturbed") == "facts (perturbed)" and task_title("facts") == "facts"
    assert task_title("needles, right answers") == "needles (right answers)"
    assert all(task_key(task_title(name)) == name for name in ("facts", "facts, perturbed", "needles, right answers"))


def test_a_floor_is_not_said_to_be_both_sides_where_a_gate_closed_for_one():
    report = changed(lambda cell: dataclasses.replace(cell, verdict="floor", note="the arm: `remedy` is not shown to be above 0"))
    (floor,) = [limit for limit in limits(report) if limit.title == "At the floor"]
    assert "Neither base nor arm is shown" in floor.text and "the side it names" in floor.text
    assert "the arm: `remedy` is not shown to be above 0" in page(report)


def test_the_bases_n_is_not_raised_by_answers_of_an_arm_to_what_the_base_left_open():
    report = example_report(flips=0)
    first, *more = [cell for cell in report.cells if cell.metric == "right" and cell.task == "facts" and cell.base is not None]
    cells = [dataclasses.replace(first, n=59), *(dataclasses.replace(cell, base=first.base, n=57) for cell in more)]
    report = dataclasses.replace(report, cells=cells)
    found = grid(report)
    assert more and found[column_of(first), base_name(report)].n == 57 and found[column_of(first), first.arm].n == 59
