"""One server for all tests of the API: starting an engine's process takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from steelyard.data.fim import TOKENS
from steelyard.serve.engine_process import ServedModel
from tests.serve.live_server import LiveServer
from tests.serve.store_fixtures import place, postgresql, store  # noqa: F401  # fixtures
from tests.serve.tiny_served import saved_encoder, saved_talker
from tests.tiny_talker import CHATML

TOOLED = "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}" + CHATML


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """`tiny` (a chat model), `tooled` (one whose template takes tools, and that can fill in a middle), `encoder`."""
    folder = tmp_path_factory.mktemp("api")
    saved_talker(folder / "tiny", max_position_embeddings=2048)
    saved_talker(folder / "tooled", template=TOOLED, special=TOKENS, max_position_embeddings=16_384)  # room for answers without an end
    saved_encoder(folder / "encoder")
    models = [
        ServedModel("tiny", str(folder / "tiny"), slots=2, threads=1),
        ServedModel("tooled", str(folder / "tooled"), slots=1, threads=1),
        ServedModel("encoder", str(folder / "encoder"), threads=1),
    ]
    (folder / "runs" / "first").mkdir(parents=True)
    (folder / "runs" / "first" / "report.html").write_text("<h1>first</h1>")
    (folder / "secret.html").write_text("SECRET")
    running = LiveServer(models, store=folder / "store.sqlite", runs=folder / "runs", queue=6, heartbeat_seconds=1)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> None:
    """A test of a server begins with none of the answers that the one before it did not wait for: they would take slots and energy."""
    if "server" in request.fixturenames:
        request.getfixturevalue("server").settle()
