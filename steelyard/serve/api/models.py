"""`GET /v1/models`: what is served, and what may be asked of it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from steelyard.core.errors import nearest
from steelyard.serve.api.replies import ERRORS, ModelList, ModelReply
from steelyard.serve.http_errors import ApiError
from steelyard.serve.served import EngineGone, ServedInfo
from steelyard.serve.service import Service


def model_of(service: Service, name: str) -> ServedInfo:
    """A model that is served.

    Raises:
        ApiError: there is none of this name; the nearest is told.
        EngineGone: nothing is served yet.
    """
    if not service.engine.models:
        raise EngineGone("the engine is starting", do="Come again in a few seconds.")
    info = service.engine.models.get(name)
    if info is None:
        hint = nearest(name[:200], service.engine.models)
        raise ApiError(f"No model `{name[:200]}` is served here. {hint}", status=404, param="model", code="model_not_found")
    return info


def chat_model(service: Service, name: str, param: str) -> ServedInfo:
    """A model that answers; where `param` holds messages, one with a chat template.

    Raises:
        ApiError: there is none of this name, or it cannot do that.
    """
    info = model_of(service, name)
    if info.kind != "chat":
        raise ApiError(f"`{name}` turns texts into vectors: use `/v1/embeddings`.", param="model", code="unsupported_model")
    if param == "messages" and "chat" not in info.capabilities:
        raise ApiError(f"`{name}` has no chat template: use `/v1/completions`.", param="model", code="unsupported_model")
    return info


def shown(info: ServedInfo) -> dict[str, Any]:
    """A model in OpenAI's form, with what only this server tells under `steelyard`."""
    return {
        "id": info.name,
        "object": "model",
        "created": info.created,
        "owned_by": "steelyard",
        "steelyard": {
            "kind": info.kind,
            "context_length": info.context_length,
            "start": info.start,
            "fingerprint": info.fingerprint,
            "capabilities": sorted(info.capabilities),
            "parents": list(info.parents),
            "levers": [lever.name for lever in info.levers if lever.per_request],
            "calibration": info.calibration and dict(info.calibration),
            "pulled": [{lever.name: dict(lever.settings)} for lever in info.levers if lever.on],
        },
    }


def router(service: Service) -> APIRouter:
    """`GET /v1/models` and `GET /v1/models/{model}`."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.get("/v1/models", response_model=ModelList, responses=ERRORS)
    async def models() -> dict[str, Any]:
        """The models that are served. `steelyard` holds the context length, the levers that are on and those a request may ask for."""
        return {"object": "list", "data": [shown(info) for info in service.engine.models.values()]}

    @routes.get("/v1/models/{model:path}", response_model=ModelReply, responses=ERRORS)
    async def model(model: str) -> dict[str, Any]:
        """One model."""
        return shown(model_of(service, model))

    return routes
