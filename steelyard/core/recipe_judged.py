"""What a recipe says about judging pairs of answers: a judge with the labels it is calibrated on, and choices that people made.

judge: {model: smollm2-135m-instruct, labels: pairs.jsonl}       # or `endpoint: {url, model, key}` in place of `model`
choices: {files: [ann.jsonl, bob.jsonl], arms: {base: tiny, brief: 'tiny + prompt(system="Be brief")'}}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import pydantic_core
from pydantic import Field

from steelyard.core.numbers import Numbers
from steelyard.core.recipe_parts import EndpointSource, ModelSource

QUESTION = "Which of the two answers is better?"


class JudgeSpec(Numbers):
    """Who judges the arms' answers beside the base's, and on what it is calibrated first."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, min_length=1, description="the model that judges, as `base` names one")
    endpoint: EndpointSource | None = Field(None, description="the server that judges, in place of a model")
    labels: Path = Field(description="JSONL of pairs that people judged: prompt, chosen, rejected, or two transcripts")
    labelled: int = Field(200, ge=10, description="labelled pairs the judge is tried on, the first of the file, count")
    answers: int = Field(100, ge=1, description="answers of each arm to each task that are judged, the first, count")
    question: str = Field(QUESTION, min_length=1, description="what the judge is asked about the two answers")
    tasks: tuple[str, ...] = Field((), description="tasks whose answers are judged; none named: all that are answered in words")

    @pydantic.model_validator(mode="after")
    def _is_somebody(self) -> JudgeSpec:
        if (self.model is None) == (self.endpoint is None):
            raise pydantic_core.PydanticCustomError("judge", "say who judges: `model` or `endpoint`, one of them")
        return self

    @property
    def source(self) -> ModelSource | EndpointSource:
        """Where the judge is opened from."""
        return self.endpoint if self.endpoint is not None else ModelSource(name=str(self.model))

    @property
    def name(self) -> str:
        """What it is called."""
        return self.endpoint.model if self.endpoint is not None else Path(str(self.model)).name

    def written(self) -> dict[str, Any]:
        """The recipe keys that say so."""
        return self.model_dump(mode="json", exclude_none=True)


class ChoicesSpec(pydantic.BaseModel):
    """Choices between answers that people made, and which arm each name in them means."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    files: tuple[Path, ...] = Field(min_length=1, description="JSONL as `steelyard arena` reads it, one file for each rater's export")
    arms: Mapping[str, str] = Field(default_factory=dict, description="arm -> what it is called in the files; unset: its own name")
    settings: bool = Field(False, description="whether other sampler settings make another arm")

    def written(self) -> dict[str, Any]:
        """The recipe keys that say so."""
        return self.model_dump(mode="json")
