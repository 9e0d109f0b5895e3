"""What has been written so far of answers under way, on the disk a quarter of a second after it was said.

A server that is killed leaves no record of the answers it was writing; their clients have read a part of them. So while an answer
grows its text is written down, by a thread that takes whatever has come of all answers together: four small transactions a second at
most, however many answers there are. A draft says `interrupted` from the first, because that is what it is if nothing comes after it;
`Answers.finish` puts the true end in its place. Tokens are written only then.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from steelyard.serve.store import lookup, search, tables
from steelyard.serve.store.database import Database
from steelyard.serve.store.errors import NotFoundError, StoreError
from steelyard.serve.store.values import dump, whole

logger = logging.getLogger(__name__)

EVERY = 0.25
"""Seconds between two writings: what a kill can take of a text, besides the time one writing takes."""
INTERRUPTED = "interrupted"
"""Why an answer ended that has no other end."""


@dataclass
class Draft:
    """An answer under way.

    Attributes:
        owner: whose conversation it is in.
        conversation: its id.
        pieces: its text so far.
        written: how many of them are on the disk.
    """

    owner: str
    conversation: str
    pieces: list[str] = field(default_factory=list)
    written: int = 0


class Drafts:
    """The answers that this process is writing. Methods may be called from any thread and do not wait for the disk, but for `close`."""

    def __init__(self, database: Database):
        self._database = database
        self._going: dict[str, Draft] = {}
        self._ending: set[str] = set()
        self._news, self._closing = threading.Event(), threading.Event()
        self._writer: threading.Thread | None = None

    def begin(self, owner: str, conversation: str, message: str) -> None:
        """An answer begins."""
        self._going[message] = Draft(owner, conversation)
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="steelyard-drafts", daemon=True)
            self._writer.start()

    def add(self, message: str, text: str) -> None:
        """More of its text."""
        if (draft := self._going.get(message)) is not None:
            draft.pieces.append(text)
            self._news.set()

    def end(self, message: str) -> None:
        """It will be written as a whole: no draft of it is written any more."""
        self._ending.add(message)

    def forget(self, message: str) -> None:
        """It is over."""
        self._going.pop(message, None)
        self._ending.discard(message)

    def under_way(self) -> frozenset[str]:
        """The messages that are being written now."""
        return frozenset(list(self._going))

    def close(self) -> None:
        """Writes what is left, and ends."""
        self._closing.set()
        self._news.set()
        if self._writer is not None:
            self._writer.join()

    def _write(self) -> None:
        while not self._closing.is_set():
            self._news.wait()
            self._news.clear()
            for message, draft in list(self._going.items()):
                if draft.written < len(draft.pieces) and not self._put(message, draft):
                    self._news.set()  # what could not be written now is tried again
            self._closing.wait(EVERY)
        for message, draft in list(self._going.items()):
            self._put(message, draft)

    def _put(self, message: str, draft: Draft) -> bool:
        """Writes one draft, unless its answer has ended or was erased; whether there is no need to try again."""
        count = len(draft.pieces)
        text = whole("".join(draft.pieces[:count]))
        table = tables.messages
        try:
            with self._database.writing() as connection:
                lookup.conversation(connection, draft.owner, draft.conversation, deleted=True, change=True)
                if message in self._ending or message not in self._going:  # looked at only now that nobody else can write it
                    return True
                mine = table.update().where(table.c.id == message, table.c.erased.is_(None))
                if connection.execute(mine.values(parts=dump([{"type": "text", "text": text}]))).rowcount:
                    search.put(connection, "message", message, draft.owner, draft.conversation, text)
        except NotFoundError:  # the whole conversation was erased
            return True
        except StoreError as error:
            logger.warning("an answer under way could not be written down: %s", error.what)
            return False
        draft.written = count
        return True
