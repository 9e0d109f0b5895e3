"""Levers that a client asks for with a request, and the catalogue of them.

A request may pull only what its lever's author declared `per_request`, and only by names that the operator registered: a setting that
would make the server read a file, open an address or load a model of the client's choice is refused; of models it may name those that
are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from fastapi import APIRouter

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.levers import Lever, check_chain, parse, short
from steelyard.core.references import IndexRef, ModelRef, Reference
from steelyard.serve.indexing import key_of
from steelyard.serve.service import Service

T = TypeVar("T")
WHERE = "steelyard.levers"
MOST = 8
"""Levers of one request."""


def requested(service: Service, model: str, entries: Sequence[str | Mapping[str, Any]], user: str) -> tuple[Lever, ...]:
    """The levers a request asks for, in order.

    Args:
        model: the served model that is to answer.
        entries: as a recipe writes them: `"prompt"`, `{"retrieve": {"passages": 3}}`.
        user: who asks; the indexes of theirs may be named.

    Raises:
        SteelyardError: an unknown lever or setting, one that no client may pull, or a thing the operator did not register.
    """
    if len(entries) > MOST:
        raise SteelyardError(f"{len(entries)} levers; at most {MOST} are pulled for one request", where=WHERE, do="Leave some out.")
    offered = {lever.name for lever in service.engine.models[model].levers if lever.per_request}
    levers = []
    for place, entry in enumerate(entries):
        where, name = f"{WHERE}[{place}]", entry if isinstance(entry, str) else next(iter(entry), None)
        if name not in offered:  # told before it is looked for, which would import all there are
            raise UnsupportedError(
                f"{short(name)} cannot be pulled for one request of {model}",
                where=where,
                do=f"These can: {', '.join(sorted(offered)) or 'none'}. Ask the operator to serve a model with it.",
            )
        lever = parse(entry, where)
        levers.append(_with_known_names(lever, service, user, f"{where}: {lever.name}"))
    check_chain(levers, {*service.engine.models[model].capabilities, "weights"}, WHERE)
    return tuple(levers)


async def understood(read: Callable[[], T], entries: Sequence[Any]) -> T:
    """What reading a request gives. Where it names levers they may have to be imported, while others are to be served."""
    return await asyncio.to_thread(read) if entries else read()


def names_of(service: Service, user: str) -> dict[str, str]:
    """The names of the indexes that a person may search, by what the engine knows them by."""
    own = {} if service.store is None else {key_of(one.id): name for name, one in service.store.indexes.searchable(user).items()}
    return own | {name: name for name in service.settings.documents}


def _with_known_names(lever: Lever, service: Service, user: str, where: str) -> Lever:
    """The lever with what the engine knows its indexes by.

    Raises:
        UnsupportedError: it names something that is not registered.
    """
    changes: dict[str, Reference] = {}
    for key, reference in lever.references().items():
        known: dict[str, str] = {}
        if isinstance(reference, IndexRef):
            known = {name: inner for inner, name in names_of(service, user).items()}
        elif isinstance(reference, ModelRef):
            known = {name: name for name, info in service.engine.models.items() if info.kind == "chat"}
        if reference.name not in known:
            raise UnsupportedError(
                f"`{key}` names the {reference.kind} `{reference.name[:80]}`, which is not registered on this server",
                where=where,
                do=f"Registered: {', '.join(known)}." if known else "None is: make one of your documents, or start with --documents.",
            )
        changes[key] = type(reference)(known[reference.name])
    for key in type(lever).model_fields:
        if isinstance(getattr(lever, key), PurePath):
            raise UnsupportedError(f"`{key}` is a path, and clients may not name files of the server", where=where, do="Send its contents.")
    return lever.model_copy(update=changes) if changes else lever


def router(service: Service) -> APIRouter:
    """`GET /api/levers`."""
    routes = APIRouter(tags=["levers"])

    @routes.get("/api/levers")
    async def levers() -> dict[str, Any]:
        """The levers that act on answers, with the schemas of their settings; `per_request` ones may come with a request."""
        return {"levers": await service.catalogue.levers()}

    return routes
