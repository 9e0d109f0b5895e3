"""The indexes that clients' levers may search, in the engine's process: those it was started with, and those that come and go.

A client names an index; which file that is, the server alone says. A new build of an index is a new file under the same name, and an
answer that still searches the old one keeps it open to its end.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from steelyard.augment.retrieve.index import PassageIndex
from steelyard.core.errors import DataError


class Registered:
    """Files of indexes by the names the server gave them."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._open: dict[str, PassageIndex] = {}  # by file
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def set(self, files: Mapping[str, str]) -> None:
        """Takes the place of all that was registered. What is open and not registered any more is closed when its last answer ends."""
        with self._lock:
            self._files = dict(files)
            self._open = {file: index for file, index in self._open.items() if file in self._files.values()}

    def index(self, name: str) -> PassageIndex:
        """The index of a name.

        Raises:
            DataError: its file is gone or damaged; the error names no path.
        """
        with self._lock:
            file = self._files.get(name)
            if file is not None and file in self._open:
                return self._open[file]
            try:
                if file is None or not Path(file).is_file():
                    raise DataError("its file is gone")
                found = self._open[file] = PassageIndex(Path(file))
            except DataError as error:
                raise DataError(f"the index cannot be searched: {error.what}", where="documents", do="Index its documents anew.") from None
            return found
