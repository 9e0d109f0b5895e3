"""Whether a text matches a compiled grammar, byte by byte and without any model; and what a matcher complains of."""

from __future__ import annotations

import functools
import re

from llguidance import LLMatcher, LLParserLimits

from steelyard.generate.constraints.tokens import byte_table

ONE_OF = "oneOf is supported only where its alternatives are seen to exclude one another, by type, value, bounds or a required key"
MOST_SAID = 300
"""Characters of a complaint."""


def problem_of(matcher: LLMatcher) -> str:
    """What ails a matcher, in one line without its inner state; empty where nothing does."""
    if not matcher.is_error():
        return ""
    lines = [line.strip() for line in matcher.get_error().partition("<state>")[0].replace("<non-verbose/>", "").splitlines()]
    text = " ".join(line for line in lines if line) or "the grammar cannot go on"
    text = text.partition(" Enable 'coerce_one_of'")[0].rstrip(".")  # not an option here: it would be something else than was asked for
    text = text.replace("oneOf constraints are not supported", ONE_OF)
    if len(text) <= MOST_SAID:
        return text
    reason = re.search(r"\berror: (.+)", "\n".join(lines))  # a regex's own, after the whole regex
    return text[: MOST_SAID // 2] + "..." + (f" {reason[1]:.{MOST_SAID // 2}}" if reason else "")


def limits() -> LLParserLimits:
    """llguidance's own, which end every step; its errors without the whole grammar in them."""
    return LLParserLimits(verbose_errors=False)


@functools.lru_cache(maxsize=64)
def judge(compiled: str) -> LLMatcher:
    """A matcher over bytes at a text's start, to be copied and never moved."""
    return LLMatcher(byte_table(), compiled, log_level=0, limits=limits())


def accepts(compiled: str, text: str) -> bool:
    """Whether a whole text matches a grammar as llguidance reads it."""
    matcher = judge(compiled).deep_copy()
    data = text.encode("utf-8", "surrogatepass")
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting() and not matcher.is_error()
