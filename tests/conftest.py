"""What tests share: seeds of their own, and real models and data, got once a session, skipped with a reason where they cannot be had."""

from __future__ import annotations

import os
import random
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before the first import of torch
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the first import of Triton: without a GPU its kernels run on the CPU

import pytest
from hypothesis import settings

from steelyard.core.errors import DownloadError
from steelyard.core.get import locate

settings.register_profile("ci", settings.get_profile("ci"), max_examples=40)  # of tests that name no number; 100 by hand
settings.register_profile("by hand", deadline=None)  # a busy machine is no mistake
settings.load_profile("ci" if os.environ.get("CI") else "by hand")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def seed(name: str) -> None:
    """What a test or fixture draws without a seed hangs on its name alone, not on what ran before it in this process. SEED=N draws else."""
    number = zlib.crc32(f"{os.environ.get('SEED', '')}{name}".encode())
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(number)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> None:
    seed(f"{fixturedef.baseid}::{fixturedef.argname}[{request.param_index}]")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    seed(item.nodeid)


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """Results of sums depend on the number of threads; tests use at most two."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(min(2, torch.get_num_threads()))


def got(name: str) -> Path:
    try:
        return locate(name)
    except DownloadError as error:
        pytest.skip(f"{name} cannot be downloaded: {error}")


@pytest.fixture(scope="session")
def smollm() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file."""
    return got("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as a Hugging Face directory."""
    return got("all-minilm-l6-v2")


@pytest.fixture(scope="session")
def encyclopedia() -> Path:
    """The folder of the encyclopedia's JSON files."""
    return got("encyclopedia")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the reference data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser. Playwright keeps an event loop running in this thread, which no other test may meet: it ends with each file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as runner:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = runner.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()
