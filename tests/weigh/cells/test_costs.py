"""Energy and money as cells: what they are called, where they are from, and what trainings took."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import pytest

from steelyard.weigh.asking.arms import added_costs, training_cost
from steelyard.weigh.cells.cells import base_cell, finish
from steelyard.weigh.cells.costs import Measured, draft_measured, training_cells
from steelyard.weigh.report.report import ArmSummary
from steelyard.weigh.runner import rescore, weigh
from steelyard.weigh.tasks.task import Metric
from tests.weigh.simple_arms import Bench, recipe


def side(joules=(3.6, 7.2), source="modelled", idle: float | None = 0.0, tokens=20, answers=2, money=(1e-6, 4e-6)) -> Measured:
    reading = {
        "joules_low": joules[0], "joules_high": joules[1], "energy_source": source, "money_low": money[0], "money_high": money[1],
        "peak_resident_bytes": 10**9, "device_peak_bytes": None, "peak_is_of_this_stretch": True,
    }  # fmt: skip
    if idle is not None:
        reading["idle_watts"] = idle
    answer = {"tokens": tokens // answers, "decoded": tokens // answers - 1, "decode_seconds": 1.0, "first_token": 0.1, "gaps": [0.1]}
    return Measured(tuple({"answers": [answer] * answers, "reading": reading} for _ in range(4)), 10**8, 1.0)


def cells(base, other):
    return {draft.metric.name: finish(draft) for draft in draft_measured("int8", base, other, ("energy", "money"), "USD")}


def test_a_request_costs_its_joules_in_watt_hours():
    found = cells(side(), side((1.8, 3.6)))
    request, token = found["watt_hours_per_request"], found["joules_per_token"]
    assert request.unit == "Wh/request" and request.base == pytest.approx(5.4 / 3600 / 2)
    assert request.base_interval == pytest.approx((3.6 / 7200, 7.2 / 7200))
    assert request.value == pytest.approx(request.base / 2) and request.verdict == "better"
    assert token.base == pytest.approx(5.4 / 20)
    assert {cell.source for cell in found.values()} == {"modelled"}


def test_every_energy_cell_says_where_it_is_from_and_what_idling_was_left_out():
    assert "no idle share" in cells(side(), side())["joules_per_token"].note
    measured = cells(side((5.0, 5.0), "rapl", 12.5), side((5.0, 5.0), "rapl", 12.5))["joules_per_token"]
    assert measured.source == "measured" and measured.note == "measured by rapl; 12.5 W of idling subtracted"
    wall = cells(side((5.0, 5.0), "wall", 40.0), side((5.0, 5.0), "wall", 44.0))["watt_hours_per_request"]
    assert wall.note == "measured by wall; 40 to 44 W of idling subtracted"
    earlier = cells(side(idle=None), side(idle=None))["joules_per_token"]
    assert "idling is in it" in earlier.note
    mixed = cells(side((5.0, 9.0), "modelled+nvml"), side((5.0, 9.0), "modelled+nvml"))["joules_per_token"]
    assert mixed.source == "modelled" and "in part measured by nvml" in mixed.note


def test_an_interval_stays_where_a_value_can_be():
    block = side().blocks[0]  # the machine stood still for a second in one of four turns
    uneven = Measured(tuple(block | {"answers": [block["answers"][0] | {"first_token": s}]} for s in (0.1, 0.1, 0.1, 1.1)), 10**8, 1.0)
    cell = finish({draft.metric.name: draft for draft in draft_measured("int8", uneven, uneven, ("speed",), "USD")}["first_token_p50"])
    assert cell.base is not None and cell.base_interval is not None and cell.base_interval[0] == 0 < cell.base < cell.base_interval[1]
    share = Metric("fields_when_valid", "format", "share", True, 0.03, kind="ratio")
    cell = base_cell("forms", share, [(1.0, 1.0), (1.0, 1.0), (4.0, 4.0), (0.0, 1.0)], list("abcd"))
    assert cell is not None and cell.value is not None and cell.value_interval is not None
    assert 0 <= cell.value_interval[0] < cell.value < cell.value_interval[1] == 1
    score = Metric("bias", "fairness", "score", False, 0.05, reach=(-1.0, 1.0))
    cell = base_cell("bias", score, [-1.0, 0.1, -0.9, -1.0], list("abcd"))
    assert cell is not None and cell.value_interval is not None and cell.value_interval[0] == -1


def test_money_says_that_it_is_from_prices():
    assert "price table" in cells(side(), side())["per_million_tokens"].note


def summary(low=None, high=None, source="modelled"):
    cost = {} if low is None else {"training_joules_low": low, "training_joules_high": high, "training_energy_source": source}
    return ArmSummary("f", [], cost | {"training_seconds": 60.0})


def test_training_counts_in_watt_hours_for_each_run_beside_a_base_that_was_not_trained():
    found = training_cells({"base": summary(), "taught": summary(7200.0, 36000.0), "int8": summary()}, {"taught": 2})
    (cell,) = found
    assert (cell.arm, cell.unit, cell.n, cell.source) == ("taught", "Wh", 2, "modelled")
    assert cell.value == pytest.approx(3.0) and cell.value_interval == pytest.approx((1.0, 5.0))
    assert (cell.low, cell.high) == pytest.approx((1.0, 5.0)) and cell.verdict == "worse"
    assert "which counts as nothing" in cell.note


def test_the_rent_of_a_training_is_a_cell_of_money_in_the_price_tables_currency():
    rented = dataclasses.replace(summary(), cost={"training_money_low": 0.02, "training_money_high": 0.1, "training_currency": "EUR"})
    (cell,) = training_cells({"base": summary(), "taught": rented}, {"taught": 2})
    assert (cell.metric, cell.axis, cell.unit, cell.source, cell.n) == ("price_of_training", "money", "EUR", "modelled", 2)
    assert cell.value == pytest.approx(0.03) and cell.value_interval == pytest.approx((0.01, 0.05)) and cell.verdict == "worse"
    assert training_cells({"base": summary(), "taught": rented}, {}, ("energy",)) == []
    assert training_cells({"base": rented, "int8": rented}, {}) == []


def trained(**result) -> Any:
    """A model whose record tells of one training, as `training_cost` reads it."""
    return types.SimpleNamespace(record={"training": [{"result": {"seconds": 90.0, "tokens": 5} | result}]})


def test_a_training_is_priced_by_the_machine_and_the_time_on_its_record(tmp_path, monkeypatch):
    table = tmp_path / "prices.yaml"
    table.write_text(
        "currency: EUR\nkinds:\n  core: {per: core, low: 0.01, high: 0.04, source: ours, date: 2026-01-01}\n"
        "  big: {per: gpu, match: H100, low: 2.0, high: 3.0, source: ours, date: 2026-01-01}\n"
    )
    monkeypatch.setenv("STEELYARD_PRICES", str(table))
    cores = training_cost(trained(wall_seconds=1800.0, machines=1, cores=4, gpus=[]))
    assert (cores["training_money_low"], cores["training_money_high"], cores["training_currency"]) == (0.02, 0.08, "EUR")
    gpus = training_cost(trained(wall_seconds=1800.0, machines=2, cores=64, gpus=["NVIDIA H100 80GB"] * 4))
    assert (gpus["training_money_low"], gpus["training_money_high"]) == (8.0, 12.0)  # a GPU's price has its host in it
    for unknown in ({}, {"machines": 0}, {"wall_seconds": 9.0, "machines": 1, "cores": 4, "gpus": ["Apple GPU"]}):
        assert "training_money_low" not in training_cost(trained(**unknown))
    both = added_costs(cores, cores)
    assert both["training_money_low"] == 0.04 and both["training_currency"] == "EUR"
    assert not {"training_money_low", "training_currency"} & added_costs(cores, training_cost(trained())).keys()


def test_training_that_base_and_arm_share_is_no_difference():
    assert training_cells({"base": summary(3600.0, 7200.0), "int8": summary(3600.0, 7200.0)}, {}) == []
    (cell,) = training_cells({"base": summary(3600.0, 3600.0, "rapl"), "more": summary(7200.0, 7200.0, "rapl")}, {})
    assert cell.source == "measured" and cell.base == 1.0 and cell.difference == 1.0 and (cell.low, cell.high) == (1.0, 1.0)


def test_costs_of_several_seeds_add_up_and_energy_only_where_all_were_counted():
    both = added_costs(summary(1.0, 2.0).cost, summary(3.0, 4.0, "rapl").cost)
    assert both["training_joules_low"] == 4.0 and both["training_seconds"] == 120.0
    assert both["training_energy_source"] == "modelled+rapl"
    assert "training_joules_low" not in added_costs(summary(1.0, 2.0).cost, summary().cost)


def test_a_report_has_the_training_energy_of_its_arms(tmp_path):
    class Trained(Bench):
        def open(self, arm, seed=None, *, deterministic=True):
            opened = super().open(arm, seed, deterministic=deterministic)
            if arm.name == "good":
                opened.cost.update(summary(3600.0, 7200.0).cost)
            return opened

    asked = recipe(arms={"good": "skill-90"}, problems=20, axes=["quality"])
    weigh(asked, tmp_path, opener=Trained(), say=lambda line: None, progress=lambda *told: None)
    (tmp_path / "recipe.resolved.yaml").write_text(asked.model_copy(update={"axes": ("quality", "energy")}).text())
    report = rescore(tmp_path, say=lambda line: None)  # which times nothing
    cell = report.cell("good", "watt_hours_of_training")
    assert cell.value == pytest.approx(1.5) and cell.base == 0.0 and cell.axis == "energy"
