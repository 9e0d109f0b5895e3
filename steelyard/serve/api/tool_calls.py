"""Function tools: what the model is shown, the grammar of a call that must come, and calls found in what it wrote.

A call that must come (`required`, or a named function) is written under a grammar: the whole answer is
`{"name": <one of the functions>, "arguments": <matching its schema>}`. Where the model chooses (`auto`), its text is read for the forms
that its chat template teaches (`steelyard/model/tools`), and for an answer that is nothing but the JSON of a call or a list of them. Text that
looks like a call but is none stays text. Either way a call's name comes first and its arguments as they are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from steelyard.core.protocols import Done, Event, Text, ToolCall
from steelyard.model.tools.forms import BY_NAME, USUAL
from steelyard.model.tools.reading import CallPart, Piece, Reader, call_id
from steelyard.serve.api.bodies import DEEPEST, depth
from steelyard.serve.api.streams import closing

FORCED = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')


def form_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON schema of one call of one of these tools."""
    forms = []
    for place, tool in enumerate(tools):
        function = tool["function"]
        root = "#/properties/arguments" if len(tools) == 1 else f"#/anyOf/{place}/properties/arguments"
        schema = function.get("parameters")
        arguments = {"type": "object", "properties": {}, "additionalProperties": False} if schema is None else rooted(schema, root)
        forms.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def rooted(schema: Any, root: str) -> Any:
    """A schema that stands inside another one: its references begin at `root`, and it says no dialect of its own."""
    if isinstance(schema, list):
        return [rooted(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: root + value[1:] if key == "$ref" and isinstance(value, str) and value.startswith("#") else rooted(value, root)
        for key, value in schema.items()
        if key != "$schema"
    }


def replayed(arguments: str) -> str:
    """Arguments of a past call as a JSON object, whatever the model once wrote: what is none stands under `text`."""
    try:
        value = json.loads(arguments, parse_constant=_no_constant) if arguments.strip() else {}
        if isinstance(value, dict) and depth(value, DEEPEST) <= DEEPEST:
            plain = json.dumps(value, ensure_ascii=False, allow_nan=False)
            plain.encode("utf-8")
            return plain
    except (
        ValueError,
        RecursionError,
    ):  # a model wrote it: it may be anything, half a character or 1e999, and the conversation has to go on
        pass
    return json.dumps({"text": arguments}, ensure_ascii=False)


def _no_constant(word: str) -> Any:
    raise ValueError(word)


async def forced(answer: AsyncIterator[Sequence[Event]]) -> AsyncIterator[Sequence[Piece]]:
    """The events of an answer that is one call, with its text as pieces of that call."""
    held, name, ends = "", None, ""
    async with closing(answer):
        async for events in answer:
            pieces: list[Piece] = []
            for event in events:
                if isinstance(event, Text):
                    held += event.text
                    if name is None and (found := FORCED.match(held)):
                        name, held = json.loads(found[1]), held[found.end() :]
                        pieces.append(CallPart(0, "", call_id(), name))
                    if name is not None:
                        # Whether the last brace belongs to the arguments or to what holds them is known at the end.
                        kept = held.rstrip("} \t\r\n")
                        ends = held[len(kept) :]
                        if kept:
                            pieces.append(CallPart(0, kept))
                            held = ends
                elif isinstance(event, Done):
                    if name is not None and event.reason == "stop":
                        held = held.rstrip().removesuffix("}").rstrip()
                    if held:
                        pieces.append(Text(held) if name is None else CallPart(0, held))
                    pieces.append(Done("tool_calls") if name is not None and event.reason == "stop" else event)
                else:
                    pieces.append(event)
            if pieces:
                yield pieces


async def chosen(
    answer: AsyncIterator[Sequence[Event]], names: Collection[str], most: int | None = None, forms: Sequence[str] = USUAL
) -> AsyncIterator[Sequence[Piece]]:
    """The events of an answer whose text may hold calls, with those as calls; after `most` of them the answer ends.

    Args:
        names: of the functions that were offered; a mapping also has the schemas of their arguments.
        forms: names of those in which the model writes calls (`forms.FORMS`).
    """
    reader = Reader(names, [BY_NAME[name] for name in forms])
    async with closing(answer):
        async for events in answer:
            pieces: list[Piece] = []
            for event in events:
                if isinstance(event, Text):
                    reader.push(event.text)
                elif isinstance(event, ToolCall):  # a lever's own
                    reader.call(event.name, event.arguments, event.id)
                elif isinstance(event, Done):
                    reader.end(cut=event.reason != "stop")
                else:
                    reader.out.append(event)
                pieces += [piece for piece in reader.out if not (isinstance(piece, CallPart) and most is not None and piece.index >= most)]
                reader.out.clear()
                if isinstance(event, Done):
                    pieces.append(Done("tool_calls") if reader.calls and event.reason == "stop" else event)
            if pieces:
                yield pieces
