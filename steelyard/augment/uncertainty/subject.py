"""What a calibration is about: a model with the levers that change what it says.

Speed does not enter: numerics, batching, threads and guessing ahead may differ between where a calibration was made and where it is used.
They change single answers, not what kind of answers there are; what does change them (weights, template, processors, readouts, beams,
prompts, retrieval) makes another subject.
"""

from __future__ import annotations

from typing import Any

from steelyard.augment.answerers import LocalAnswerer
from steelyard.core.fingerprint import digest
from steelyard.core.protocols import Answerer


def subject(answerer: Answerer) -> str:
    """Digest of the model behind an answerer, and of all between that changes what it says."""
    if isinstance(answerer, LocalAnswerer):
        spec = answerer.engine.spec
        template = spec.template or spec.model.template
        companions = {name: model.fingerprint for name, model in spec.companions.items()} if spec.readouts else {}
        inside: list[Any] = [
            [processor.fingerprint for processor in spec.processors],
            [readout.fingerprint for readout in spec.readouts],
            spec.program and spec.program.fingerprint,
            spec.search and spec.search.fingerprint,
        ]
        return digest([spec.model.fingerprint, template and template.source, inside, companions])
    if getattr(answerer, "words_stay", False):
        return subject(answerer.inner)  # type: ignore[attr-defined]
    lever, inner = getattr(answerer, "lever", None), getattr(answerer, "inner", None)
    if lever is not None and inner is not None:
        return digest([lever.fingerprint, subject(inner)])
    return answerer.fingerprint
