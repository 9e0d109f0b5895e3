"""Constraints: an answer that matches a JSON schema, a regex or a grammar, whatever the model would rather say.

Before every draw the tokens after which no such answer could follow any more are ruled out: logit -= infinity. What remains keeps
its proportions. The end token stays exactly where the text so far is a whole answer; special tokens never do.
Masks come from llguidance (https://github.com/guidance-ai/llguidance), which walks a trie of the vocabulary along an Earley parser
with a derivative-based lexer; the idea of masking by grammar: arXiv:2307.09702, measured in arXiv:2501.10868.
Where a schema is given, objects come with their keys in the schema's order, and the finished answer is checked once more with
`jsonschema`. An answer that `max_tokens` cuts off is no match yet: its reason is `length`. An object that may have keys its schema
does not name may come to have one of them twice, as the grammar cannot remember them: that answer ends in an error.
Cost at 49,000 tokens, measured amid decoding steps of 4 ms on one core: drawn greedily and shaped by nothing else, an answer asks of
the likeliest token alone whether it is permitted (0.04 ms) and needs a mask only where it is not; else a mask a token (0.2 ms, more
for forms that look far back).
A request may bring a form of its own (`AnswerSettings.constraint`); the lever sets one for all.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.fingerprint import digest, source_digest
from steelyard.core.levers import Lever
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.constraints.masks import bars, room
from steelyard.generate.processor import CONSTRAINT, Processor, View
from steelyard.generate.spec import EngineSpec

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from steelyard.generate.constraints.grammars import Grammar
    from steelyard.generate.constraints.vocabulary import Vocabulary


class Constraint(Lever):
    """Answers in a given form."""

    name: ClassVar[str] = "constraint"
    idea: ClassVar[str] = (
        "Before each draw, tokens that could not lead to a text of the given form are ruled out, so every finished answer matches the JSON "
        "schema, regex or grammar. The form is sure; whether what is written in it is true is as it was."
    )
    equation: ClassVar[str] = "logit_t = -inf unless some continuation of text + t matches; end token allowed iff text matches"
    paper: ClassVar[str] = "arXiv:2307.09702; masks by https://github.com/guidance-ai/llguidance; measured in arXiv:2501.10868"
    cost: ClassVar[str] = (
        "Greedy: 0.04 ms a token, amid decoding steps of 4 ms; sampled: a mask a token, 0.2 ms of one core at 49,000 tokens. Tens of "
        "milliseconds once for each form."
    )
    main: ClassVar[str] = "json_schema"
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    conflicts: ClassVar[frozenset[str]] = frozenset({"constraint"})
    identity: ClassVar[dict] = {"json_schema": None, "regex": None, "grammar": None}
    maturity: ClassVar = "experimental"
    evidence: ClassVar = "real model"
    per_request: ClassVar[bool] = True

    json_schema: dict | Path | None = Field(None, description="the schema itself, or the path of a JSON file with it")
    regex: str | None = Field(None, description="what the whole answer matches, in Rust's syntax; `.` is any character but a line break")
    grammar: str | None = Field(None, description="a grammar in llguidance's variant of Lark's syntax; it begins at `start`")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in ("json_schema", "regex", "grammar") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"only one of json_schema, regex and grammar may be given, not {' and '.join(given)}")
        return self

    @property
    def fingerprint(self) -> str:
        """Digest of the form itself: a schema counts by what it says, not by where its file lies."""
        schema = self._schema() if self.json_schema is not None else None
        return digest([self.name, schema, self.regex, self.grammar, source_digest(type(self))])

    def decode(self, spec: EngineSpec) -> EngineSpec:
        """Adds the mask to the engine.

        Raises:
            SteelyardError: the form cannot be honoured, by name; the model has no end token; a package is missing.
        """
        if self.json_schema is None and self.regex is None and self.grammar is None:
            return spec
        return replace(spec, processors=(*spec.processors, Constrained.of(self.form(), spec)))

    def form(self) -> Grammar:
        """The form asked for, compiled.

        Raises:
            SteelyardError: it cannot be honoured, by name.
        """
        require_packages()
        from steelyard.generate.constraints import grammars

        if self.json_schema is not None:
            return grammars.of_schema(self._schema())
        return grammars.of_regex(self.regex) if self.regex is not None else grammars.of_lark(self.grammar or "")

    def _schema(self) -> Mapping[str, Any]:
        if isinstance(self.json_schema, Path):
            require_packages()
            from steelyard.generate.constraints import schemas

            return schemas.read(self.json_schema)
        return self.json_schema or {}


def require_packages() -> None:
    """Raises:
    UnsupportedError: the extra is not installed.
    """
    if missing := [name for name in ("llguidance", "jsonschema") if importlib.util.find_spec(name) is None]:
        raise UnsupportedError(
            f"constraints need {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            where="constraint",
            do='Run: pip install "steelyard[constraint]"',
        )


def requested(settings: AnswerSettings, spec: EngineSpec) -> tuple[Processor, ...]:
    """What holds one request to the form it asks for, if it does. The forms asked for last stay compiled.

    Raises:
        SteelyardError: the form cannot be honoured, by name, or not together with another setting; the model has no end token; a
            package is missing.
    """
    pulled = any(isinstance(processor, Constrained) for processor in spec.processors)
    if settings.ignore_eos and (pulled or settings.constraint):
        raise UnsupportedError(
            "`ignore_eos` under a constraint: where the form is complete nothing can follow",
            where="answer settings",
            do="Leave one of them out.",
        )
    if settings.constraint is None:
        return ()
    if pulled:
        raise UnsupportedError(
            "a constraint for this request, where every answer has one already: the lever `constraint` was pulled",
            where="answer settings",
            do="Leave one of them out.",
        )
    require_packages()
    return (_requested(settings.constraint, _vocabulary(spec)),)


@functools.lru_cache(maxsize=64)
def _requested(form: AnswerForm, tokens: Vocabulary) -> Constrained:
    from steelyard.generate.constraints import grammars

    return Constrained.over(grammars.of(form), tokens)


def _vocabulary(spec: EngineSpec) -> Vocabulary:
    from steelyard.generate.constraints.vocabulary import vocabulary

    if spec.model.tokenizer is None:
        raise UnsupportedError(f"{spec.model.name} has no tokenizer", where="constraint", do="Use a model that generates text.")
    return vocabulary(spec.model.tokenizer, spec.model.trunk.plan.inputs.vocabulary)


@dataclass(frozen=True, eq=False)
class Constrained:
    """Starts a matcher for each answer.

    Attributes:
        form: what answers match.
        vocabulary: the model's tokens as bytes.
        matcher: at the start of an answer; copied for each.
        opening: the tokens an answer may begin with, 32 a word.
    """

    form: Grammar
    vocabulary: Vocabulary
    matcher: LLMatcher
    opening: np.ndarray
    order = CONSTRAINT

    @classmethod
    def of(cls, form: Grammar, spec: EngineSpec) -> Constrained:
        """For the model of an engine.

        Raises:
            SteelyardError: no token of this vocabulary can begin such an answer, or the tokenizer cannot be read.
        """
        return cls.over(form, _vocabulary(spec))

    @classmethod
    def over(cls, form: Grammar, tokens: Vocabulary) -> Constrained:
        """For a vocabulary.

        Raises:
            SteelyardError: no token of it can begin such an answer.
        """
        from llguidance import LLMatcher

        from steelyard.generate.constraints.judging import limits

        def compiled(table: LLTokenizer) -> LLMatcher:
            return LLMatcher(table, form.compiled, log_level=0, limits=limits())

        matcher = compiled(tokens.matching)
        first = compiled(tokens.opening) if tokens.first else matcher.deep_copy()
        opening = tokens.new_mask()
        compute_mask(first, tokens, opening)
        return cls(form, tokens, matcher, opening)

    @property
    def fingerprint(self) -> str:
        return digest(["constraint", self.form.kind, self.form.source])

    def start(self, settings: AnswerSettings) -> ConstraintSession:
        return ConstraintSession(self)


def compute_mask(matcher: LLMatcher, tokens: Vocabulary, words: np.ndarray) -> None:
    """Writes which tokens may come next, 32 of them a word, into room from `tokens.new_mask()`.

    Raises:
        SteelyardError: the matcher gave up, or nothing may come.
    """
    matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
    if not matcher.is_error() and tokens.any(words):
        return
    raise SteelyardError(
        f"the constraint cannot go on: {_problem(matcher) or 'no token of this vocabulary leads to a text that matches'}",
        where="constraint",
        do="Make it simpler, or allow what the vocabulary can write.",
    )


def _problem(matcher: LLMatcher) -> str:
    from steelyard.generate.constraints.judging import problem_of

    return problem_of(matcher)


class ConstraintSession:
    """Where one answer stands in its grammar."""

    def __init__(self, constrained: Constrained):
        self.form, self.vocabulary, self.opening = constrained.form, constrained.vocabulary, constrained.opening
        self.matcher = constrained.matcher.deep_copy()
        self.words = self.vocabulary.new_mask()
        self.room: np.ndarray | None = None  # what is given back lies here until the next call
        self.taken: list[int] = []  # steps of the matcher for each token: a first token may be spelled in bytes

    def __call__(self, logits: Tensor, view: View) -> Tensor:
        if self.taken:
            compute_mask(self.matcher, self.vocabulary, self.words)
        if self.room is None:
            self.room = room(len(logits))
        barred = bars(self.words if self.taken else self.opening, self.room)[: len(logits)]
        if logits.device.type == "cpu" and logits.dtype == torch.float32:
            return torch.from_numpy(np.add(barred, logits.numpy(), out=barred))
        return logits + torch.from_numpy(barred).to(logits.device)

    def permits(self, token: int) -> bool:
        """Whether a token may come next: what the mask says of it, without the mask."""
        if not self.taken:
            return bool(int(self.opening[token >> 5]) >> (token & 31) & 1)
        if token in self.vocabulary.ends:
            return self.matcher.is_accepting()
        return self.matcher.validate_tokens([token]) == 1

    def advance(self, token: int) -> None:
        spelled = self.vocabulary.spelled(token, start=not self.taken)
        for one in spelled:
            if not self.matcher.consume_token(one):
                raise SteelyardError(
                    f"the constraint cannot go on with token {token}: {_problem(self.matcher)}",
                    where="constraint",
                    do="Make the grammar simpler; a processor that comes later must not raise logits that were ruled out.",
                )
        self.taken.append(len(spelled))

    def rewind(self, count: int) -> None:
        if not count:
            return
        steps = sum(self.taken[-count:])
        del self.taken[-count:]
        if not self.matcher.rollback(steps):
            raise SteelyardError(f"the constraint could not go back {count} tokens", where="constraint")

    def finish(self, text: str) -> None:
        """Checks the finished answer once more.

        Raises:
            SteelyardError: it does not match.
        """
        self.form.check(text)
