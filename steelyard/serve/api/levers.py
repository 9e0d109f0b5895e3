"""Levers that a client asks for with a request, and the catalogue of them.

A request may pull only what its lever's author declared `per_request`, and only by names that the operator registered: a setting that
would make the server read a file, open an address or load a model of the client's choice is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.levers import Lever, all_levers, check_chain, parse
from steelyard.core.references import IndexRef
from steelyard.serve.service import Service

WHERE = "steelyard.levers"
MOST = 8
"""Levers of one request."""


def requested(service: Service, model: str, entries: Sequence[str | Mapping[str, Any]]) -> tuple[Lever, ...]:
    """The levers a request asks for, in order.

    Args:
        model: the served model that is to answer.
        entries: as a recipe writes them: `"prompt"`, `{"retrieve": {"passages": 3}}`.

    Raises:
        SteelyardError: an unknown lever or setting, one that no client may pull, or a thing the operator did not register.
    """
    if len(entries) > MOST:
        raise SteelyardError(f"{len(entries)} levers; at most {MOST} are pulled for one request", where=WHERE, do="Leave some out.")
    levers = tuple(parse(entry, f"{WHERE}[{place}]") for place, entry in enumerate(entries))
    offered = {lever.name for lever in service.engine.models[model].levers if lever.per_request}
    for place, lever in enumerate(levers):
        where = f"{WHERE}[{place}]: {lever.name}"
        if not lever.per_request or lever.name not in offered:
            raise UnsupportedError(
                f"`{lever.name}` cannot be pulled for one request of {model}",
                where=where,
                do=f"These can: {', '.join(sorted(offered)) or 'none'}. Ask the operator to serve a model with it.",
            )
        _check_names(lever, service.settings.documents, where)
    check_chain(levers, {*service.engine.models[model].capabilities, "weights"}, WHERE)
    return levers


def _check_names(lever: Lever, documents: Sequence[str], where: str) -> None:
    for key, reference in lever.references().items():
        known = documents if isinstance(reference, IndexRef) else ()
        if reference.name not in known:
            raise UnsupportedError(
                f"`{key}` names the {reference.kind} `{reference.name[:80]}`, which is not registered on this server",
                where=where,
                do=f"Registered: {', '.join(known)}." if known else "None is: the operator names them with --documents.",
            )
    for key in type(lever).model_fields:
        if isinstance(getattr(lever, key), PurePath):
            raise UnsupportedError(f"`{key}` is a path, and clients may not name files of the server", where=where, do="Send its contents.")


@functools.cache
def described() -> list[dict[str, Any]]:
    """Every lever that acts on answers: what it is, and the JSON schema of its settings."""
    return [
        {
            "name": name,
            "idea": kind.idea,
            "paper": kind.paper,
            "cost": kind.cost,
            "hooks": list(kind.hooks()),
            "maturity": kind.maturity,
            "evidence": kind.evidence,
            "per_request": kind.per_request,
            "schema": kind.model_json_schema(),
        }
        for name, kind in all_levers().items()
        if {"decode", "wrap"} & set(kind.hooks())
    ]


def router(service: Service) -> APIRouter:
    """`GET /api/levers`."""
    routes = APIRouter(tags=["levers"])

    @routes.get("/api/levers")
    def levers() -> dict[str, Any]:
        """The levers that act on answers, with the schemas of their settings; `per_request` ones may come with a request."""
        return {"levers": described()}

    return routes
