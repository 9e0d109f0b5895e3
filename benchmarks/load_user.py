"""A user that `load.py` has locust run: asks for one completion after the other, read as it streams, without a pause between them.

Locust counts requests and failures; when each token came is written to the file that LOAD_RESULT names. Nothing of Steelyard is imported,
so that locust can live in an environment of its own. Settings come by environment: LOAD_MODEL, LOAD_PROMPT and LOAD_TOKENS (token ids to
read and to write), LOAD_SEED.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import time
import urllib.parse
from pathlib import Path
from typing import Any

from locust import User, constant, events, task

PROMPT, TOKENS = int(os.environ["LOAD_PROMPT"]), int(os.environ["LOAD_TOKENS"])
SEED = int(os.environ["LOAD_SEED"])
_numbers = itertools.count()
_answers: list[list[float]] = []
"""For each request, when it was sent and when each of its tokens came, in seconds."""


class Asker(User):
    """One user with one connection at a time."""

    wait_time = constant(0)

    @task
    def ask(self) -> None:
        draw = random.Random(f"{SEED} {next(_numbers)}")
        ids = [draw.randrange(1000, 40_000) for _ in range(PROMPT)]  # nobody asked this before
        model = os.environ["LOAD_MODEL"]
        body = {"model": model, "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
        begun, error, size = time.perf_counter(), None, 0
        _answers.append(times := [begun])
        try:
            size = self.read(body, times)
        except (OSError, http.client.HTTPException) as caught:
            error = caught
        self.environment.events.request.fire(
            request_type="POST",
            name="completions",
            response_time=1000 * (time.perf_counter() - begun),
            response_length=size,
            exception=error,
            context={},
        )

    def read(self, body: dict[str, Any], times: list[float]) -> int:
        """Notes when the tokens of an answer come; its bytes."""
        parts, size = urllib.parse.urlsplit(self.host or ""), 0
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        try:
            connection.request("POST", f"{parts.path}/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(f"status {answer.status}")
            for line in answer:
                size += len(line)
                if line.startswith(b'data: {"') and b'"choices":[{' in line.replace(b" ", b""):
                    times.append(time.perf_counter())
                elif b'"error"' in line:
                    raise http.client.HTTPException(line.decode(errors="replace")[:200])
        finally:
            connection.close()
        return size


@events.quitting.add_listener
def write(environment: Any, **_: Any) -> None:
    """Keeps what was heard."""
    total = environment.stats.total
    Path(os.environ["LOAD_RESULT"]).write_text(
        json.dumps({"requests": total.num_requests, "failures": total.num_failures, "answers": _answers})
    )
