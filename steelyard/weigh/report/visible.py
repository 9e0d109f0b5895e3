"""Text that came out of a model, made safe to look at: what would be invisible or reorder its surroundings is shown by name.

Escaping for HTML is the template's business; this is about characters that no escaping makes harmless: a right-to-left
override turns a line around, a NUL is dropped by parsers, half a surrogate pair cannot be written as UTF-8.
"""

from __future__ import annotations

import re

# C0 and C1 controls (without tab and newline), soft hyphen, bidirectional controls, invisible separators and fillers,
# interlinear marks, tag characters, non-characters, halves of surrogate pairs. The zero-width joiners stay: Persian, Hindi
# and emoji are written with them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f\U0001bca0-\U0001bca3]"
)
# Control characters by their names and not by Unicode's pictures of them, which many fonts lack.
_CONTROLS = [
    *("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "TAB", "LF", "VT", "FF", "CR", "SO", "SI"),
    *("DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US"),
]


def visible(text: str) -> str:
    """The text with unseen characters replaced by their name (`⟨ESC⟩`) or code point (`⟨U+202E⟩`). Line ends become newlines."""
    text = str(text).replace("\r\n", "\n")
    return text.translate(_NAMES) if _UNSEEN.search(text) else text


class _Names(dict):
    """Code point -> what to show for it, worked out when first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _UNSEEN.match(character):
            character = f"⟨{_CONTROLS[code]}⟩" if code < 0x20 else f"⟨U+{code:04X}⟩"
        self[code] = character
        return character


_NAMES = _Names()


def clip(text: str, limit: int) -> tuple[str, int]:
    """The first `limit` characters and how many were left out."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)
