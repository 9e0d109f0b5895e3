"""`/health`, `/ready` and `/metrics`: whether the server lives, whether it takes requests, and how it goes."""

from __future__ import annotations

import time
from typing import Any

import prometheus_client as prometheus
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard.serve.service import Service

SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300)
MODEL_GAUGES = {"slots": "answers written at once", "active": "answers being written", "waiting": "requests that wait for a slot"}
MODEL_COUNTERS = {
    "requests": "requests since the engine started",
    "tokens": "tokens made since the engine started",
    "prompt_tokens": "tokens of prompts since the engine started",
    "prefix_tokens": "of these, tokens known from before",
}


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter("steelyard_requests", "answered requests", ["route", "status"], registry=self.registry)
        self.going = prometheus.Gauge("steelyard_requests_going", "requests being answered", registry=self.registry)
        self.first = prometheus.Histogram(
            "steelyard_first_byte_seconds", "time to the first byte of an answer's body", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.total = prometheus.Histogram(
            "steelyard_request_seconds", "time to the end of an answer", ["route"], buckets=SECONDS, registry=self.registry
        )

    def text(self, status: dict[str, Any]) -> bytes:
        """All figures in Prometheus' text form, the engine's among them."""
        return prometheus.generate_latest(self.registry) + prometheus.generate_latest(_Engine(status))  # type: ignore[arg-type]


class _Engine:
    """The engine's own figures as a registry that is read once."""

    def __init__(self, status: dict[str, Any]):
        self.status = status

    def collect(self) -> Any:
        yield GaugeMetricFamily("steelyard_engine_ready", "whether the engine takes requests", value=float(self.status["ready"]))
        yield CounterMetricFamily("steelyard_engine_restarts", "times the engine was started again", value=self.status.get("restarts", 0))
        if "memory" in self.status:
            yield GaugeMetricFamily("steelyard_engine_memory_bytes", "resident memory of the engine", value=self.status["memory"])
        models = self.status.get("models", {})
        for names, kind in ((MODEL_GAUGES, GaugeMetricFamily), (MODEL_COUNTERS, CounterMetricFamily)):
            for name, about in names.items():
                family = kind(f"steelyard_engine_{name}", about, labels=["model"])
                for model, figures in models.items():
                    if name in figures:
                        family.add_metric([model], figures[name])
                yield family


class Measured:
    """Counts and times every request that passes, as ASGI middleware. Routes are told by their pattern, never by what was asked."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status, first = time.perf_counter(), 0, None

        async def noted(message: Message) -> None:
            nonlocal status, first
            if message["type"] == "http.response.start":
                status = message["status"]
            elif first is None and message.get("body"):
                first = time.perf_counter() - begun
            await send(message)

        self.metrics.going.inc()
        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.going.dec()
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, str(status)).inc()
            if first is not None:
                self.metrics.first.labels(route).observe(first)
            self.metrics.total.labels(route).observe(time.perf_counter() - begun)


def router(service: Service, metrics: Metrics) -> APIRouter:
    """The three routes."""
    routes = APIRouter(tags=["operation"])

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health() -> dict[str, str]:
        """The server lives."""
        return {"status": "ok"}

    @routes.head("/ready", include_in_schema=False)
    @routes.get("/ready", responses={503: {"description": "Not now: the engine is starting again, or the server is ending."}})
    async def ready() -> Response:
        """Whether requests are taken now."""
        if service.engine.ready and not service.drain.begun:
            return JSONResponse({"status": "ready"})
        headers = {"Retry-After": str(service.settings.retry_seconds)}
        return JSONResponse({"status": "ending" if service.drain.begun else "starting"}, status_code=503, headers=headers)

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def figures() -> Response:
        """Figures for Prometheus."""
        text = metrics.text(dict(await service.engine.status()))
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    return routes
