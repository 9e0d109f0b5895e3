"""Requests made from the server's own description, allowed ones and broken ones: none may make it fail."""

from __future__ import annotations

from typing import Any

import httpx
import hypothesis
import pytest

from tests.serve.live_server import LiveServer

schemathesis = pytest.importorskip("schemathesis", reason="it is of the extra `test`")

EACH = 3
"""Requests of each kind to each operation."""
SETTINGS = hypothesis.settings(
    max_examples=EACH,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)


def test_no_request_made_from_its_description_makes_the_server_fail(server: LiveServer) -> None:
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    failures: list[str] = []
    answered: list[int] = []

    def asking(label: str, strategy: Any) -> Any:
        @SETTINGS
        @hypothesis.given(case=strategy)
        def ask(case: Any) -> None:
            if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                case.body["model"] = "encoder" if "embeddings" in label else "tiny"
            try:
                response = case.call(base_url=server.url, timeout=600)
            except (httpx.HTTPError, OSError) as error:
                failures.append(f"{label}: {error!r} for {case.body!r:.300}")
                return
            answered.append(response.status_code)
            if response.status_code >= 500:
                failures.append(f"{label}: {response.status_code} for {case.body!r:.300} {case.query!r:.100}: {response.text[:300]}")

        return ask

    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            try:
                asking(operation.label, operation.as_strategy(generation_mode=mode))()
            except hypothesis.errors.Unsatisfiable:
                continue  # nothing can be wrong with a request that has no parts
    assert not failures, "\n".join(failures)
    assert len(answered) > 100 and answered.count(200) > 10 and answered.count(400) > 10
    assert server.post("/v1/completions", {"model": "tiny", "prompt": "hi", "max_tokens": 2}).status_code == 200
