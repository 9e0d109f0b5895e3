"""Filling in a form as JSON: is it valid, and does it hold what the text says?

`valid` (format): the answer is JSON and nothing else (a code fence is allowed) and matches the form's schema. `fields`
(quality): share of fields with the right value, in the first JSON object of the answer even where something stands around
it, so that content and form are told apart; `fields_when_valid` is the same over valid answers alone. `exact`: all fields right, none missing or added. Forms are from the `test`
split, which shares no subject and no field name with what recipes train on.

Two fields is what SmolLM2-135M-Instruct can just do (15 % valid, 33 % of fields right, 40 forms); of three to five fields it
fills in none to 5 % validly.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from steelyard.core.fingerprint import digest
from steelyard.core.protocols import AnswerSettings, Message
from steelyard.core.seeds import derive
from steelyard.data.checks.json_answers import find_json
from steelyard.data.checks.json_schema import matches
from steelyard.data.generated.forms import make_form
from steelyard.data.words import words
from steelyard.weigh.tasks.task import Ask, Metric, Output, Sample, Task, Value

FIELDS = Metric("fields", "quality", "share", True, margin=0.03, floor=0.0)
EXACT = Metric("exact", "quality", "share", True, margin=0.03, floor=0.0, binary=True)
VALID = Metric("valid", "format", "share", True, margin=0.03, floor=0.0, binary=True)
PARSES = Metric("parses", "format", "share", True, margin=0.03, floor=0.0, binary=True)
FIELDS_WHEN_VALID = Metric("fields_when_valid", "format", "share", True, margin=0.03, kind="ratio")


class JsonForms(Task):
    """Forms to fill in from a text."""

    name: ClassVar[str] = "json_forms"
    summary: ClassVar[str] = "Fill in a form as JSON from a few sentences."
    metrics: ClassVar[tuple[Metric, ...]] = (FIELDS, EXACT, VALID, PARSES, FIELDS_WHEN_VALID)

    forms: int = Field(60, ge=1, le=5000, description="forms, count")
    fields: int | None = Field(2, ge=1, le=5, description="fields of every form, count: the difficulty; null: 3 to 5 in turn")
    shown: int = Field(2, ge=0, le=4, description="filled-in forms shown first, count (from the training split)")
    max_tokens: int = Field(96, ge=8, le=1024, description="longest answer, tokens")

    def samples(self, seed: int) -> list[Sample]:
        # The same shown forms for every sample: a server can keep their prefix, and they add no noise between samples.
        shown = [make_form(random.Random(derive("shown forms", i)), "train") for i in range(self.shown)]
        turns = [turn for form in shown for turn in (Message("user", form.request), Message("assistant", form.reply))]
        samples = []
        for number in range(self.forms):
            form = make_form(random.Random(derive(seed, self.name, number)), "test", self.fields)
            conversation = (*turns, Message("user", form.request))
            samples.append(
                Sample(
                    id=f"{form.title.replace(' ', '-')}-{digest([[turn.content for turn in conversation], self.max_tokens])}",
                    request=Ask(conversation, AnswerSettings(max_tokens=self.max_tokens)),
                    reference={"expected": form.reply, "answer": dict(form.answer), "schema": form.schema},
                    tags={"form": form.title, "fields": str(len(form.fields))},
                )
            )
        return samples

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        if output.failure is not None:
            return dict.fromkeys(metric.name for metric in self.metrics)
        return score_form(output.text, sample.reference["answer"], sample.reference["schema"])


def score_form(text: str, answer: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Value]:
    """The metrics of one answer."""
    found = find_json(text)
    if found is None:
        return {"fields": 0.0, "exact": 0.0, "valid": 0.0, "parses": 0.0, "fields_when_valid": (0.0, 0.0)}
    given = found.value if isinstance(found.value, dict) else {}
    right = sum(_same(given.get(key), value) for key, value in answer.items())
    valid = float(found.alone and matches(found.value, schema))
    return {
        "fields": right / len(answer),
        "exact": float(right == len(answer) and given.keys() == answer.keys()),
        "valid": valid,
        "parses": float(found.alone),
        "fields_when_valid": (valid * right / len(answer), valid),
    }


def _same(given: Any, wanted: Any) -> bool:
    """Whether a field holds the right value: texts compare as words, numbers by value, and a text is never a number."""
    if isinstance(wanted, bool) or isinstance(given, bool):
        return given is wanted
    if isinstance(wanted, str):
        return isinstance(given, str) and words(given) == words(wanted)
    return isinstance(given, int | float) and given == wanted
