"""Key-value retrieval: one value out of a JSON object of random keys, by where it stands (Liu et al., arXiv:2307.03172; MIT).

Rows: `{"ordered_kv_records": [[key, value], ...], "key": ..., "value": ...}`. `records` keeps fewer pairs (the length dial) and
`position` says where the asked one stands among them, from 0 (the beginning) to 1; several positions ask each row once at each, and
several lengths at each of these. Right when the value stands in the answer.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar

from pydantic import Field, field_validator

from steelyard.weigh.tasks.rows import BadValue, Row, take
from steelyard.weigh.tasks.sets.asked import AskedSet, text_at
from steelyard.weigh.tasks.task import Sample

ASKED = "Extract the value of the given key from the JSON object below. Answer with the value alone."


class KvRetrieval(AskedSet):
    """Finding a value by its key."""

    name: ClassVar[str] = "kv_retrieval"
    summary: ClassVar[str] = "Key-value retrieval: a random key's value out of many, by position and length."

    max_tokens: int = Field(64, ge=1, le=32_768, description="longest answer, tokens")
    records: int | tuple[int, ...] = Field(75, description="pairs kept of each row, count, or several of them; all where it has fewer")
    position: float | tuple[float, ...] = Field(
        0.5, description="where the asked pair stands, or several such places: 0 the beginning, 1 the end"
    )

    @field_validator("records")
    @classmethod
    def _records(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if not _several(value) or not all(1 <= one <= 10_000 for one in _several(value)):
            raise ValueError("numbers of pairs are different whole numbers from 1 to 10000")
        return value

    @field_validator("position")
    @classmethod
    def _position(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if not _several(value) or not all(0 <= one <= 1 for one in _several(value)):
            raise ValueError("positions are different numbers from 0 to 1")
        return value

    def samples(self, seed: int) -> list[Sample]:
        places = [(records, position) for records in _several(self.records) for position in _several(self.position)]
        if len(places) == 1:
            return super().samples(seed)
        out = []
        for row in take(self.rows(), self.limit, seed, self.name):
            for records, position in places:
                found = self._at(row, records, position)
                out.append(dataclasses.replace(found, id=f"{row.id}-{records}-{position:g}", cluster=f"row {row.id}"))
        return out

    def sample(self, row: Row) -> Sample:
        return self._at(row, _several(self.records)[0], _several(self.position)[0])

    def _at(self, row: Row, records: int, position: float) -> Sample:
        key, value = text_at(row.value, "key"), text_at(row.value, "value")
        others = [pair for pair in _pairs(row.value.get("ordered_kv_records")) if pair[0] != key][: records - 1]
        place = round(position * len(others))
        kept = [*others[:place], (key, value), *others[place:]]
        shown = "{" + ",\n ".join(f"{json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}" for k, v in kept) + "}"
        tags = {"records": str(len(kept)), "position": f"{position:g}", "line": str(row.line)}
        tags |= {"depth": f"{position:g}", "length": str(len(kept)), "length_unit": "pairs"}
        return Sample(row.id, self.ask(f'{ASKED}\n\n{shown}\n\nKey: "{key}"'), reference={"expected": value}, tags=tags)

    def right(self, sample: Sample, text: str) -> bool:
        return sample.reference["expected"].lower() in text.lower()


def _several(value: Any) -> tuple[Any, ...]:
    """One or several different values as several; () where one is there twice."""
    several = value if isinstance(value, tuple) else (value,)
    return several if len(set(several)) == len(several) else ()


def _pairs(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        raise BadValue("`ordered_kv_records` is not a list of pairs")
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in value):
        raise BadValue("`ordered_kv_records` holds something else than pairs of texts")
    return [(pair[0], pair[1]) for pair in value]
