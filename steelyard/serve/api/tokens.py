"""`POST /tokenize` and `/detokenize`, in the form other servers give them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from steelyard.serve.api.bodies import Body, StrictRoute
from steelyard.serve.api.messages import Turn, conversation_of
from steelyard.serve.api.models import chat_model, model_of
from steelyard.serve.api.replies import ERRORS, Detokenized, Tokens
from steelyard.serve.http_errors import ApiError
from steelyard.serve.service import Service


class TokenizeRequest(Body):
    """A text or a conversation to be split."""

    model: str = Field(min_length=1, max_length=512, description="name of a served model")
    prompt: str | None = Field(None, description="a text; strings of special tokens become these")
    messages: list[Turn] | None = Field(None, description="or a conversation, written by the model's chat template")
    add_special_tokens: bool = Field(True, description="whether strings of special tokens in a text become these")
    return_token_strs: bool = Field(False, description="give each token's text too")


class DetokenizeRequest(Body):
    """Token ids to be joined."""

    model: str = Field(min_length=1, max_length=512, description="name of a served model")
    tokens: list[int] = Field(description="token ids")


def router(service: Service) -> APIRouter:
    """The two routes."""
    routes = APIRouter(tags=["tokens"], route_class=StrictRoute)

    @routes.post("/tokenize", response_model=Tokens, responses=ERRORS)
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        """A text's token ids, as the model reads it."""
        info = model_of(service, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError("Give `prompt` or `messages`, one of them.", param="prompt", code="invalid_value")
        text = body.prompt or ""
        if body.messages is not None:
            chat_model(service, body.model, "messages")
            text = await service.engine.render(info.name, conversation_of(body.messages, service))
        ids = await service.engine.tokenize(info.name, text, body.add_special_tokens or body.messages is not None)
        pieces = await service.engine.pieces(info.name, ids) if body.return_token_strs else None
        return {"count": len(ids), "max_model_len": info.context_length, "tokens": ids, "token_strs": pieces}

    @routes.post("/detokenize", response_model=Detokenized, responses=ERRORS)
    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        """The text of token ids."""
        info = model_of(service, body.model)
        if bad := [id for id in body.tokens if not 0 <= id < info.vocabulary]:
            raise ApiError(f"`tokens`: {bad[0]:.5g} is no token id of {info.name}.", param="tokens", code="invalid_value")
        return {"prompt": await service.engine.detokenize(info.name, body.tokens)}

    return routes
