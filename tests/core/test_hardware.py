"""The machine as it is described: what we may use, not what the host has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.core import hardware


def test_the_description_is_plain_data_with_everything_named() -> None:
    facts = hardware.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"] and facts["os"] and facts["python"].startswith("3.")
    assert 1 <= facts["cores"] <= facts["cores_total"]
    assert 0 < facts["memory_available_bytes"] <= facts["memory_bytes"]
    assert "torch" in facts["versions"] and "pydantic" in facts["versions"]


def test_describing_does_not_import_torch_unless_asked() -> None:
    code = (
        "import sys; from steelyard.core import hardware; quick = hardware.describe(); assert 'torch' not in sys.modules; "
        "assert quick['gpus'] is None; assert isinstance(hardware.describe(gpus=True)['gpus'], list)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_limits_the_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert hardware.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hardware, "_CONTROL_GROUPS", tmp_path)
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    lines = hardware._lines
    monkeypatch.setattr(hardware, "_lines", lambda path: ["0::/outer/inner"] if str(path) == "/proc/self/cgroup" else lines(path))
    return inner


def test_a_quota_of_an_outer_group_limits_the_cores(control_group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert hardware.usable_cores() == 64
    (control_group / "cpu.max").write_text("max 100000\n")
    (control_group.parent / "cpu.max").write_text("250000 100000\n")
    assert hardware.usable_cores() == 3


def test_a_quota_of_less_than_one_core_is_one(control_group: Path) -> None:
    (control_group / "cpu.max").write_text("50000 100000\n")
    assert hardware.usable_cores() == 1


def test_a_memory_limit_counts_without_reclaimable_cache(control_group: Path) -> None:
    (control_group / "memory.max").write_text("1000000\n")
    (control_group / "memory.current").write_text("700000\n")
    (control_group / "memory.stat").write_text("anon 100\ninactive_file 200000\n")
    assert hardware.memory_total() == 1_000_000
    assert hardware.memory_available() == 500_000


def test_a_limit_that_is_no_limit_is_ignored(control_group: Path) -> None:
    for limit in ("max", "9223372036854771712", "", "garbage"):
        (control_group / "memory.max").write_text(limit)
        (control_group / "memory.current").write_text("5")
        assert hardware.memory_total() > 1_000_000


def test_version_one_groups_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CONTROL_GROUPS", tmp_path)
    lines = hardware._lines
    groups = ["4:memory:/job", "3:cpu,cpuacct:/job"]
    monkeypatch.setattr(hardware, "_lines", lambda path: groups if str(path) == "/proc/self/cgroup" else lines(path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "cpu" / "job").mkdir(parents=True)
    (tmp_path / "memory" / "job").mkdir(parents=True)
    (tmp_path / "cpu" / "job" / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "memory" / "job" / "memory.limit_in_bytes").write_text("4096")
    (tmp_path / "memory" / "job" / "memory.usage_in_bytes").write_text("8192")
    assert hardware.usable_cores() == 2
    assert hardware.memory_total() == 4096 and hardware.memory_available() == 0


def test_an_arm_board_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    board = ["processor : 0", "Features : fp asimd asimddp i8mm bf16", "", "Model : Raspberry Pi 5"]
    monkeypatch.setattr(hardware, "_lines", lambda path: board if str(path) == "/proc/cpuinfo" else [])
    if sys.platform != "darwin":
        assert hardware.cpu_model() == "Raspberry Pi 5"
        assert hardware.instruction_sets() == ["bf16", "dotprod", "i8mm", "neon"]
