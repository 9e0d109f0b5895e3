"""An index of passages in one SQLite file: full-text search (FTS5) with BM25, titles weighing more than text.

    bm25(q, d) = sum over words w of q: idf(w) * f(w, d) (k + 1) / (f(w, d) + k (1 - b + b |d| / average))    (Robertson, Zaragoza 2009)

`building.build` writes such a file; `opening.open_index` finds, builds and caches the one of a corpus or folder.
"""

from __future__ import annotations

import sqlite3
import threading
import urllib.parse
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePath

from steelyard.augment.retrieve import query as queries
from steelyard.augment.retrieve.building import APPLICATION_ID, FORMAT
from steelyard.augment.retrieve.documents import LeftOut
from steelyard.augment.retrieve.ranking import Question, judged, terms_in
from steelyard.core.errors import DataError
from steelyard.core.protocols import Considered, Passage

TITLE_WEIGHT = 4.0  # a word in the title says what a passage is about; not tuned finely (2 to 8 rank the encyclopedia alike)
CANDIDATES = 40  # passages BM25 hands to the re-ranker
FREQUENCY_LIMIT = 20_000  # hits beyond this are not counted: such a word is common
NEIGHBOURS = 256  # passages looked at on each side of one whose surroundings are wanted


@dataclass(frozen=True)
class Surroundings:
    """A passage where it stands: the end of what comes before it in its document, and the beginning of what comes after.

    `cut` says that the document goes on beyond.
    """

    before: str
    after: str
    cut: bool


