"""A lever package of someone else, built on disk as pip would leave it: modules and a `.dist-info` with entry points.

Tests that need levers of known behaviour use these, so that they say nothing about our own and lean on none of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from steelyard.core import levers, recipe_parts

GOOD = '''
from pathlib import Path
from typing import ClassVar, Literal
import pydantic
from pydantic import Field
from steelyard.core.levers import Lever
from steelyard.core.references import IndexRef, ModelRef

class Rescale(Lever):
    """Weights times a factor."""
    name: ClassVar[str] = "demo_rescale"
    idea: ClassVar[str] = "Multiply every weight by a factor. It shows where a third party's lever ends up."
    equation: ClassVar[str] = "W' = f W"
    paper: ClassVar[str] = "arXiv:0000.00000"
    cost: ClassVar[str] = "none"
    main: ClassVar[str] = "factor"
    presets: ClassVar[dict] = {"demo_half": {"factor": 0.5}}
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"demo_train"})
    identity: ClassVar[dict] = {"factor": 1.0}
    factor: float = Field(1.0, gt=0, description="what weights are multiplied by, no unit")
    note: str = Field("", description="free text")

    def compress(self, model, calibration, run=None):
        return model

class Train(Lever):
    name: ClassVar[str] = "demo_train"
    idea: ClassVar[str] = "Pretend to train."
    identity: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    provides: ClassVar[frozenset[str]] = frozenset({"trained"})
    data: str = Field("generated:demo", description="rows")
    extra: Path | None = Field(None, description="another file")
    teacher: ModelRef | None = Field(None, description="a teacher")
    folders: tuple[Path, ...] = Field((), description="more files")

    def train(self, model, stream, run):
        return model

class Decode(Lever):
    name: ClassVar[str] = "demo_decode"
    idea: ClassVar[str] = "Pretend to decode."
    identity: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"trained"})
    mode: Literal["a", "b"] = Field("a", description="which")

    def decode(self, spec):
        return spec

class Wrap(Lever):
    name: ClassVar[str] = "demo_wrap"
    idea: ClassVar[str] = "Pretend to wrap."
    identity: ClassVar[dict] = {}
    main: ClassVar[str] = "text"
    text: str = Field("", description="what to say")
    documents: IndexRef | None = Field(None, description="an index")

    def wrap(self, answerer):
        return answerer

class Shape(Lever):
    name: ClassVar[str] = "demo_shape"
    idea: ClassVar[str] = "Pretend to shape."
    identity: ClassVar[str] = "none"

    def build(self, plan):
        return plan

class Quiz(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "demo_quiz"
    metrics: ClassVar[tuple] = ()
    samples_each: int = Field(10, ge=1)
    path: str | None = None

class Survey(Quiz):
    name: ClassVar[str] = "demo_survey"
'''
NAMES = {"Rescale": "demo_rescale", "Train": "demo_train", "Decode": "demo_decode", "Wrap": "demo_wrap", "Shape": "demo_shape"}
LEVERS = {name: f"demo_levers:{kind}" for kind, name in NAMES.items()}
TASKS = {"demo_quiz": "demo_levers:Quiz", "demo_survey": "demo_levers:Survey"}


def write_package(site: Path, distribution: str, modules: Mapping[str, str], groups: Mapping[str, Mapping[str, str]]) -> None:
    """A distribution in the folder `site`: its modules and what pip records about it."""
    for name, source in modules.items():
        (site / f"{name}.py").write_text(source, encoding="utf-8")
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
    lines = [
        line for group, points in groups.items() for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), "")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """`site` on the import path, and the registries made to look again; all undone at the end."""
    before = set(sys.modules)
    sys.path.insert(0, str(site))
    _look_again()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        for name in set(sys.modules) - before:
            if str(site) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
        _look_again()


def write_demo(site: Path) -> None:
    """The well-behaved package."""
    write_package(site, "demo-levers", {"demo_levers": GOOD}, {"steelyard.levers": LEVERS, "steelyard.tasks": TASKS})


def _look_again() -> None:
    importlib.invalidate_caches()
    levers._entry_points.cache_clear()
    recipe_parts._task_points.cache_clear()
