"""What every route is given: the settings, the engine's process and the store, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steelyard.serve.draining import Drain
from steelyard.serve.lever_catalogue import Catalogue
from steelyard.serve.reading import Readers
from steelyard.serve.report_sessions import ReportSessions
from steelyard.serve.settings import ServeSettings

if TYPE_CHECKING:
    from steelyard.serve.engine_process import EngineProcess
    from steelyard.serve.indexing import Indexing
    from steelyard.serve.store.store import Store


@dataclass(frozen=True)
class Service:
    """One server.

    Attributes:
        settings: what the operator decided.
        engine: the process that answers.
        store: conversations and feedback, or None where nothing is kept.
        drain: whether the server is ending.
        sessions: browsers that may open reports; None where no key is needed, or nothing is kept.
        readers: what reads files that people upload.
        indexing: builds indexes of people's documents; None where nothing is kept.
        catalogue: the levers and their settings.
    """

    settings: ServeSettings
    engine: EngineProcess
    store: Store | None = None
    drain: Drain = field(default_factory=Drain)
    sessions: ReportSessions | None = None
    readers: Readers = field(default_factory=Readers)
    indexing: Indexing | None = None
    catalogue: Catalogue = field(default_factory=Catalogue)
