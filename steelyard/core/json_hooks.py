"""What Python's JSON reader lets pass and JSON does not mean: a key twice in one object, NaN and Infinity. Hooks that refuse them."""

from __future__ import annotations

from typing import Any, NoReturn


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook`: the object, unless a key stands in it twice. One of two values would be ignored silently, and programs
    differ in which.

    Raises:
        ValueError: it names the key.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in twin[:80])
        raise ValueError(f"key `{shown}` appears twice in one object")
    return value


def no_constant(word: str) -> NoReturn:
    """A `parse_constant`.

    Raises:
        ValueError: NaN, Infinity and -Infinity are not JSON.
    """
    raise ValueError(f"{word} is not JSON")
