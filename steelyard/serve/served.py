"""What is served under which name, and what the engine's process tells of it. Light: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steelyard.core.errors import SteelyardError
from steelyard.core.levers import Lever


class EngineGone(SteelyardError):
    """The engine's process has died, is being started again, or is closing. Nothing is wrong with the request: it may come again."""


class EngineFault(SteelyardError):
    """Something in the engine's process failed that no request should be able to cause: a mistake of ours, not the asker's."""


@dataclass(frozen=True)
class ServedModel:
    """A model to serve.

    Attributes:
        name: what clients call it.
        source: what `steelyard.load` opens: a got name, a directory, a .gguf file or hf:org/name.
        levers: pulled on every answer, after those that the model's own `steelyard.json` asks for.
        threads: CPU threads; None = PyTorch's own number.
        dtype: type of the weights in products (`EngineSpec.dtype`).
        slots: answers written at once.
        context: most tokens of a conversation with its answer; None = the model's.
        calibrations: files that `steelyard calibrate` made; the first that is about this model is used.
        device: where it answers, by PyTorch's name.
    """

    name: str
    source: str
    levers: tuple[Lever, ...] = ()
    threads: int | None = None
    dtype: str | None = None
    slots: int = 8
    context: int | None = None
    calibrations: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class ServedLever:
    """A lever that a served model has, or that a client may ask for.

    Attributes:
        name: as recipes call it.
        on: whether it is pulled on every answer.
        per_request: whether a client may ask for it with a request.
        settings: those it is pulled with; empty where it is only offered.
    """

    name: str
    on: bool
    per_request: bool
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedInfo:
    """What is known of a model once it is served.

    Attributes:
        name: what clients call it.
        fingerprint: hex digest over all that can change an answer, levers included.
        context_length: most tokens of a conversation with its answer; of an encoder, of a text.
        capabilities: `logprobs`, `score`, ...; `chat` where it has a chat template, `tools` where that has a place for tools,
            `turns_in_a_row` where that takes two turns of one speaker one after the other,
            `infill` where it was taught to write what belongs between two texts.
        created: when the model's files were last changed, seconds since 1970.
        parents: names of the models it was made from.
        kind: `chat` generates text, `embedding` turns texts into vectors.
        levers: those that are on, in order, then those a client may ask for.
        slots: answers written at once.
        vocabulary: rows of its token table: ids are below it.
        eos_ids: tokens that end an answer.
        tool_forms: the forms in which its chat template teaches it to write calls of tools (`steelyard/model/tools/forms.py`).
        start: the text of the token that a text without context follows; empty for an encoder.
        calibration: what its confidence was calibrated on (`task`, `n`, `made`, `measure`, `right`, `threshold`, `abstains`), or None.
    """

    name: str
    fingerprint: str
    context_length: int
    capabilities: frozenset[str]
    created: int
    parents: tuple[str, ...] = ()
    kind: Literal["chat", "embedding"] = "chat"
    levers: tuple[ServedLever, ...] = ()
    slots: int = 8
    vocabulary: int = 0
    eos_ids: tuple[int, ...] = ()
    tool_forms: tuple[str, ...] = ()
    calibration: Mapping[str, Any] | None = None
    start: str = ""