def is_index(path: Path) -> bool:
    """Whether a file calls itself an index of passages; `PassageIndex` then says whether it is sound."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(100)  # SQLite's header: its name, and the application's id at byte 68
    return head.startswith(b"SQLite format 3\0") and int.from_bytes(head[68:72], "big") == APPLICATION_ID


class PassageIndex:
    """Passages that can be searched. Satisfies `core.protocols.Index`; safe to search from any thread.

    Attributes:
        fingerprint: digest over the indexed content and the way it was cut.
        count: number of passages.
        left_out: what the sources held that was not indexed.
    """

    def __init__(self, file: Path):
        """Opens an index file for reading.

        Raises:
            DataError: when it is not an index of this kind, or is damaged.
        """
        self.file = Path(file)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            f"file:{urllib.parse.quote(str(self.file.absolute()))}?mode=ro", uri=True, check_same_thread=False
        )
        try:
            self._check()
            meta = dict(self._connection.execute("SELECT key, value FROM meta"))
            self.fingerprint: str = meta["fingerprint"]
            self.count = int(self._connection.execute("SELECT count(*) FROM passages").fetchone()[0])
            self.left_out = [LeftOut(place, reason, bool(bad)) for place, reason, bad in self._connection.execute("SELECT * FROM left_out")]
        except (sqlite3.DatabaseError, KeyError, ValueError) as error:
            self._connection.close()
            raise self._damaged(error) from error

    def _check(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA trusted_schema = OFF")
        execute("PRAGMA query_only = ON")
        if execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise ValueError("it was not written as an index of passages")
        if execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            raise ValueError("it was written by another version")
        strange = execute("SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index')").fetchone()
        if strange:
            raise ValueError(f"it holds a {strange[0]} called {strange[1]}, which no index has")
        if dict(execute("SELECT key, value FROM meta")).get("complete") != "yes":
            raise ValueError("its building was never finished")
        if (found := execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise ValueError(found)

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"not a usable index: {error}", where=str(self.file), do="Delete the file and index its sources again.")

    def search(self, query: str, count: int) -> list[Passage]:
        """The best passages for a question or a few words.

        BM25 finds candidates that hold any of the words, those about a name in the question first; the re-ranker orders them by how
        much of the question a single sentence covers. `score` is that share, in [0, 1] (see `ranking.coverage`).

        Args:
            query: anything a person typed; no character in it is syntax.
            count: the most passages to give back.
        """
        return [one.passage for one in self.considered(query, count)]

    def considered(self, query: str, count: int) -> list[Considered]:
        """The same passages, each with the reasons for its place; arguments as for `search`."""
        asked = self.question(query)
        if not asked.terms or count < 1:
            return []
        candidates = self._candidates(asked)
        by_words = sorted(candidates, key=lambda passage: -passage.score)
        places = {passage.id: place for place, passage in enumerate(by_words, 1)}
        return [
            Considered(
                one.passage,
                rank,
                places[one.passage.id],
                one.bm25,
                one.best.fit,
                one.best.text,
                tuple(terms_in(asked, one.passage)),
                tuple(term.text for term in asked.terms),
            )
            for rank, one in enumerate(judged(asked, candidates)[:count], 1)
        ]

    def around(self, source: str, text: str, characters: int) -> Surroundings | None:
        """What stands before and after a passage in its document; None where there is no such passage.

        The document is put together again from its passages as they were indexed, each on a line of its own: that needs no file beside
        the index. A record of a `.json` or `.jsonl` file is a document of its own; of other files all parts are one document, each under
        its title. Where a document says the very same passage twice it is the first.

        Args:
            source, text: of the passage.
            characters: the most of each side.
        """
        if any("\ud800" <= character <= "\udfff" for character in source + text):
            return None  # half a surrogate pair: no text that was read from UTF-8 holds one
        found = self._rows("SELECT id FROM passages WHERE source = ? AND text = ? ORDER BY id LIMIT 1", (source, text))
        if not found:
            return None
        (row,) = found[0]
        near = "SELECT source, title, text FROM passages WHERE id BETWEEN ? AND ? ORDER BY id"
        above = self._rows(near, (row - NEIGHBOURS, row - 1))[::-1]
        below = self._rows(near, (row + 1, row + NEIGHBOURS))
        own = _document_of(source)
        above, below = (list(takewhile(lambda one: _document_of(one[0]) == own, rows)) for rows in (above, below))
        said = [*above[::-1], *self._rows(near, (row, row)), *below]
        parted = len({one[0] for one in said}) > 1
        pieces = [
            (f"\n{title}\n" if parted and (not place or said[place - 1][0] != part) else "", words)
            for place, (part, title, words) in enumerate(said)
        ]
        before = "".join(f"{heading}{words}\n" for heading, words in pieces[: len(above)]) + pieces[len(above)][0]
        after = "".join(f"\n{heading}{words}" for heading, words in pieces[len(above) + 1 :])
        cut = max(len(above), len(below)) == NEIGHBOURS or max(len(before), len(after)) > characters
        return Surroundings(before.lstrip("\n")[-characters:], after[:characters], cut)

    def question(self, text: str) -> Question:
        """A question with its terms weighed by how rare they are here."""
        terms = queries.parse(text)
        counting = f"SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT {FREQUENCY_LIMIT})"
        wanted = dict.fromkeys(text for term in terms for text in ((*term.words, term.text) if term.name else term.words))
        hits = {text: int(self._rows(counting, (queries.quoted(text),))[0][0]) for text in wanted}
        return Question.of(
            text, terms, {text: queries.rarity(count, self.count) for text, count in hits.items() if count or " " not in text}
        )

    def _candidates(self, asked: Question) -> list[Passage]:
        ranking = (
            "SELECT p.id, p.source, p.title, p.text, -bm25(words, ?, 1.0) FROM words JOIN passages p ON p.id = words.rowid "
            "WHERE words MATCH ? ORDER BY bm25(words, ?, 1.0), p.id LIMIT ?"
        )
        wanted = [(" OR ".join(queries.quoted(word) for term in asked.terms for word in term.words), CANDIDATES)]
        wanted += [(f"title : {queries.quoted(term.text)}", CANDIDATES // 4) for term in asked.terms if term.name][:4]
        found: dict[int, Passage] = {}
        for expression, limit in wanted:
            for row, source, title, text, score in self._rows(ranking, (TITLE_WEIGHT, expression, TITLE_WEIGHT, limit)):
                found.setdefault(row, Passage(str(row), source, title, text, score))
        return list(found.values())

    def _rows(self, statement: str, values: tuple) -> list[tuple]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Closes the file; searching afterwards is an error."""
        with self._lock:
            self._connection.close()


def _document_of(source: str) -> str:
    """The document that a source is of: the file, or the record in it."""
    file = source.partition("#")[0]
    return source if PurePath(file).suffix.lower() in (".json", ".jsonl") else file
