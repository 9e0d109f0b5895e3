"""Schemas, regexes and grammars as llguidance compiles them; what it cannot honour is refused by name.

llguidance itself names the keywords, formats and regex features it does not know. Refused here besides: what would be ignored
(`lenient` schemas, a temperature inside a grammar), what would let special tokens into a text, and what is so large or deep
that compiling it may never end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from steelyard.core.answer_form import AnswerForm, Kind, written
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.generate.constraints import schemas
from steelyard.generate.constraints.judging import accepts, judge, problem_of
from steelyard.generate.constraints.plainer import impossible, plainer
from steelyard.generate.constraints.trial import survive

MOST_CHARACTERS = 262_144
BLANKS = r"[\x20\x0A\x0D\x09]{1,64}"
"""Blanks between the parts of JSON: room to indent, but not enough to get lost in, as small models do."""
OPTIONS = {"lenient": False, "coerce_one_of": False, "whitespace_pattern": BLANKS}
FREELY = '%llguidance {"no_forcing": true}\n'
"""Any tokens that write a text are offered. Otherwise llguidance offers one way alone where a text is forced: the one the tokenizer
cuts it by itself, which is another where SentencePiece puts a space first, and whose share of the model's probability is lost."""

# What may hold any character at all, and is left out before a grammar is looked over: strings, comments, regexes.
_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/(?:\\.|[^/\\\n])+/|#[^\n]*')
_ATTRIBUTES = re.compile(r"^[ \t]*[?!]?[\w.-]+(?:::[^\[\n:]*)?\[([^\]\n]*)\]", re.MULTILINE)
_IGNORED = {
    "temperature": "the request alone says at which temperature tokens are drawn",
    "max_tokens": "the request alone says how many tokens an answer has",
    "stop": "what it matches would be taken out of the text again; use `suffix` or `lazy`",
}


@dataclass(frozen=True)
class Grammar:
    """One of the three forms, ready to be compiled for a vocabulary.

    Attributes:
        kind: which setting it came from.
        source: schema (as JSON), regex or grammar as given.
        compiled: as llguidance reads it.
        schema: the schema itself; True, which everything matches, where it is none.
    """

    kind: Kind
    source: str
    compiled: str
    schema: Mapping[str, Any] | bool = True

    def accepts(self, text: str) -> bool:
        """Whether a whole text matches."""
        return accepts(self.compiled, text)

    def check(self, text: str) -> None:
        """Refuses a finished answer that is not what was asked for.

        Raises:
            SteelyardError: with what is wrong with it.
        """
        problem = schemas.complaint(text, self.schema) if self.kind == "json_schema" else None
        if self.kind != "json_schema" and not self.accepts(text):
            problem = "it does not match"
        if problem:
            if "appears twice" in problem:  # a grammar cannot remember which keys of any name it has seen
                do = "Close objects with `additionalProperties: false`: keys that a schema does not name may come again."
            else:
                do = "A stop string may have cut it; if none was given, please report it with the constraint."
            raise SteelyardError(f"the finished answer breaks its constraint: {problem}", where=self.kind, do=do)


def of(form: AnswerForm) -> Grammar:
    """The grammar of a form.

    Raises:
        UnsupportedError: it cannot be honoured, by name.
    """
    match form.kind:
        case "json_schema":
            _check_size(form.source, form.kind)
            return of_schema(schemas.parsed(form.source))
        case "regex":
            return of_regex(form.source)
        case "grammar":
            return of_lark(form.source)


