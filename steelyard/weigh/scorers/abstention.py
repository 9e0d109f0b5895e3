"""Whether an answer says that it does not know: in its own words, not by silence alone.

A sentence such as "I don't know" abstains. "I'm not sure, but I think it is Lima" answers. An answer without a word
abstains too: nothing was claimed.
"""

from __future__ import annotations

import re

from steelyard.data.words import words

_SAYS_SO = re.compile(
    r"""
    \b(?:
      (?:do|does|did)\s?n[o']?t\s(?:\w+\s)?(?:know|have\s(?:any\s|enough\s|that\s|this\s)*(?:information|data|knowledge)|exist|appear|mention|say|state|specify|provide|contain|tell|recognize|recognise)
      | (?:can\s?not|can't|could\s?n[o']?t|unable\sto|am\snot\sable\sto|not\spossible\sto)\s(?:\w+\s)?(?:answer|say|tell|determine|find|provide|confirm|identify|verify|know|help|be\s(?:determined|found|answered))
      | not\s(?:\w+\s)?(?:sure|certain|aware|familiar|known|real|mentioned|stated|specified|given|provided|available|recorded|documented|in\sthe\s(?:text|passage|document|article)s?)
      | unknown | unsure | unaware | uncertain | unclear | unanswerable
      | no\s(?:\w+\s)?(?:information|idea|record|records|data|mention|evidence|answer|knowledge)
      | no\ssuch\b | there\sis\sno\b | there's\sno\b | is\s?n[o']?t\s(?:\w+\s)?(?:real|known|mentioned|stated|specified|given|in\sthe\s(?:text|passage))
      | (?:fictional|fictitious|imaginary)(?!\s(?:work|novel|story|book|tale|account)) | made[\s-]up | non-?existent | never\sexisted | hypothetical
      | cannot\sbe\s(?:determined|answered|found) | n/a
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
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
