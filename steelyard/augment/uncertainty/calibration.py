"""A calibration: what a model's confidence was worth on judged questions, kept as a JSON file that says what it is about.

| key | meaning |
| --- | --- |
| `format`, `version` | "steelyard calibration", 1 |
| `subject` | digest of the model with the levers that change what it says (`subject.py`); used with any other, the file is refused |
| `model` | what a person called it |
| `task` | `name`, `fingerprint` (of its settings, code and data) and `seed` of the questions that were judged |
| `made` | ISO 8601, UTC |
| `measure` | `name`, and where it has them `count`, `temperature`, `probe` |
| `temperature` | at which the judged answers were drawn |
| `n`, `right` | judged answers, and the share that was right |
| `calibrator` | from the measure's number to a chance of being right (`calibrators.py`) |
| `quality` | figures on answers that were not fitted on: `auroc` with its 95% interval, `brier` and `log_loss` beside `raw_...` of the number itself |
| `threshold` | `alpha`, `delta`, `above`, `share`, `wrong`, `n`: what `abstain` goes by (`risk_control.py`); null where none was asked for |

It is data: reading it runs nothing. It holds no question and no answer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard.augment.uncertainty import calibrators
from steelyard.augment.uncertainty.calibrators import Calibrator
from steelyard.augment.uncertainty.p_ik import Probe
from steelyard.augment.uncertainty.risk_control import Threshold
from steelyard.core.errors import ModelFileError
from steelyard.core.files import write_json
from steelyard.core.fingerprint import digest
from steelyard.model.files.strict_json import read_object

FORMAT, VERSION = "steelyard calibration", 1
NAME = "calibration.json"
"""What it is called in a model's directory."""
AGAIN = "Make it again: `steelyard calibrate`."


@dataclass(frozen=True)
class Calibration:
    """What such a file holds; see the table above."""

    subject: str
    model: str
    task: str
    task_fingerprint: str
    seed: int
    made: str
    measure: str
    n: int
    right: float
    calibrator: Calibrator
    temperature: float = 0.0
    count: int = 5
    sampled_at: float = 1.0
    probe: Probe | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    threshold: Threshold | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of all it holds."""
        return digest(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        measure: dict[str, Any] = {"name": self.measure, "count": self.count, "temperature": self.sampled_at}
        return {
            "format": FORMAT,
            "version": VERSION,
            "subject": self.subject,
            "model": self.model,
            "task": {"name": self.task, "fingerprint": self.task_fingerprint, "seed": self.seed},
            "made": self.made,
            "measure": measure | ({"probe": self.probe.as_dict()} if self.probe else {}),
            "temperature": self.temperature,
            "n": self.n,
            "right": self.right,
            "calibrator": self.calibrator.as_dict(),
            "quality": dict(self.quality),
            "threshold": dataclasses.asdict(self.threshold) if self.threshold else None,
        }

    def told(self) -> dict[str, Any]:
        """What a person is told of it beside a calibrated number."""
        limits = {"alpha": self.threshold.alpha, "delta": self.threshold.delta, "share": self.threshold.share} if self.threshold else None
        return {"task": self.task, "n": self.n, "made": self.made, "measure": self.measure, "right": self.right, "threshold": limits}

    def write(self, path: Path) -> None:
        """Writes the file, atomically."""
        write_json(path, self.as_dict())


def read(path: Path) -> Calibration:
    """Reads and checks a file.

    Raises:
        ModelFileError: it is none, is damaged, or of a newer version.
    """
    where = str(path)
    value = read_object(path)
    if value.get("format") != FORMAT:
        raise ModelFileError("no calibration", where=where, do=AGAIN)
    if value.get("version") != VERSION:
        raise ModelFileError(f"a calibration of version {value.get('version')!r:.20}; this program reads {VERSION}", where=where, do=AGAIN)
    task, measure = _part(value, "task", where), _part(value, "measure", where)
    probe, quality = measure.get("probe"), _part(value, "quality", where)
    return Calibration(
        subject=_text(value, "subject", where),
        model=_text(value, "model", where),
        task=_text(task, "name", where),
        task_fingerprint=_text(task, "fingerprint", where),
        seed=int(_number(task, "seed", where, 0, 2**63)),
        made=_text(value, "made", where),
        measure=_text(measure, "name", where),
        n=int(_number(value, "n", where, 1, 1e12)),
        right=_number(value, "right", where, 0, 1),
        calibrator=calibrators.read(value.get("calibrator"), where),
        temperature=_number(value, "temperature", where, 0, 100),
        count=int(_number(measure, "count", where, 1, 100)),
        sampled_at=_number(measure, "temperature", where, 0, 100),
        probe=None if probe is None else Probe.read(probe, where),
        quality={str(key): _number(quality, key, where, -math.inf, math.inf) for key in quality},
        threshold=None if value.get("threshold") is None else _threshold(_part(value, "threshold", where), where),
    )


def _threshold(value: Mapping[str, Any], where: str) -> Threshold:
    return Threshold(
        alpha=_number(value, "alpha", where, 0, 1),
        delta=_number(value, "delta", where, 0, 1),
        above=_number(value, "above", where, -1, 1),
        share=_number(value, "share", where, 0, 1),
        wrong=_number(value, "wrong", where, 0, 1),
        n=int(_number(value, "n", where, 1, 1e12)),
    )


def _part(value: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    part = value.get(key)
    if not isinstance(part, Mapping):
        raise ModelFileError(f"`{key}` is no object", where=where, do=AGAIN)
    return part


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text or len(text) > 1000:
        raise ModelFileError(f"`{key}` is no text", where=where, do=AGAIN)
    return text


def _number(value: Mapping[str, Any], key: str, where: str, least: float, most: float) -> float:
    number = value.get(key)
    if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number) or not least <= number <= most:
        raise ModelFileError(f"`{key}` is {number!r:.40}, no number from {least:g} to {most:g}", where=where, do=AGAIN)
    return float(number)
