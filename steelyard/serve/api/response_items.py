"""What `/v1/responses` reads and writes: its input items as a conversation, its output items as they grow."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from steelyard.core.protocols import Message, ToolCall
from steelyard.serve.api.bodies import Part
from steelyard.serve.api.messages import text_of
from steelyard.serve.api.tool_calls import CallPart, replayed
from steelyard.serve.http_errors import ApiError
from steelyard.serve.service import Service


class InputPart(Part):
    """A piece of a message. Text is what the models here read."""

    type: str = Field(max_length=64, description="`input_text`, or `output_text` and `refusal` of earlier answers")
    text: str | None = None
    refusal: str | None = None
    prompt_cache_breakpoint: Any = Field(None, description="accepted, without effect: what was read before is reused by itself")
    annotations: list[Any] | None = Field(None, description="accepted, without effect")
    logprobs: list[Any] | None = Field(None, description="accepted, without effect")
    image_url: Any = Field(None, description="refused: the models here read text")
    file_id: Any = Field(None, description="refused: the models here read text")
    file_data: Any = Field(None, description="refused: the models here read text")
    filename: Any = Field(None, description="refused: the models here read text")
    detail: Any = Field(None, description="refused: the models here read text")


class MessageItem(Part):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputPart]
    id: str | None = Field(None, description="accepted, without effect")
    status: str | None = Field(None, description="accepted, without effect")
    phase: str | None = Field(None, description="accepted, without effect")


class CallItem(Part):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=256)
    name: str = Field(min_length=1, max_length=256)
    arguments: str
    async_: Literal[False] | None = Field(None, alias="async", description="only false: calls are made one after the other")
    caller: None = None
    namespace: None = None
    id: str | None = Field(None, description="accepted, without effect")
    status: str | None = Field(None, description="accepted, without effect")


class OutputItem(Part):
    """What a function gave back."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=256)
    output: str | list[InputPart]
    name: str | None = Field(None, description="accepted, without effect: the call says it")
    caller: None = None
    namespace: None = None
    id: str | None = Field(None, description="accepted, without effect")
    status: str | None = Field(None, description="accepted, without effect")


def _kind(value: Any) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else getattr(value, "type", "message")
    return kind if isinstance(kind, str) else "none"


Item = Annotated[
    Annotated[MessageItem, Tag("message")] | Annotated[CallItem, Tag("function_call")] | Annotated[OutputItem, Tag("function_call_output")],
    Discriminator(_kind),
]


def conversation_of(given: str | Sequence[Item], instructions: str | None, service: Service) -> list[Message]:
    """The conversation that a request brings; calls join the answer before them.

    Raises:
        ApiError: empty, too long, a part that is no text, or a result of a call that nobody made.
    """
    opening = [Message("system", instructions)] if instructions else []
    if isinstance(given, str):
        return [*opening, Message("user", given)]
    if not given:
        raise ApiError("`input` is empty.", param="input", code="invalid_value")
    if len(given) > service.settings.messages:
        raise ApiError(f"`input`: {len(given)} items; at most {service.settings.messages}.", param="input", code="invalid_value")
    called: dict[str, str] = {}
    out: list[Message] = opening
    for place, item in enumerate(given):
        where = f"input.{place}"
        if isinstance(item, CallItem):
            called[item.call_id] = item.name
            call = ToolCall(item.call_id, item.name, replayed(item.arguments))
            before = out.pop() if out and out[-1].role == "assistant" else Message("assistant", "")
            out.append(Message("assistant", before.content, tool_calls=(*before.tool_calls, call)))
        elif isinstance(item, OutputItem):
            if item.call_id not in called:
                raise ApiError(f"`{where}.call_id`: no earlier item calls a function under this id.", param=f"{where}.call_id")
            out.append(Message("tool", text_of(item.output, f"{where}.output"), called[item.call_id]))  # type: ignore[arg-type]
        else:
            content = text_of(item.content, f"{where}.content")  # type: ignore[arg-type]
            out.append(Message("system" if item.role == "developer" else item.role, content))
    return out


@dataclass
class Output:
    """The output items of a response as they grow; each step tells the events of the stream, without their numbers."""

    items: list[dict[str, Any]] = field(default_factory=list)
    _open: bool = False

    def text(self, piece: str) -> Iterator[dict[str, Any]]:
        """A piece of text."""
        if not self._open or self.items[-1]["type"] != "message":
            yield from self.close("completed")
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield from self._add({"type": "message", "id": _id("msg"), "status": "in_progress", "role": "assistant", "content": []})
            yield {"type": "response.content_part.added", **self._place(), "content_index": 0, "part": dict(part)}
            self.items[-1]["content"].append(part)
        self.items[-1]["content"][0]["text"] += piece
        yield {"type": "response.output_text.delta", **self._place(), "content_index": 0, "delta": piece, "logprobs": []}

    def call(self, piece: CallPart) -> Iterator[dict[str, Any]]:
        """A piece of a call."""
        if piece.id:
            yield from self.close("completed")
            fresh = {"type": "function_call", "id": _id("fc"), "status": "in_progress", "call_id": piece.id, "name": piece.name}
            yield from self._add({**fresh, "arguments": ""})
        if piece.arguments:
            self.items[-1]["arguments"] += piece.arguments
            yield {"type": "response.function_call_arguments.delta", **self._place(), "delta": piece.arguments}

    def close(self, status: Literal["completed", "incomplete"]) -> Iterator[dict[str, Any]]:
        """The end of the item that grows, if one does."""
        if not self._open:
            return
        self._open, item = False, self.items[-1]
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            yield {"type": "response.output_text.done", **self._place(), "content_index": 0, "text": part["text"], "logprobs": []}
            yield {"type": "response.content_part.done", **self._place(), "content_index": 0, "part": dict(part)}
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **self._place(), **done}
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": _copied(item)}

    def _add(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.items.append(item)
        self._open = True
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": _copied(item)}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}


def _copied(item: dict[str, Any]) -> dict[str, Any]:
    """An item as it is now: it goes on growing."""
    return {**item, "content": [dict(part) for part in item["content"]]} if "content" in item else dict(item)


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"
