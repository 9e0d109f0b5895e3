"""`/api/places`: what would go to the model with a question about a place, before it is sent.

The page shows a person this text, and nothing else is sent: when the message is added the server reads and computes it anew.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from steelyard.serve.api.bodies import Body, StrictRoute
from steelyard.serve.api.conversations import stored
from steelyard.serve.service import Service
from steelyard.serve.store.parts import PointedPart


class Pointing(Body):
    """A place that a person points at."""

    place: PointedPart


def router(service: Service) -> APIRouter:
    """The route of places."""
    store = stored(service)
    routes = APIRouter(prefix="/api", tags=["conversations"], route_class=StrictRoute)

    @routes.post("/places")
    def tell_place(request: Request, body: Pointing) -> dict[str, Any]:
        """Reads a place and computes its figures; returns the part as a message would hold it. Nothing is kept."""
        return store.places.tell(request.state.user, body.place).model_dump(mode="json")

    return routes
