"""WikiText-2, whole articles: perplexity by word, byte and token (Merity et al., arXiv:1609.07843). Texts as in lm-eval 0.4.

The set has spaces around punctuation; they are taken out before a model reads it, and words and bytes are counted in the text as it was,
as there. No commit is pinned here: give `revision`, or a local `path` of rows `{"page": ...}`.
"""

from __future__ import annotations

import re
from typing import ClassVar

from steelyard.weigh.tasks.likelihood import Page
from steelyard.weigh.tasks.rows import Row
from steelyard.weigh.tasks.sets.asked import text_at
from steelyard.weigh.tasks.sets.hub import HubPages

# In this order: each rule sees what those before it left.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), becomes)
    for pattern, becomes in (
        (r"s '", "s'"),
        (r"/' [0-9]/", "/'[0-9]/"),  # a slip of the original rules: it is kept, because it is how the texts are read elsewhere
        (r" @-@ ", "-"),
        (r" @,@ ", ","),
        (r" @\.@ ", "."),
        *((rf" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
        (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
        (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
        (r"{\s*([^}]*?)\s*}", r"{\1}"),
        (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
        (r"'\s*([^']*?)\s*'", r"'\1'"),
        (r"= = = =", "===="),
        (r"= = =", "==="),
        (r"= =", "=="),
        (r" ° ", "°"),
        (r" \n", "\n"),
        (r"\n ", "\n"),
        (r" N ", " 1 "),
        (r" 's", "'s"),
    )
)


class WikiText(HubPages):
    """Perplexity of encyclopedia articles."""

    name: ClassVar[str] = "wikitext"
    summary: ClassVar[str] = "WikiText-2: perplexity of whole articles by word, byte and token."
    dataset: ClassVar[str] = "EleutherAI/wikitext_document_level"
    config: ClassVar[str | None] = "wikitext-2-raw-v1"
    split: ClassVar[str] = "test"

    def page(self, row: Row) -> Page:
        written = text_at(row.value, "page")
        return Page(row.id, joined(written), counted=written)


def joined(text: str) -> str:
    """The text with its punctuation where people put it."""
    for pattern, becomes in _RULES:
        text = pattern.sub(becomes, text)
    return text
