"""Meters: figures that are there, are bounded, and say how they were obtained."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.meters import Meter, energy, memory, money
from steelyard.core.meters.energy import EnergyMeter, modelled_cpu


def test_a_reading_holds_time_memory_energy_and_money() -> None:
    with Meter() as meter:
        total = sum(range(300_000))
        time.sleep(0.01)
    reading = meter.reading
    assert total and reading.seconds >= 0.01
    assert reading.cpu_seconds > 0
    assert reading.peak_resident_bytes is not None and reading.peak_resident_bytes > 1_000_000
    assert 0 < reading.joules_low <= reading.joules_high
    assert set(reading.energy_source.split("+")) <= {"rapl", "nvml", "modelled"}
    assert reading.money_low is not None and reading.money_high is not None
    assert 0 < reading.money_low <= reading.money_high and reading.currency == "USD"


def test_a_reading_is_taken_even_when_the_work_fails() -> None:
    meter = Meter()
    with pytest.raises(ValueError, match="work"), meter:
        raise ValueError("work")
    assert meter.reading.seconds > 0


def test_a_meter_is_not_read_before_it_stopped() -> None:
    meter = Meter()
    with pytest.raises(SteelyardError, match="has not stopped"):
        _ = meter.reading
    with meter, pytest.raises(SteelyardError, match="has not stopped"):
        _ = meter.reading


def test_sleeping_takes_wall_time_but_hardly_any_processor_time() -> None:
    with Meter() as meter:
        time.sleep(0.2)
    assert meter.reading.seconds >= 0.2
    assert meter.reading.cpu_seconds < meter.reading.seconds


PEAKS = """
from steelyard.core.meters import memory
before = memory.peak_resident()
block = b"x" * 60_000_000
after = memory.peak_resident()
assert after >= before + 50_000_000, (before, after)
del block
if memory.reset_peak():
    assert memory.peak_resident() < after - 40_000_000
    assert memory.peak_resident() >= memory.resident() * 0.9
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell its peak this way")
def test_the_peak_follows_what_was_held_and_can_be_reset() -> None:
    subprocess.run([sys.executable, "-c", PEAKS], check=True)


def test_where_the_kernel_does_not_reset_the_peak_the_reading_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "absent" / "clear_refs")
    with Meter() as meter:
        pass
    assert meter.reading.peak_is_of_this_stretch is False
    assert meter.reading.peak_resident_bytes


def test_without_a_status_file_the_peak_comes_from_getrusage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    direct = memory.peak_resident()
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    pytest.importorskip("resource")
    other = memory.peak_resident()
    assert direct and other and 0.3 < other / direct < 30
    assert memory.resident() is None


def test_the_device_peak_is_unknown_without_a_device() -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        assert memory.device_peak() is None


def test_the_device_peak_follows_tensors() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    torch.zeros(1, device="cuda")
    memory.reset_device_peak()
    before = memory.device_peak()
    block = torch.zeros(10_000_000, device="cuda")
    assert memory.device_peak() >= before + 40_000_000  # type: ignore[operator]
    del block


# ---- energy -------------------------------------------------------------------------------------------------------------------


def domain(powercap: Path, folder: str, name: str, microjoules: int, most: int = 10**9) -> Path:
    path = powercap / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{most}\n")
    return path / "energy_uj"


def test_packages_and_memory_are_counted_once_and_their_parts_not_again(tmp_path: Path) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    dram = domain(tmp_path, "intel-rapl:0:2", "dram", 500_000)
    core = domain(tmp_path, "intel-rapl:0:0", "core", 0)
    psys = domain(tmp_path, "intel-rapl:1", "psys", 0)
    assert energy.rapl_readable(tmp_path)
    meter = EnergyMeter(tmp_path)
    package.write_text("4000000\n")
    dram.write_text("1000000\n")
    core.write_text("9000000\n")
    psys.write_text("9000000\n")
    joules = meter.stop(1.0, 1.0, 1e9, 2, 4e9)
    assert (joules.low, joules.high) == (3.5, 3.5)
    assert joules.source == "rapl"


def test_a_counter_that_wraps_round_is_unwound(tmp_path: Path) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 9_000_000, most=10_000_000)
    meter = EnergyMeter(tmp_path)
    package.write_text("1000000\n")
    assert meter.stop(1.0, 1.0, 0, 1, 0).low == pytest.approx(2.0)


@pytest.mark.parametrize("content", ["", "nonsense"])
def test_counters_that_cannot_be_read_are_modelled(tmp_path: Path, content: str) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 1).write_text(content)
    joules = EnergyMeter(tmp_path).stop(10.0, 5.0, 1e9, 2, 4e9)
    assert joules.source.startswith("modelled") and not energy.rapl_readable(tmp_path)
    assert 0 < joules.low < joules.high


def test_the_model_is_the_formula_it_states() -> None:
    low, high = modelled_cpu(seconds=10, cpu_seconds=15, resident_bytes=2e9, cores=2, memory_bytes=8e9)
    assert low == pytest.approx(15 * 2.76 + 10 * 2 * 0.3725)
    assert high == pytest.approx(15 * 11.9 + 5 * 0.78 + 10 * 8 * 0.392)


