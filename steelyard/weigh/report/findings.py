"""What the weighing found and what it cannot tell, as sentences drawn from the cells."""

from __future__ import annotations

from dataclasses import dataclass, field

from steelyard.weigh.report.columns import base_name, grid, headline, others
from steelyard.weigh.report.heading import change_text, parameters_text
from steelyard.weigh.report.report import ArmSummary, Cell, Report

SMALL_MODEL = 1_000_000_000  # parameters; below this, abilities that larger models have are often absent


@dataclass(frozen=True)
class Finding:
    """What one arm did: its primary results, then its other headline results by verdict. `planted`: it is the weighing's own defect."""

    arm: str
    summary: ArmSummary
    levers: str
    primary: list[Cell] = field(default_factory=list)
    better: list[Cell] = field(default_factory=list)
    worse: list[Cell] = field(default_factory=list)
    same: list[Cell] = field(default_factory=list)
    open: list[Cell] = field(default_factory=list)
    mute: list[Cell] = field(default_factory=list)
    planted: bool = False


def findings(report: Report) -> list[Finding]:
    """One per arm other than the base, in the recipe's order."""
    columns, cells = headline(report), grid(report)
    return [_finding(report, arm, [cells[column, arm] for column in columns if (column, arm) in cells]) for arm in others(report)]


def _finding(report: Report, arm: str, cells: list[Cell]) -> Finding:
    rest = [cell for cell in cells if not cell.primary]
    by = {verdict: [cell for cell in rest if cell.verdict == verdict] for verdict in ("better", "worse", "underpowered")}
    same = [cell for cell in rest if cell.verdict in ("equivalent", "identical")]
    mute = [cell for cell in rest if cell.verdict in ("floor", "not measurable")]
    primary = [cell for cell in cells if cell.primary]
    summary = report.arms[arm]
    planted = any("planted_defect" in lever for lever in summary.levers)
    return Finding(arm, summary, change_text(report, arm), primary, by["better"], by["worse"], same, by["underpowered"], mute, planted)


@dataclass(frozen=True)
class Limit:
    """One thing this report cannot tell, with the cells it concerns."""

    title: str
    text: str
    cells: list[Cell] = field(default_factory=list)
    kind: str = ""


def limits(report: Report) -> list[Limit]:
    """What a reader must not conclude from this report, most general first."""
    mine = [cell for cell in report.cells if cell.arm != base_name(report)]
    primary = [cell for cell in mine if cell.primary]
    loose = [
        cell for cell in mine if not cell.primary and cell.verdict not in ("identical", "floor", "not measurable") and cell.low is not None
    ]
    out = [_size(report)]
    if primary or loose:
        chance = round(len(loose) * (1 - report.confidence))
        text = f"Only {_number(len(primary), 'primary result')} (marked ◆) {'is' if len(primary) == 1 else 'are'} adjusted (Holm) "
        text += f"for how many there are. The other {_number(len(loose), 'comparison')} describe{'s' * (len(loose) == 1)}: "
        text += f"about {chance} of them would show a difference by chance alone." if loose else "there are none."
        out.append(Limit("Most cells describe, they do not decide", text))
    if open_cells := [cell for cell in mine if cell.verdict == "underpowered"]:
        text = "Here the samples were too few to show either a difference or its absence. "
        text += (
            "Where it could be worked out, it is told how many further samples would settle it, were the difference seen now the true one."
        )
        out.append(Limit("Not settled", text, open_cells, "settle"))
    if modelled := [cell for cell in mine if cell.source == "modelled"]:
        text = (
            "These numbers come from stated coefficients or prices, not from an instrument on this machine. They rank; they do not measure."
        )
        out.append(Limit("Modelled, not measured", text, modelled, "modelled"))
    if floor := [cell for cell in mine if cell.verdict == "floor"]:
        text = "Neither base nor arm is shown to do better here than chance or zero; or, where a remark stands beside the cell, the side "
        text += "it names is not shown to do the task that the metric rests on. Such a cell says nothing about the change, good or bad."
        out.append(Limit("At the floor", text, floor, "floor"))
    if unmeasured := [cell for cell in mine if cell.verdict == "not measurable"]:
        out.append(Limit("Not measurable", "One side has no value to compare here, for the reason beside it.", unmeasured, "unmeasured"))
    out.append(
        Limit(
            "One machine, one recipe",
            "Speed, memory, energy and money hold for the machine and settings named in this report. Quality holds for these tasks "
            "and these samples: intervals cover the drawing of samples, not the choice of tasks.",
        )
    )
    out += [Limit("", note) for note in report.notes]
    return out


def _size(report: Report) -> Limit:
    count = report.arms[base_name(report)].parameters if report.arms else None
    if count is None:
        return Limit("One model", "What a change does to this model it need not do to another. Weigh it on the model you mean to use.")
    size = parameters_text(count)
    text = f"The base has {size} parameters. "
    text += (
        "A model this small often lacks the very ability a change works on, and what helps it may not help a larger one. "
        if count < SMALL_MODEL
        else ""
    )
    return Limit("One small model" if count < SMALL_MODEL else "One model", text + "Weigh the change on the model you mean to use.")


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
