"""The indexes that everybody on a server may search, as the server itself reads them: to show a cited passage where it stands.

The engine's process opens them when it starts, and builds them where need be. Here they are opened when a person first asks, and never
built: that would hold a request up for as long as it takes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from steelyard.augment.retrieve.index import PassageIndex, Surroundings
from steelyard.augment.retrieve.opening import documents_of, index_file
from steelyard.core.errors import DataError, SteelyardError
from steelyard.serve.store.errors import NotFoundError


class SharedDocuments:
    """The indexes of `--documents`, by their names. Safe to use from any thread.

    Args:
        names: those that may be read; no other name reaches a file.
    """

    def __init__(self, names: Sequence[str]):
        self._names = frozenset(names)
        self._open: dict[str, PassageIndex] = {}
        self._lock = threading.Lock()

    def around(self, name: str, source: str, text: str, characters: int) -> Surroundings:
        """A passage's surroundings, as `PassageIndex.around` tells them.

        Raises:
            NotFoundError: there is no such index or passage.
            DataError: the index is damaged, or its documents were changed since the server was started; the error names no path.
        """
        if name not in self._names:
            raise NotFoundError("no index of this name is shared by all")
        found = self._index(name).around(source, text, characters)
        if found is None:
            raise NotFoundError("the passage is not in the index", where=source[:200])
        return found

    def _index(self, name: str) -> PassageIndex:
        with self._lock:
            if name not in self._open:
                try:
                    file = index_file(documents_of(name))
                    if not file.is_file():
                        raise DataError("its documents were changed since the server was started", do="Start it again.")
                    self._open[name] = PassageIndex(file)
                except SteelyardError as error:
                    raise DataError(f"the index cannot be read: {error.what}", where="documents", do=error.do) from None
            return self._open[name]
