"""HumanEval: functions to write, judged by running their tests (Chen et al., arXiv:2107.03374; MIT, openai/human-eval).

Rows: `{"task_id", "prompt", "entry_point", "test", "canonical_solution"}`. The model is asked to complete the function; the program that
is run is the prompt's imports, the code of the answer (in its last fence that holds the function, else all of it) and the row's tests, in
a process under limits (`scorers/programs.py`). `right` is pass@1 with one answer. An answer that goes on where the prompt stops, without
repeating its heading, is put behind the prompt. `parses` says whether the answer is Python at all.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from steelyard.weigh.scorers.programs import SECONDS, run_program
from steelyard.weigh.tasks.chat import FINISHED, RIGHT
from steelyard.weigh.tasks.rows import BadValue, Row
from steelyard.weigh.tasks.sets.asked import AskedSet, text_at
from steelyard.weigh.tasks.task import Metric, Output, Sample, Value

ASKED = "Complete the function. Answer with the whole function in one Python code block."
PARSES = Metric("parses", "format", "share", True, margin=0.03, binary=True)
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


class HumanEval(AskedSet):
    """Functions judged by their tests."""

    name: ClassVar[str] = "human_eval"
    summary: ClassVar[str] = "HumanEval: functions written by the model, run against their tests in a limited process."
    perturbable: ClassVar[bool] = False  # programs, not words
    metrics: ClassVar[tuple[Metric, ...]] = (RIGHT, PARSES, FINISHED)

    max_tokens: int = Field(512, ge=1, le=32_768, description="longest answer, tokens")
    seconds: float = Field(SECONDS, gt=0, le=120, description="most seconds that the tests of an answer may take")

    def sample(self, row: Row) -> Sample:
        prompt, entry, test = (text_at(row.value, key) for key in ("prompt", "entry_point", "test"))
        if not entry.isidentifier() or f"def {entry}" not in prompt:
            raise BadValue("`entry_point` is no function of `prompt`")
        if "def check(" not in test:
            raise BadValue("`test` defines no function `check`")
        reference = {"expected": row.value.get("canonical_solution", ""), "prompt": prompt, "entry_point": entry, "test": test}
        tags = {"task": str(row.value.get("task_id", row.line))}
        return Sample(row.id, self.ask(f"{ASKED}\n\n```python\n{prompt.rstrip()}\n```"), reference=reference, tags=tags)

    def right(self, sample: Sample, text: str) -> bool:
        program = _program(sample.reference, text)
        if program is None:
            return False
        test, entry = sample.reference["test"], sample.reference["entry_point"]
        return run_program(f"{program}\n\n{test}\n\ncheck({entry})\n", self.seconds).passed

    def score(self, sample: Sample, output: Output) -> Mapping[str, Value]:
        parses = None if output.failure is not None else float(_program(sample.reference, output.text) is not None)
        return {**super().score(sample, output), "parses": parses}


def _program(reference: Mapping[str, str], text: str) -> str | None:
    """The program an answer makes, or None where it is no Python."""
    prompt, heading = reference["prompt"], f"def {reference['entry_point']}"
    before = prompt[: prompt.index(heading)]
    fences = [match[1] for match in _FENCE.finditer(text)]
    written = next((code for code in reversed(fences) if heading in code), fences[-1] if fences else text)
    tried = [f"{before}\n{written}"] if heading in written else [prompt + written, prompt + "    " + written.replace("\n", "\n    ")]
    return next((program for program in tried if _is_python(program)), None)


def _is_python(program: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "<answer>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
