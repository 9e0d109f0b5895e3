"""The store: one database, opened once, and the rooms its parts live in.

    store = Store("steelyard-data/steelyard.sqlite")
    conversation = store.conversations.create("local")
    store.messages.add("local", conversation["id"], None, "user", [TextPart(type="text", text="Hello")])

Every method of every room takes the person first and finds only what is theirs. Methods block and may be called from any thread.
When a method that writes has returned, what it wrote is on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from steelyard.serve.store.answers import Answers
from steelyard.serve.store.attachments import Attachments
from steelyard.serve.store.conversations import Conversations
from steelyard.serve.store.database import Database
from steelyard.serve.store.erase import erase_conversation, erase_message
from steelyard.serve.store.exports import export_conversations
from steelyard.serve.store.feedback import Feedback
from steelyard.serve.store.imports import import_conversations
from steelyard.serve.store.indexes import Indexes
from steelyard.serve.store.learning import Exported, preference_rows, sft_rows
from steelyard.serve.store.limits import StoreLimits
from steelyard.serve.store.messages import Messages
from steelyard.serve.store.places import Places
from steelyard.serve.store.readings import Readings
from steelyard.serve.store.sessions import Sessions

__all__ = ["Store", "StoreLimits"]


class Store:
    """An open store. Use as a context manager.

    Args:
        place: the path of an SQLite file, made where there is none, or a URL `postgresql://USER:PASSWORD@HOST/NAME`.
        limits: how much one person may put into it.

    Raises:
        SteelyardError: the place holds something else, or what a newer version wrote.
        StoreError: it cannot be opened, read or written.
    """

    def __init__(self, place: str | Path, limits: StoreLimits | None = None):
        self.limits = limits or StoreLimits()
        self.database = Database(place, self.limits)
        self.answers = Answers(self.database, self.limits)
        self.conversations = Conversations(self.database, self.limits, self.answers.drafts.under_way)
        self.messages = Messages(self.database, self.limits)
        self.attachments = Attachments(self.database, self.limits)
        self.feedback = Feedback(self.database, self.limits)
        self.places = Places(self.database)
        self.readings = Readings(self.database)
        self.indexes = Indexes(self.database, self.limits)
        self.sessions = Sessions(self.database)
        try:
            self.attachments.drop_unused()
        except BaseException:
            self.database.close()
            raise

    def erase(self, owner: str, *, conversation: str | None = None, message: str | None = None) -> dict[str, Any]:
        """Erases a conversation or a message for good; see `erase.py`. Exactly one of the two is named."""
        if conversation is not None:
            return erase_conversation(self.database, owner, conversation)
        return erase_message(self.database, owner, message or "")

    def export_conversations(self, owner: str, consented: bool = False) -> Iterator[str]:
        """A person's conversations as lines of JSONL; see `exports.py`."""
        return export_conversations(self.database, owner, consented)

    def import_conversations(self, owner: str, content: bytes, skip: bool = False) -> dict[str, Any]:
        """Takes over what `export_conversations` wrote; see `imports.py`."""
        return import_conversations(self.database, self.limits, owner, content, skip)

    def sft_rows(self, owner: str | None, consented: bool = False, stated: bool = False) -> Exported:
        """Rows for `sft` from corrected, edited and liked answers; see `learning.py`."""
        return sft_rows(self.database, owner, consented, stated)

    def preference_rows(self, owner: str | None, consented: bool = False, stated: bool = False) -> Exported:
        """Preference pairs from choices, corrections, edits and thumbs; see `learning.py`."""
        return preference_rows(self.database, owner, consented, stated)

    def close(self) -> None:
        """Writes down what answers under way have said, and closes the database. Closing twice is fine."""
        self.answers.drafts.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
