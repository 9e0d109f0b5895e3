"""How a model is told of the tools it may call: by its chat template, or in words where that has no place for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steelyard.core.protocols import Message
from steelyard.model.template import ChatTemplate
from steelyard.model.tools.forms import USUAL, taught

SHOWN = (
    "You can call these functions:\n{functions}\n"
    'To call one, answer with JSON and nothing else: {{"name": <name of the function>, "arguments": <object>}}'
)
"""What stands in the system prompt of a model whose chat template has no place for tools."""


def has_place(template: ChatTemplate | None) -> bool:
    """Whether a chat template writes tools down."""
    return template is not None and ("tool_use" in template.named or re.search(r"\btools\b", template.source) is not None)


def forms_of(template: ChatTemplate | None) -> tuple[str, ...]:
    """The names of the forms in which a model writes calls (`forms.FORMS`), as far as its chat template teaches any."""
    return taught(template.named.get("tool_use") or template.source) if template is not None and has_place(template) else USUAL


def shown(conversation: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """A conversation for a model whose template has no place for tools: they stand in the system prompt, calls in the text."""
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    told, turns = SHOWN.format(functions=functions), spelled_out(conversation)
    if turns and turns[0].role == "system":
        return [replace(turns[0], content=f"{turns[0].content}\n\n{told}"), *turns[1:]]
    return [Message("system", told), *turns]


def spelled_out(conversation: Sequence[Message]) -> list[Message]:
    """The same conversation with past calls as text, for templates that would leave them out."""
    turns = []
    for message in conversation:
        calls = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}' for call in message.tool_calls]
        turns.append(replace(message, content="\n".join(part for part in (message.content, *calls) if part), tool_calls=()))
    return turns
