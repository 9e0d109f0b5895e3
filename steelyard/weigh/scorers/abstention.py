"""Whether an answer says that it does not know: in its own words, not by silence alone.

A sentence such as "I don't know" abstains. "I'm not sure, but I think it is Lima" answers. An answer without a word
abstains too: nothing was claimed.
"""

from __future__ import annotations

import re

from steelyard.data.words import words

# Each alternative is one way of saying it; together they are tried as whole words.
_WAYS = (
    r"(?:do|does|did)\s?n[o']?t\s(?:\w+\s)?(?:know|exist|appear|mention|say|state|specify|provide|contain|tell|recogni[sz]e)",
    r"(?:do|does|did)\s?n[o']?t\s(?:\w+\s)?have\s(?:(?:any|enough|that|this|specific)\s)*(?:information|data|knowledge)",
    r"(?:can\s?not|can't|could\s?n[o']?t|unable\sto|not\sable\sto|not\spossible\sto)\s(?:\w+\s)?"
    r"(?:answer|say|tell|determine|find|provide|confirm|identify|verify|know|help|assist|be\s(?:determined|found|answered))",
    r"not\s(?:\w+\s)?(?:sure|certain|aware|familiar|known|real|mentioned|stated|specified|given|provided|available|recorded|documented)",
    r"not\sin\sthe\s(?:text|passage|document|article)s?",
    r"is\s?n't\s(?:\w+\s)?(?:real|known|mentioned|stated|specified|given|in\sthe\s(?:text|passage))",
    r"unknown|unsure|unaware|uncertain|unclear|unanswerable|hypothetical|n/a",
    r"no\s(?:\w+\s)?(?:information|idea|records?|data|mention|evidence|answer|knowledge)",
    r"no\ssuch|there(?:\sis|'s)\sno(?!\s(?:doubt|question|need))",
    r"(?:fictional|fictitious|imaginary)(?!\s(?:work|novel|story|book|tale|account))|made[\s-]up|non-?existent|never\sexisted",
)
_SAYS_SO = re.compile(rf"\b(?:{'|'.join(_WAYS)})\b", re.IGNORECASE)
# What turns "I don't know" into an answer after all, unless it is an offer to help.
_COMMITS = re.compile(
    r"\b(?:but|however|although|though|maybe|perhaps|probably|likely|i\s(?:think|believe|guess|suppose)|it\s(?:could|might|may)\sbe)\b"
    r"(?!\s(?:i|you|we)\s(?:can|could|may|will|would|am|do|don't|cannot|can't)\b)(?!\s(?:if|please|the\s(?:text|passage))\b)",
    re.IGNORECASE,
)


def abstains(text: str) -> bool:
    """Whether the text declines to answer.

    Args:
        text: the statement judged, see `first_statement`; later sentences are not looked at.
    """
    if not words(text):
        return True
    text = text.replace("’", "'")
    said = _SAYS_SO.search(text)
    return bool(said) and not _COMMITS.search(text, said.end())
