"""`/api/conversations`, `/api/messages`, `/api/undo`, `/api/erase`: the page's conversations, kept by the store.

Every route finds only what belongs to the person who asks (`request.state.user`); what is somebody else's is a 404.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from steelyard.core.errors import DataError
from steelyard.serve.api import conversation_answers
from steelyard.serve.api.bodies import Body, StrictRoute
from steelyard.serve.api.bodies import Part as Fields
from steelyard.serve.service import Service
from steelyard.serve.store.parts import SentPart
from steelyard.serve.store.store import Store


class NewConversation(Body):
    """A conversation to begin."""

    title: str | None = Field(None, description="on one line; None takes the beginning of what is said first")
    consent: bool = Field(False, description="whether others may train on it")


class ConversationChange(Fields):
    """What is to change of a conversation; here null is not the same as nothing."""

    title: str | None = Field(None, description="on one line")
    head: str | None = Field(None, description="id of the message at the end of the branch to read; null is the latest message")
    consent: bool | None = Field(None, description="whether others may train on it")


class NewMessage(Body):
    """A message to add."""

    parent: str | None = Field(None, description="id of the message it follows; null begins a branch")
    role: Literal["system", "user", "assistant"] = Field(description="who speaks")
    parts: list[SentPart] = Field(description="what is said; of a place only where it is: its figures are computed here")
    edited_from: str | None = Field(None, description="id of the message this one is an edited copy of")


class Rewriting(Body):
    """Other words for a message."""

    message: str = Field(description="id of the message whose words are others")
    parts: list[SentPart] = Field(description="what is said instead; of a place only where it is: what it told before is kept")
    end: str = Field(description="id of the last message that is kept: one below the message, or itself")


class Deletion(Body):
    """How to delete a message."""

    mode: Literal["this", "below"] = Field(description="`this`: its children move up; `below`: all below it goes too")


class Hiding(Body):
    """Whether models read a message."""

    hidden: bool


class Erasure(Body):
    """What to erase for good: one of the two."""

    conversation: str | None = None
    message: str | None = None


def router(service: Service) -> APIRouter:
    """The routes of conversations and messages."""
    store = stored(service)
    routes = APIRouter(prefix="/api", tags=["conversations"], route_class=StrictRoute)
    routes.include_router(conversation_answers.router(service))

    @routes.get("/conversations")
    def list_conversations(request: Request, q: str = "", cursor: str | None = None) -> dict[str, Any]:
        """A page of conversations, the one changed last first; with `q`, those that hold all its words."""
        return store.conversations.list(request.state.user, q, cursor)

    @routes.post("/conversations")
    def create_conversation(request: Request, body: NewConversation) -> dict[str, Any]:
        """Begins a conversation."""
        return store.conversations.create(request.state.user, body.title, body.consent)

    @routes.get("/conversations/{conversation}")
    def read_conversation(request: Request, conversation: str, tokens: bool = True) -> dict[str, Any]:
        """A conversation with all its messages; `tokens=0` leaves out the tokens of its answers."""
        return store.conversations.read(request.state.user, conversation, tokens)

    @routes.patch("/conversations/{conversation}")
    def change_conversation(request: Request, conversation: str, body: ConversationChange) -> dict[str, Any]:
        """Changes the title, the branch being read, or the consent."""
        given = body.model_dump(exclude_unset=True)
        if any(given.get(key, "") is None for key in ("title", "consent")):
            raise DataError("it cannot be null", where="title or consent", do="Leave out what is not to change.")
        return store.conversations.change(request.state.user, conversation, given)

    @routes.delete("/conversations/{conversation}")
    def delete_conversation(request: Request, conversation: str) -> dict[str, Any]:
        """Deletes a conversation; it can be restored until it is erased."""
        return store.conversations.delete(request.state.user, conversation)

    @routes.post("/conversations/{conversation}/restore")
    def restore_conversation(request: Request, conversation: str) -> dict[str, Any]:
        """Brings a deleted conversation back."""
        return store.conversations.restore(request.state.user, conversation)

    @routes.post("/conversations/{conversation}/messages")
    def add_message(request: Request, conversation: str, body: NewMessage) -> dict[str, Any]:
        """Adds a message; it is never changed afterwards."""
        user = request.state.user
        parts = store.places.tell_all(user, conversation, body.parts, body.edited_from)
        return store.messages.add(user, conversation, body.parent, body.role, parts, body.edited_from)

    @routes.post("/conversations/{conversation}/rewrite")
    def rewrite_message(request: Request, conversation: str, body: Rewriting) -> dict[str, Any]:
        """Puts other words in a message's place, in a new branch, and keeps what follows it down to `end`, as copies."""
        user = request.state.user
        parts = store.places.tell_all(user, conversation, body.parts, body.message)
        return store.messages.rewrite(user, conversation, body.message, parts, body.end)

    @routes.get("/messages/{message}/tokens")
    def read_tokens(request: Request, message: str) -> dict[str, Any]:
        """The tokens of one answer, with their log-probabilities."""
        return store.answers.tokens(request.state.user, message)

    @routes.post("/messages/{message}/delete")
    def delete_message(request: Request, message: str, body: Deletion) -> dict[str, Any]:
        """Deletes a message; the answer's id undoes it."""
        return store.messages.delete(request.state.user, message, body.mode)

    @routes.post("/messages/{message}/hide")
    def hide_message(request: Request, message: str, body: Hiding) -> dict[str, Any]:
        """Keeps a message from models, or shows it to them again."""
        return store.messages.hide(request.state.user, message, body.hidden)

    @routes.post("/undo/{undo}")
    def undo_operation(request: Request, undo: str) -> dict[str, Any]:
        """Undoes a deletion or a hiding, whatever was done since."""
        return store.messages.undo(request.state.user, undo)

    @routes.post("/erase")
    def erase(request: Request, body: Erasure) -> dict[str, Any]:
        """Erases a conversation or a message for good: nothing brings it back."""
        if (body.conversation is None) == (body.message is None):
            raise DataError("either a conversation or a message is erased", where="body", do="Name exactly one of the two.")
        return store.erase(request.state.user, conversation=body.conversation, message=body.message)

    return routes


def stored(service: Service) -> Store:
    """The server's store. Routers of the page are only included where there is one."""
    assert service.store is not None
    return service.store
