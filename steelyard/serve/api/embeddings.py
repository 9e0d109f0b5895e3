"""`POST /v1/embeddings`: texts in, vectors out."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from steelyard.core.errors import ContextLengthError
from steelyard.serve.api.bodies import Body, StrictRoute
from steelyard.serve.api.fields import NOT_KEPT
from steelyard.serve.api.models import model_of
from steelyard.serve.api.replies import ERRORS, Vectors
from steelyard.serve.api.streams import while_connected
from steelyard.serve.http_errors import ApiError, one_line
from steelyard.serve.service import Service


class EmbeddingRequest(Body):
    """A request for vectors."""

    model: str = Field(min_length=1, max_length=512, description="name of a served encoder")
    input: str | list[str] | list[int] | list[list[int]] = Field(description="one or several texts; token ids are refused")
    encoding_format: Literal["float", "base64"] = Field("float", description="numbers, or the bytes of little-endian float32 in base64")
    dimensions: int | None = Field(None, ge=1, description="only the encoder's own")

    inert: ClassVar[Mapping[str, str]] = {"user": NOT_KEPT}


def _texts(body: EmbeddingRequest, service: Service) -> list[str]:
    given = [body.input] if isinstance(body.input, str) else body.input
    if not given or not all(given):
        raise ApiError("`input` is empty, or holds an empty text.", param="input", code="invalid_value")
    if len(given) > service.settings.inputs:
        raise ApiError(f"`input`: {len(given)} texts; at most {service.settings.inputs}.", param="input", code="invalid_value")
    if not all(isinstance(text, str) for text in given):
        raise ApiError("`input`: token ids are not supported, whose tokenizer would have to be known: send texts.", param="input")
    return list(given)  # type: ignore[arg-type]


def router(service: Service) -> APIRouter:
    """`POST /v1/embeddings`."""
    routes = APIRouter(tags=["OpenAI"], route_class=StrictRoute)

    @routes.post("/v1/embeddings", response_model=Vectors, responses=ERRORS)
    async def embeddings(body: EmbeddingRequest, request: Request) -> JSONResponse:
        """A vector for each text."""
        info = model_of(service, body.model)
        if info.kind != "embedding":
            known = [name for name, other in service.engine.models.items() if other.kind == "embedding"]
            do = f"Use {', '.join(known)}." if known else "Start the server with an encoder too: `steelyard serve MODEL all-minilm-l6-v2`."
            raise ApiError(f"`{body.model}` is no encoder. {do}", param="model", code="unsupported_model")
        return JSONResponse(await while_connected(request, embedded(body, _texts(body, service))))

    async def embedded(body: EmbeddingRequest, texts: list[str]) -> dict[str, Any]:
        try:
            vectors = await service.engine.embed(body.model, texts)
        except ContextLengthError as error:
            raise ApiError(one_line(error), param="input", code="context_length_exceeded") from None
        if body.dimensions is not None and body.dimensions != len(vectors[0]):
            raise ApiError(f"`dimensions`: {body.model} has {len(vectors[0])}, no more and no fewer.", param="dimensions")
        read = sum([len(await service.engine.tokenize(body.model, text, False)) for text in texts])
        data = [{"object": "embedding", "index": place, "embedding": coded(vector, body)} for place, vector in enumerate(vectors)]
        return {"object": "list", "data": data, "model": body.model, "usage": {"prompt_tokens": read, "total_tokens": read}}

    return routes


def coded(vector: list[float], body: EmbeddingRequest) -> list[float] | str:
    """A vector as the request wants it."""
    return vector if body.encoding_format == "float" else base64.b64encode(array("f", vector).tobytes()).decode()
