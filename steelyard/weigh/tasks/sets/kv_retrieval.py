"""Key-value retrieval: one value out of a JSON object of random keys, by where it stands (Liu et al., arXiv:2307.03172; MIT).

Rows: `{"ordered_kv_records": [[key, value], ...], "key": ..., "value": ...}`. `records` keeps fewer pairs (the length dial) and
`position` says where the asked one stands among them, from 0 (the beginning) to 1. Right when the value stands in the answer.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import Field

from steelyard.weigh.tasks.rows import BadValue, Row
from steelyard.weigh.tasks.sets.asked import AskedSet, text_at
from steelyard.weigh.tasks.task import Sample

ASKED = "Extract the value of the given key from the JSON object below. Answer with the value alone."


class KvRetrieval(AskedSet):
    """Finding a value by its key."""

    name: ClassVar[str] = "kv_retrieval"
    summary: ClassVar[str] = "Key-value retrieval: a random key's value out of many, by position and length."

    max_tokens: int = Field(64, ge=1, le=32_768, description="longest answer, tokens")
    records: int = Field(75, ge=1, le=10_000, description="pairs kept of each row, count; all where it has fewer")
    position: float = Field(0.5, ge=0, le=1, description="where the asked pair stands: 0 the beginning, 1 the end")

    def sample(self, row: Row) -> Sample:
        key, value = text_at(row.value, "key"), text_at(row.value, "value")
        others = [pair for pair in _pairs(row.value.get("ordered_kv_records")) if pair[0] != key][: self.records - 1]
        place = round(self.position * len(others))
        kept = [*others[:place], (key, value), *others[place:]]
        shown = "{" + ",\n ".join(f"{json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}" for k, v in kept) + "}"
        tags = {"records": str(len(kept)), "position": f"{self.position:g}", "line": str(row.line)}
        return Sample(row.id, self.ask(f'{ASKED}\n\n{shown}\n\nKey: "{key}"'), reference={"expected": value}, tags=tags)

    def right(self, sample: Sample, text: str) -> bool:
        return sample.reference["expected"].lower() in text.lower()


def _pairs(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        raise BadValue("`ordered_kv_records` is not a list of pairs")
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in value):
        raise BadValue("`ordered_kv_records` holds something else than pairs of texts")
    return [(pair[0], pair[1]) for pair in value]
