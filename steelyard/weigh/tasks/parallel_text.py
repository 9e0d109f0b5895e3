"""Languages on parallel text: how many tokens and bits a model needs to say the same thing, against English.

    bits to English = mean bits of a passage in the other languages / mean bits of the same passages in English

Bits are counted per passage, not per token or byte: a tokenizer that cuts Telugu into bytes makes each token easy and the passage
dear, and scripts differ in bytes per letter. Lengths cancel because the passages say the same. Tokens per passage are what a user of
that language pays and waits for (Petrov et al., arXiv:2305.15425).

Rows are `{"en": "...", "de": "...", ...}` in a JSONL file, or a folder of files `LANGUAGE*.tsv` or `LANGUAGE*.txt` whose lines say the same
in every language; of a TSV the first column counts. The versions of one passage share a cluster. Low is good, but a ratio also falls when
English gets worse: read it with `bits_in_en`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from steelyard.core.errors import DataError
from steelyard.core.fingerprint import digest
from steelyard.weigh.tasks.rows import BadValue, encodable, read_file, read_rows, take
from steelyard.weigh.tasks.task import Metric, Output, Read, Sample, Task, Value

REFERENCE = "en"
ENDINGS = (".tsv", ".txt")
LONGEST_NAME = 20  # letters of a language's name
BITS_TO_ENGLISH = Metric("bits_to_english", "languages", "times", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf))
TOKENS_TO_ENGLISH = Metric(
    "tokens_to_english", "languages", "times", False, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf)
)
BYTES_PER_TOKEN = Metric(
    "bytes_per_token", "languages", "bytes/token", True, margin=0.01, relative=True, kind="ratio", reach=(0.0, math.inf)
)


class ParallelText(Task):
    """The same passages in several languages."""

    name: ClassVar[str] = "parallel_text"
    summary: ClassVar[str] = "Bits and tokens that the same passages take in several languages, against English."

    path: Path = Field(description="JSONL file of {language: text}, or folder of LANGUAGE*.tsv or .txt files with the same lines")
    languages: tuple[str, ...] | None = Field(None, description="languages used, as the rows or files call them; all by default")
    limit: int | None = Field(None, ge=1, description="most passages, count; drawn by the seed")

    @functools.cached_property
    def _passages(self) -> list[dict[str, str]]:
        rows = _read_folder(self.path) if self.path.is_dir() else [_texts(row.value) for row in read_rows(self.path, _check)]
        wanted = self.languages or tuple(dict.fromkeys(name for row in rows for name in row))
        if missing := [name for name in wanted if not all(name in row for row in rows)]:
            raise DataError(
                f"not every passage is there in {', '.join(f'`{name}`' for name in missing)}",
                where=str(self.path),
                do="Give every row the same languages, or choose with `languages`.",
            )
        if REFERENCE not in wanted or len(wanted) < 2:
            raise DataError("languages are held against English: `en` and at least one other are needed", where=str(self.path))
        return [{name: row[name] for name in wanted} for row in rows]

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]  # the languages are the file's
        """Against English first; then each language for itself."""
        names = list(self._passages[0])
        bits = tuple(
            Metric(f"bits_in_{name}", "languages", "bits/passage", False, margin=0.01, relative=True, reach=(0.0, math.inf))
            for name in names
        )
        tokens = tuple(
            Metric(f"tokens_in_{name}", "languages", "tokens/passage", False, margin=0.01, relative=True, reach=(0.0, math.inf))
            for name in names
        )
        return (BITS_TO_ENGLISH, TOKENS_TO_ENGLISH, BYTES_PER_TOKEN, *bits, *tokens)

    def samples(self, seed: int) -> list[Sample]:
        passages = take(self._passages, self.limit, seed, self.name)
        return [
            Sample(
                id=f"{language}-{digest(text)}-{number}",
                request=Read(text, rolling=True),
                reference={"language": language, "others": len(passage) - 1, "bytes": len(text.encode())},
                cluster=f"passage {number}",
                tags={"language": language},
            )
            for number, passage in enumerate(passages)
            for language, text in passage.items()
        ]

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        values: dict[str, Value] = {metric.name: None for metric in self.metrics}
        if output.failure is not None or not output.scores:
            return values
        language, others = sample.reference["language"], sample.reference["others"]
        bits, tokens = -output.scores[0].logprob / math.log(2), float(output.scores[0].tokens)
        if not math.isfinite(bits):
            return values
        values |= {f"bits_in_{language}": bits, f"tokens_in_{language}": tokens, "bytes_per_token": (sample.reference["bytes"], tokens)}
        for name, amount in (("bits_to_english", bits), ("tokens_to_english", tokens)):
            values[name] = (0.0, amount) if language == REFERENCE else (amount / others, 0.0)
        return values


def _check(row: Mapping[str, Any]) -> None:
    if len(row) < 2:
        raise BadValue("has fewer than two languages")
    for name, text in row.items():
        if not name.strip() or len(name) > LONGEST_NAME or not name.replace("-", "").replace("_", "").isalnum():
            raise BadValue(f"`{name[:LONGEST_NAME]}` is no language's name")
        if not isinstance(text, str) or not text.strip():
            raise BadValue(f"`{name}` is not a text with something in it")
        encodable(text, name)


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    return dict(row)


def _read_folder(path: Path) -> list[dict[str, str]]:
    files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS)
    if not files:
        raise DataError(
            f"no file there ends in {' or '.join(ENDINGS)}", where=str(path), do="Give a folder of LANGUAGE*.tsv files, or JSONL."
        )
    columns: dict[str, list[str]] = {}
    for file in files:
        try:
            lines = read_file(file).decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 (byte {error.start + 1})", where=str(file)) from error
        language = file.stem.partition("_")[0]
        if language in columns:
            raise DataError(f"two files there are of the language `{language}`", where=str(file), do="Keep one.")
        columns[language] = [line.partition("\t")[0] if file.suffix == ".tsv" else line for line in lines if line.strip()]
    counts = {language: len(lines) for language, lines in columns.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the files do not have the same lines: {json.dumps(counts)}", where=str(path))
    rows = [dict(zip(columns, texts, strict=True)) for texts in zip(*columns.values(), strict=True)]
    for number, row in enumerate(rows, 1):
        try:
            _check(row)
        except BadValue as problem:
            raise DataError(f"line {number}: {problem}", where=str(path)) from None
    return rows
