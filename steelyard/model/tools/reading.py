"""Reads what a model writes for calls of tools, while it writes.

Text goes on as text as soon as it cannot be the beginning of a call. Once a call has named an offered function and begun its arguments,
its name goes on and then its arguments piece by piece; nothing that went on is ever taken back. The same pieces come wherever the text
is cut.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from steelyard.core.protocols import Event, Text, ToolCall
from steelyard.model.tools.arguments import ElementArguments, JsonArguments
from steelyard.model.tools.forms import BARE, BLANK, BY_NAME, Form, Head, headed, json_calls

PLAIN = re.compile(r"[A-Za-z0-9_.-]{0,64}(?:\n\s*(?:\{.*)?)?", re.DOTALL)
"""What may still become a name on a line of its own with an object below it."""


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of a call. The first piece of each has its id and name; the arguments' pieces join to what the model wrote."""

    index: int
    arguments: str
    id: str = ""
    name: str = ""


Piece = Event | CallPart


def call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


@dataclass
class Reader:
    """Reads text for calls as it comes; `out` holds what is certain.

    Attributes:
        names: of the functions that were offered; a mapping also has the schemas of their arguments.
        forms: those in which the model may write calls.
        calls: how many there were.
    """

    names: Collection[str]
    forms: Sequence[Form]
    calls: int = 0
    out: list[Piece] = field(default_factory=list)
    _held: str = ""
    _within: Form | None = None
    _written: str = ""  # how the marks before what is held were written, where it is within a form
    _writing: JsonArguments | ElementArguments | None = None  # of the call whose name has gone on
    _tail: re.Pattern[str] = BLANK
    _after: Form | None = None  # marks around its calls were opened and not yet closed
    _said: bool = False
    _speaking: bool = False  # text was said since the last call: white space that follows belongs to it
    _given: bool = False  # the opening stands in the prompt, and the model has written nothing yet

    def __post_init__(self) -> None:
        if begun := [form for form in self.forms if form.begun]:
            self._within, self._given = begun[0], True

    def push(self, text: str) -> None:
        """More of the text."""
        self._held += text
        while self._step():
            pass

    def call(self, name: str, arguments: str, id: str = "") -> None:
        """A whole call."""
        self.out += [CallPart(self.calls, "", id or call_id(), name), CallPart(self.calls, arguments)]
        self.calls += 1
        self._speaking = False

    def end(self, cut: bool) -> None:
        """Nothing more comes; `cut` says that more would have come."""
        held, self._held = self._held, ""
        form, writing = self._within, self._writing
        if form is not None and writing is not None:
            if writing.state == "growing":
                more, other = writing.finish(held, cut)
                self._part(more)
                self._say(other)
            elif writing.state == "broken":
                self._part(held if cut else self._inner(held))
            else:
                left = held[: len(held) - _begun(held, form.closing or form.opening)]
                if left.strip() and not self._tail.fullmatch(left) and not (cut and left.lstrip()[0] in "},`"):
                    self._say(held)
        elif form is not None:
            self._whole(form, held, self._written + held)
        elif not self._said and not self.calls and held.lstrip()[:1] in ("{", "["):
            self._whole(None, held, held)
        elif not self._is_last_mark(held) and (held.strip() or not self.calls or self._speaking):
            self._say(held)

    def _is_last_mark(self, held: str) -> bool:
        """Whether what is left is the mark that ends a family's calls, as far as it goes: no words for a person."""
        return self._after is not None and not self._speaking and self._after.around[1].startswith(held.lstrip())

    def _step(self) -> bool:
        """Reads on as far as one thing goes; whether there may be more to read."""
        if self._within is None:
            return self._talk()
        if self._writing is None:
            return self._inside(self._within)
        return self._write(self._within, self._writing)

    def _talk(self) -> bool:
        if (after := self._after) is not None and not self._speaking:
            rest, mark = self._held.lstrip(), after.around[1]
            if rest.startswith(mark):
                self._held, self._after = rest[len(mark) :], None
                return True
            if mark.startswith(rest):
                return False
        if not self._said and not self.calls and headed(BARE, self._held, self.names):
            self._within, self._written = BARE, ""
            return True
        openings = [(start, form) for form in self.forms if form.opening and (start := self._held.find(form.opening)) >= 0]
        if openings:
            start, form = min(openings, key=lambda one: one[0])
            before, self._held, self._within = self._held[:start], self._held[start + len(form.opening) :], form
            around = before.rstrip().endswith(form.around[0]) if form.around[0] else False
            cut = len(before.rstrip()) - len(form.around[0]) if around else len(before)
            said = cut if before[:cut].strip() or self._speaking else 0  # white space before a call belongs to it
            self._say(before[:said])
            self._written = before[said:] + form.opening
            if around:
                self._after = form
            return True
        if not self._said and self._held.lstrip()[:1] in ("", "{", "["):
            return False  # it may be nothing but a call
        cut = len(self._held) - max((_pending(self._held, form) for form in self.forms), default=0)
        if not self._held[:cut].strip() and not self._speaking:
            return False  # white space before a call, or after the last
        self._say(self._held[:cut])
        self._held = self._held[cut:]
        return False

    def _inside(self, form: Form) -> bool:
        if self._given:
            if self._held.startswith(form.opening):  # the model wrote it once more
                self._held, self._written, self._given = self._held[len(form.opening) :], form.opening, False
                return True
            if form.opening.startswith(self._held):
                return False
        if form.silent and self._held.startswith(form.silent):
            self._held, self._within, self._given, self._said = self._held[len(form.silent) :], None, False, True
            return True
        if (found := headed(form, self._held, self.names)) is not None:
            self._begin(form, found)
            return True
        if form.begun and not PLAIN.fullmatch(self._held):
            self._say(self._written)
            self._within, self._given = None, False
            return True
        end = self._held.find(form.closing or form.opening) if form.opening else -1
        if end < 0:
            return False
        inside, self._held, self._within, self._given = self._held[:end], self._held[end + len(form.closing) :], None, False
        self._whole(form, inside, f"{self._written}{inside}{form.closing}")
        return True

    def _begin(self, form: Form, head: Head) -> None:
        """A call has named its function, and its arguments begin."""
        schema = self.names[head.name] if isinstance(self.names, Mapping) else None
        self._writing, self._tail, self._held = form.arguments(schema), head.tail, self._held[head.end :]
        self._given = self._speaking = False
        self.out.append(CallPart(self.calls, "", call_id(), head.name))
        self.calls += 1

    def _write(self, form: Form, writing: JsonArguments | ElementArguments) -> bool:
        if writing.state == "growing":
            taken, more = writing.feed(self._held)
            self._part(more)
            self._held = self._held[taken:]
            return writing.state != "growing"
        if writing.state == "whole" and (found := headed(form, self._held, self.names, again=True)) is not None:
            self._begin(form, found)
            return True
        end = self._held.find(form.closing or form.opening) if form.opening else -1
        if end < 0:
            return False
        rest, self._held = self._held[:end], self._held[end + len(form.closing) :]
        self._within = self._writing = None
        if writing.state == "broken":
            self._part(self._inner(rest))
        elif not self._tail.fullmatch(rest):
            self._say(rest)
        return True

    def _inner(self, text: str) -> str:
        """Arguments that are no JSON, without what may follow them."""
        found = re.search(rf"(?:{self._tail.pattern})\Z", text)
        return text[: found.start()] if found else text

    def _part(self, text: str) -> None:
        if text:
            self.out.append(CallPart(self.calls - 1, text))

    def _say(self, text: str) -> None:
        if text:
            self._said = self._speaking = True
            self.out.append(Text(text))

    def _whole(self, form: Form | None, inside: str, written: str) -> None:
        """What stands in the place of a call; `form` is None where no marks are around it, and then JSON is one in any case."""
        readers = [form.read] if form is not None else [json_calls, *(one.read for one in self.forms if one.bare)]
        found = next((calls for read in readers if (calls := read(inside, self.names))), [])
        if not found:
            self._after = None
            return self._say(written)
        for name, arguments in found:
            self.call(name, arguments)


def calls_in(text: str, names: Collection[str], forms: Sequence[str], cut: bool = False) -> list[ToolCall]:
    """The calls in a whole text, in order.

    Args:
        names: of the functions that were offered; a mapping also has the schemas of their arguments.
        forms: names of those in which the model may write calls.
        cut: the text was cut off.
    """
    reader = Reader(names, [BY_NAME[form] for form in forms])
    reader.push(text)
    reader.end(cut)
    parts = [piece for piece in reader.out if isinstance(piece, CallPart)]
    heads = [part for part in parts if part.name]
    return [ToolCall(head.id, head.name, "".join(part.arguments for part in parts if part.index == head.index)) for head in heads]


def _pending(text: str, form: Form) -> int:
    """How many characters at a text's end may be the beginning of a call, or of the marks around calls."""
    around = form.around[0]
    if around and (start := text.rfind(around)) >= 0 and form.opening.startswith(text[start + len(around) :].lstrip()):
        return len(text) - start
    return max(_begun(text, form.opening), _begun(text, around))


def _begun(text: str, mark: str) -> int:
    """How many characters at a text's end may be the beginning of a mark."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)
