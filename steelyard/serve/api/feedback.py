"""`/api/feedback` and `/api/choices`: what people think of answers."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from steelyard.serve.api.bodies import Body, StrictRoute
from steelyard.serve.api.conversations import stored
from steelyard.serve.service import Service


class NewFeedback(Body):
    """What somebody thinks of a message."""

    message: str = Field(description="id of the message; thumbs and corrections are about answers")
    kind: Literal["thumbs", "tag", "correction"]
    value: str = Field(description="`up` or `down`; the tag; the answer as it should have been")


class NewChoice(Body):
    """Which of two answers to one turn is the better one."""

    conversation: str
    turn: str = Field(description="id of the message both answer")
    chosen: str | None = Field(None, description="id of the better answer; may be null where both are bad")
    rejected: str | None = Field(None, description="id of the other one")
    strength: int = Field(ge=1, le=3, description="1 a little better, 2 clearly, 3 by far")
    both_bad: bool = Field(False, description="neither is good")
    shown: list[str] | None = Field(
        None, min_length=2, max_length=2, description="ids of both answers in the order in which they were shown"
    )
    group: str | None = Field(None, description="the group of raters the person belongs to")


class FeedbackChange(Body):
    """What is said instead."""

    value: str | dict[str, Any] = Field(description="as when it was given; of a choice, an object of what changes")


def router(service: Service) -> APIRouter:
    """The routes of feedback."""
    store = stored(service)
    routes = APIRouter(prefix="/api", tags=["feedback"], route_class=StrictRoute)

    @routes.post("/feedback")
    def give_feedback(request: Request, body: NewFeedback) -> dict[str, Any]:
        """Says something about an answer; a second thumbs takes the place of the first."""
        return store.feedback.add(request.state.user, body.message, body.kind, body.value)

    @routes.post("/choices")
    def choose(request: Request, body: NewChoice) -> dict[str, Any]:
        """Says which of two answers is the better one, or that both are bad."""
        return store.feedback.choose(
            request.state.user,
            body.conversation,
            body.turn,
            body.chosen,
            body.rejected,
            body.strength,
            body.both_bad,
            body.group,
            body.shown,
        )

    @routes.get("/feedback")
    def list_feedback(request: Request, q: str = "", kind: str | None = None, cursor: str | None = None) -> dict[str, Any]:
        """A page of feedback, newest first; with `q`, that which holds all its words or is about an answer that does."""
        return store.feedback.list(request.state.user, q, kind, cursor)

    @routes.patch("/feedback/{feedback}")
    def change_feedback(request: Request, feedback: str, body: FeedbackChange) -> dict[str, Any]:
        """Says something else instead."""
        return store.feedback.change(request.state.user, feedback, body.value)

    @routes.delete("/feedback/{feedback}")
    def delete_feedback(request: Request, feedback: str) -> dict[str, Any]:
        """Takes feedback back; the answer's id undoes it."""
        return store.feedback.delete(request.state.user, feedback)

    return routes
