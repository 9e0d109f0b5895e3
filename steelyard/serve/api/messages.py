"""Messages of chat completions, read into a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from steelyard.core.protocols import Message, ToolCall
from steelyard.serve.api.bodies import Part
from steelyard.serve.api.tool_calls import replayed
from steelyard.serve.http_errors import ApiError
from steelyard.serve.service import Service


class ContentPart(Part):
    """A piece of a message. Text is what the models here read."""

    type: str = Field(max_length=64, description="`text`")
    text: str | None = None
    refusal: str | None = None
    prompt_cache_breakpoint: Any = Field(None, description="accepted, without effect: what was read before is reused by itself")
    image_url: Any = Field(None, description="refused: the models here read text")
    input_audio: Any = Field(None, description="refused: the models here read text")
    file: Any = Field(None, description="refused: the models here read text")


Content = str | list[ContentPart]
UNREAD = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})
"""What comes with parts of messages and says nothing to a model."""


class CalledFunction(Part):
    """The function of a past call."""

    name: str = Field(min_length=1, max_length=256)
    arguments: str = Field(description="JSON as the model wrote it; what is no JSON object is shown to the model under `text`")


class Call(Part):
    """A past call of a tool."""

    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(None, description="accepted, without effect")


class SystemTurn(Part):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserTurn(Part):
    """What a person says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantTurn(Part):
    """What the model said."""

    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    function_call: None = None
    audio: None = None
    annotations: list[Any] | None = Field(None, description="accepted, without effect")
    steelyard: dict[str, Any] | None = Field(None, description="accepted, without effect: what an earlier answer came with")


class ToolTurn(Part):
    """What a tool gave back."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str = Field(max_length=256)


Turn = Annotated[SystemTurn | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]


def conversation_of(turns: Sequence[Turn], service: Service, param: str = "messages") -> list[Message]:
    """The conversation that a request brings.

    Raises:
        ApiError: empty, too long, a part that is no text, or a result of a call that nobody made.
    """
    if not turns:
        raise ApiError(f"`{param}` is empty.", param=param, code="invalid_value")
    if len(turns) > service.settings.messages:
        raise ApiError(f"`{param}`: {len(turns)} messages; at most {service.settings.messages}.", param=param, code="invalid_value")
    called: dict[str, str] = {}
    out = []
    for place, turn in enumerate(turns):
        where = f"{param}.{place}"
        content = text_of(turn.content, f"{where}.content")
        if isinstance(turn, ToolTurn):
            if turn.tool_call_id not in called:
                raise ApiError(f"`{where}.tool_call_id`: no earlier message calls a tool under this id.", param=f"{where}.tool_call_id")
            out.append(Message("tool", content, called[turn.tool_call_id]))
        elif isinstance(turn, AssistantTurn):
            calls = tuple(ToolCall(call.id, call.function.name, replayed(call.function.arguments)) for call in turn.tool_calls or ())
            called |= {call.id: call.name for call in calls}
            out.append(Message("assistant", content + (turn.refusal or ""), turn.name, calls))
        else:
            out.append(Message("system" if turn.role in ("system", "developer") else "user", content, turn.name))
    return out


def text_of(content: Content | None, where: str) -> str:
    """The text of a message; parts are joined as they stand.

    Raises:
        ApiError: a part that is no text, or holds something beside it.
    """
    if content is None or isinstance(content, str):
        return content or ""
    pieces = []
    for place, part in enumerate(content):
        own = "refusal" if part.type == "refusal" else "text"
        text = getattr(part, own)
        if part.type not in ("text", "refusal", "input_text", "output_text") or text is None:
            raise ApiError(
                f"`{where}.{place}`: a part of the type `{part.type}`; the models here read text.",
                param=f"{where}.{place}",
                code="unsupported_field",
            )
        if beside := [name for name in part.model_fields_set - {"type", own, *UNREAD} if getattr(part, name) is not None]:
            raise ApiError(
                f"`{where}.{place}.{beside[0]}`: a part of the type `{part.type}` has `{own}`, and nothing else of it is read.",
                param=f"{where}.{place}.{beside[0]}",
                code="unsupported_field",
            )
        pieces.append(text)
    return "".join(pieces)