def of_schema(schema: Mapping[str, Any] | bool) -> Grammar:
    """The grammar of a JSON schema.

    Raises:
        UnsupportedError: it is no schema, or asks for something that cannot be promised, by name.
    """
    source = written(schema)
    _check_size(source, "json_schema")
    schemas.check(schema)
    schemas.check_ends(schema)
    if schema is False:
        raise UnsupportedError("no value matches the schema `false`", where="json_schema", do="Give a schema that allows something.")
    plain = {} if schema is True else schema
    if "x-guidance" in plain:
        raise UnsupportedError("the keyword `x-guidance` is not supported", where="json_schema", do="Leave it out.")
    schema_itself = {"name": "schema", "json_schema": {**plainer(schemas.with_whole_counts(plain)), "x-guidance": OPTIONS}}
    compiled = json.dumps({"grammars": [{"lark_grammar": FREELY + "start: @schema"}, schema_itself]})
    grammar = _tried(Grammar("json_schema", source, compiled, schema))
    if impossible(plain):
        raise UnsupportedError(
            "it cannot be honoured: no value matches it, or none that ever ends",
            where="json_schema",
            do="Let what holds another of its own kind be left out, be null, or be an empty list; look for bounds that exclude one another.",
        )
    return grammar


def of_regex(regex: str) -> Grammar:
    """The grammar of a regex that the whole answer matches (Rust's syntax: no look-around, no back references).

    Raises:
        UnsupportedError: it uses what is not supported, by name.
    """
    _check_size(regex, "regex")
    (inner,) = json.loads(LLMatcher.grammar_from_regex(regex))["grammars"]
    return _tried(Grammar("regex", regex, FREELY + inner["lark_grammar"]))


def of_lark(text: str) -> Grammar:
    """A grammar in llguidance's variant of Lark's syntax.

    Raises:
        UnsupportedError: it names special tokens, asks for what would be ignored, or is not understood.
    """
    _check_size(text, "grammar")
    bare = _QUOTED.sub('""', text)
    if not text.strip():
        raise UnsupportedError("it is empty", where="grammar", do="Write at least `start: ...`.")
    if bare.lstrip().startswith("{"):
        raise UnsupportedError("a grammar in JSON is not supported", where="grammar", do="Write it in Lark's syntax.")
    if named := re.search(r"<[^>\n]*>?", bare):
        raise UnsupportedError(
            f"a grammar may not write special tokens ({named[0]})", where="grammar", do='Write text in quotes: "<think>".'
        )
    for attributes in _ATTRIBUTES.findall(bare):
        for name in (part.split("=")[0].strip() for part in attributes.split(",")):
            if name in _IGNORED:
                raise UnsupportedError(f"the attribute `{name}` is not supported: {_IGNORED[name]}", where="grammar", do="Leave it out.")
    if re.search(r"%llguidance[^}]*no_forcing", text):
        raise UnsupportedError("the option `no_forcing` is not supported: nothing is ever forced here", where="grammar", do="Leave it out.")
    return _tried(Grammar("grammar", text, FREELY + text))


def _tried(grammar: Grammar) -> Grammar:
    """The grammar, if it compiles, says nothing that would be ignored, and can write anything at all."""
    survive(grammar.compiled, grammar.kind)
    matcher = judge(grammar.compiled).deep_copy()
    problem = problem_of(matcher) or "; ".join(matcher.get_grammar_warnings()) or _stuck(matcher)
    if not problem and not any(matcher.compute_bitmask()) or (matcher.is_stopped() and not matcher.is_accepting()):
        problem = problem or problem_of(matcher)
        problem = "no text matches it" if not problem or problem.startswith("NoExtension") else problem
    if problem:
        raise UnsupportedError(f"it cannot be honoured: {problem}", where=grammar.kind, do="Say it without that.")
    return grammar


def _stuck(matcher: LLMatcher) -> str:
    """What is wrong as soon as an object or a list has begun: one with too many keys to choose from is noticed only then."""
    problems = []
    for byte in b"{[":
        begun = matcher.deep_copy()
        if begun.try_consume_tokens([byte]):
            begun.compute_bitmask()
        problems.append(problem_of(begun))
    return problems[0] or problems[1]


def _check_size(source: str, kind: Kind) -> None:
    if len(source) > MOST_CHARACTERS:
        raise UnsupportedError(
            f"{len(source)} characters; at most {MOST_CHARACTERS} are read", where=kind, do="Leave descriptions out, or make it smaller."
        )
