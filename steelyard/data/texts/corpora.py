"""Corpora that are there without naming a file: the standard library of this Python, and the encyclopedia."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from steelyard.data import encyclopedia
from steelyard.data.texts.document import Checked, Document
from steelyard.data.texts.files import TextPart, add, long_text
from steelyard.data.texts.folders import walk

NOT_ITS_OWN = frozenset(("site-packages", "dist-packages", "__pycache__"))


def standard_library() -> Iterator[TextPart]:
    """The .py files of this Python's standard library, by path; what was installed beside it does not count.

    It holds empty files and, as tests of Python itself, some that are no UTF-8; `open_texts` leaves these out and says so.
    """
    root = Path(sysconfig.get_path("stdlib"))
    for file in walk(root, NOT_ITS_OWN):
        if file.suffix == ".py":
            yield TextPart(file)


class EncyclopediaPart:
    """The encyclopedia's openings: a title, an empty line, the text. Held-out articles stay out."""

    where = "encyclopedia"

    def check(self) -> Checked:
        content, count = hashlib.sha256(), 0
        for document in self.documents():
            add(content, document.text)
            count += not document.continues
        return Checked(f"rows:{content.hexdigest()}", count)

    def documents(self) -> Iterator[Document]:
        for title, article in encyclopedia.read().items():
            if article.extract.strip() and not encyclopedia.held_out(title):
                yield from long_text(f"{title}\n\n{article.extract}", f"encyclopedia: {title}")