@given(st.floats(0, 1e6), st.floats(0, 1e7), st.floats(0, 1e13), st.integers(1, 1024), st.floats(0, 1e13))
def test_the_modelled_range_is_a_range(seconds: float, cpu: float, resident: float, cores: int, total: float) -> None:
    low, high = modelled_cpu(seconds, cpu, resident, cores, total)
    assert 0 <= low <= high


def test_idle_power_is_left_out_of_what_counters_tell(tmp_path: Path) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    meter = EnergyMeter(tmp_path, idle=energy.Idle(processor=0.5))
    package.write_text("4000000\n")
    assert meter.stop(2.0, 1.0, 1e9, 2, 4e9).low == pytest.approx(3.0 - 2.0 * 0.5)
    package.write_text("4000001\n")
    assert EnergyMeter(tmp_path, idle=energy.Idle(processor=500.0)).stop(1.0, 1.0, 0, 2, 0).low == 0.0


def test_without_idling_the_model_charges_what_this_process_used_alone() -> None:
    absent = Path("/nowhere/powercap")
    whole = EnergyMeter(absent).stop(10.0, 5.0, 1e9, 8, 64e9)
    alone = EnergyMeter(absent, idle=energy.NOTHING).stop(10.0, 5.0, 1e9, 8, 64e9)
    assert alone.low == whole.low and alone.high < whole.high
    assert alone.high == pytest.approx(5 * 11.9 + 10 * 0.392)


def test_idle_power_is_the_least_of_two_looks_and_takes_no_time_without_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    drawn = iter([5_000_000, 1_000_000])

    def sleep(seconds: float) -> None:
        package.write_text(f"{int(package.read_text()) + next(drawn)}\n")

    clock = iter([0.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(energy.time, "sleep", sleep)
    monkeypatch.setattr(energy.time, "perf_counter", lambda: next(clock))
    assert energy.idle_power(2.0, tmp_path).processor == pytest.approx(1.0)
    monkeypatch.setattr(energy.time, "perf_counter", lambda: 0.0)
    assert energy.idle_power(2.0, tmp_path / "absent") == energy.NOTHING  # or `next(drawn)` would have raised


def test_a_counter_at_the_wall_replaces_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meter").write_text("1000.5\n")
    monkeypatch.setenv(energy.WALL, str(tmp_path / "meter"))
    meter = EnergyMeter(tmp_path, idle=energy.Idle(wall=3.0))
    (tmp_path / "meter").write_text("1050.5\n")
    assert meter.stop(10.0, 1.0, 1e9, 2, 4e9) == energy.Joules(20.0, 20.0, "wall")
    for text in ("", "many", "nan"):
        (tmp_path / "meter").write_text(text)
        with pytest.raises(SteelyardError, match="counter of joules"):
            EnergyMeter(tmp_path)


# ---- money --------------------------------------------------------------------------------------------------------------------


def test_every_price_says_where_and_when_it_was_read() -> None:
    for name, price in money.TABLE.kinds.items():
        assert price.source and price.date >= "2020", name
        assert 0 < price.low <= price.high, name
        assert price.per == "core" or price.match, name


def test_a_machine_is_priced_by_its_gpus_or_else_by_its_cores() -> None:
    assert money.per_hour(money.TABLE, 2, []) == pytest.approx((2 * 0.0114, 2 * 0.0504))
    assert money.per_hour(money.TABLE, 16, [{"name": "NVIDIA H100 80GB HBM3"}] * 2) == pytest.approx((3.98, 10.0))
    assert money.per_hour(money.TABLE, 2, [{"name": "A board nobody rents out"}]) is None


def test_a_users_prices_replace_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "currency: EUR\nkinds:\n  core: {per: core, low: 1, high: 2, source: us, date: '2026-01'}\n"
        "tokens:\n  big: {read: 0.5, written: 2}\n"
    )
    monkeypatch.setenv(money.VARIABLE, str(path))
    with Meter() as meter:
        pass
    assert meter.reading.currency == "EUR"
    table = money.prices()
    assert money.per_hour(table, 3, []) == (3, 6)
    assert money.of_tokens(table, "big", 2_000_000, 500_000) == pytest.approx(2.0)
    assert money.of_tokens(table, "other", 1, 1) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("kinds:\n  core: {per: core, low: -1, high: 2, source: a, date: b}", ":2:21 (kinds.core.low)"),
        ("curency: EUR", "Did you mean `currency`"),
        ("- 1", "dictionary"),
        ("kinds: {core: {per: hour}}", "per"),
    ],
)
def test_wrong_prices_are_refused_with_their_place(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as raised:
        money.prices(path)
    assert what in str(raised.value) and "prices.yaml" in str(raised.value)


def test_a_price_file_that_is_missing_is_no_silent_default(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        money.prices(tmp_path / "absent.yaml")
