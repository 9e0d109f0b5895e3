"""What people said about answers, as rows that training reads.

| source | `sft` row | preference pair |
| --- | --- | --- |
| correction | the answer as it should have been | preferred to the answer |
| edit | the edited answer (a sibling that names what it was edited from) | preferred to what it was edited from |
| thumbs | an answer with thumbs up and no correction | up preferred to down, both answers to one turn |
| choice | | chosen preferred to rejected, with its strength 1-3 and rater group |

An `sft` row is `{"messages": [...]}` as `steelyard.data.formats` reads it: the context as the model read it, earlier answers with
`"weight": 0`, the answer to learn last. A pair is `{"prompt": [...], "chosen": [...], "rejected": [...], "strength": 1-3 or null}`
as `steelyard.data.preferences` reads it. Every row says whether its person lets others train on it (`consent`): the conversation's own
flag, or what the person states of the whole export.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from steelyard.core.errors import UnsupportedError
from steelyard.serve.store import attachments, lookup, tables
from steelyard.serve.store.database import Database
from steelyard.serve.store.exports import owned
from steelyard.serve.store.messages import spoken
from steelyard.serve.store.parts import text_of
from steelyard.serve.store.rendering import rendered
from steelyard.serve.store.tree import Tree
from steelyard.serve.store.values import dump, load


@dataclass
class Exported:
    """Lines of JSONL, and what could not become one.

    Attributes:
        lines: one row each, with its line end.
        left_out: why, for each row that was left out: it would teach nothing, or cannot become text.
    """

    lines: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Judged:
    """One conversation with all that was said about its answers."""

    connection: Connection
    row: Row[Any]
    tree: Tree
    texts: dict[str, str]
    edited_from: dict[str, str]
    thumbs: dict[str, str]
    corrections: dict[str, str]
    choices: list[dict[str, Any]]

    def text(self, id: str) -> str:
        return self.texts.get(id, "")

    def standing(self, id: str | None) -> bool:
        return id in self.tree.nodes and not self.tree.nodes[id].deleted

    def edits(self) -> Iterator[tuple[str, str]]:
        """Answers that a person wrote anew, with what they were edited from. Copies below an edited question are none."""
        for id, origin in self.edited_from.items():
            both = self.standing(id) and self.tree.nodes[id].role == "assistant" and self.tree.nodes[origin].role == "assistant"
            if both and self.text(id).strip() and self.text(origin).strip() and self.text(id) != self.text(origin):
                yield id, origin

    def prompt(self, id: str) -> list[dict[str, Any]]:
        """What was read before an answer.

        Raises:
            UnsupportedError: it holds a file that is no text, or nothing at all.
        """
        path = self.tree.path(self.tree.parent_of(id))
        turns = rendered(spoken(self.connection, path), lambda file: attachments.read(self.connection, self.row.owner, file)).messages
        if not any(turn.role == "user" for turn in turns):
            raise UnsupportedError("nothing was asked before this answer", where=f"message {id}")
        return [turn.as_dict() for turn in turns]


def sft_rows(database: Database, owner: str | None, consented: bool, stated: bool = False) -> Exported:
    """Rows of corrected, edited and liked answers.

    Args:
        database: where from.
        owner: whose conversations; None is everybody's.
        consented: only conversations that others may train on.
        stated: the person states that all of these may be trained on, and the rows say so.
    """
    out = Exported()
    for judged in _conversations(database, owner, consented):
        answers = [(id, "correction", text) for id, text in judged.corrections.items()]
        answers += [(id, "edit", judged.text(id)) for id, _ in judged.edits() if id not in judged.corrections]
        told = {id for id, _, _ in answers}
        answers += [(id, "thumbs", judged.text(id)) for id, value in judged.thumbs.items() if value == "up" and id not in told]
        for id, source, text in sorted(answers, key=lambda answer: judged.tree.nodes[answer[0]].number):
            if not text.strip():
                out.left_out.append(f"message {id}: nothing was said")
                continue
            try:
                turns = [turn | ({"weight": 0} if turn["role"] == "assistant" else {}) for turn in judged.prompt(id)]
            except UnsupportedError as error:
                out.left_out.append(str(error).splitlines()[0])
                continue
            row = {"messages": [*turns, {"role": "assistant", "content": text}], "source": source}
            out.lines.append(_line(row, judged, id, stated))
    return out


def preference_rows(database: Database, owner: str | None, consented: bool, stated: bool = False) -> Exported:
    """Pairs of answers to the same turn of which one is preferred; arguments as for `sft_rows`."""
    out = Exported()
    for judged in _conversations(database, owner, consented):
        seen: set[tuple[str | None, str, str]] = set()
        for id, better, worse, extra in _pairs(judged):
            key = (judged.tree.parent_of(id), better, worse)
            if key in seen:
                continue
            seen.add(key)
            if not better.strip() or not worse.strip() or better == worse:
                out.left_out.append(f"message {id}: {'both answers are the same' if better == worse else 'one of the answers is empty'}")
                continue
            try:
                prompt = judged.prompt(id)
            except UnsupportedError as error:
                out.left_out.append(str(error).splitlines()[0])
                continue
            chosen, rejected = ([{"role": "assistant", "content": text}] for text in (better, worse))
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "strength": None, "group": None} | extra
            out.lines.append(_line(row, judged, id, stated))
    return out


def _pairs(judged: _Judged) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """A message that stands where both answers stand, the better text, the worse one, and what else is known."""
    for value in judged.choices:
        chosen, rejected = value["chosen"], value["rejected"]
        if not value["both_bad"] and judged.standing(chosen) and judged.standing(rejected):
            known = {"strength": value["strength"], "group": value["group"], "source": "choice"}
            yield chosen, judged.text(chosen), judged.text(rejected), known
    for id, text in judged.corrections.items():
        yield id, text, judged.text(id), {"source": "correction"}
    for id, origin in judged.edits():
        if judged.standing(origin):
            yield id, judged.text(id), judged.text(origin), {"source": "edit"}
    turns: defaultdict[str | None, list[str]] = defaultdict(list)
    for id in judged.thumbs:
        turns[judged.tree.parent_of(id)].append(id)
    for answers in turns.values():
        for up in answers:
            for down in answers:
                if judged.thumbs[up] == "up" and judged.thumbs[down] == "down":
                    yield up, judged.text(up), judged.text(down), {"source": "thumbs"}


def _line(row: dict[str, Any], judged: _Judged, message: str, stated: bool) -> str:
    return dump(row | {"consent": stated or bool(judged.row.consent), "conversation": judged.row.id, "message": message}) + "\n"


def _conversations(database: Database, owner: str | None, consented: bool) -> Iterator[_Judged]:
    with database.reading() as connection:
        ids = owned(connection, owner, consented)
        for id in ids:
            yield _judged(connection, id)


def _judged(connection: Connection, id: str) -> _Judged:
    table = tables.messages
    row = connection.execute(sa.select(tables.conversations).where(tables.conversations.c.id == id)).one()
    tree = lookup.tree(connection, id)
    said = connection.execute(sa.select(table.c.id, table.c.parts, table.c.edited_from).where(table.c.conversation == id)).all()
    edited_from = {message.id: message.edited_from for message in said if message.edited_from in tree.nodes}
    judged = _Judged(connection, row, tree, {message.id: text_of(load(message.parts)) for message in said}, edited_from, {}, {}, [])
    given = tables.feedback
    query = sa.select(given).where(given.c.conversation == id, given.c.deleted.is_(None)).order_by(given.c.updated, given.c.id)
    for opinion in connection.execute(query).all():
        if not judged.standing(opinion.message):
            continue
        value = load(opinion.value)
        match opinion.kind:
            case "thumbs":
                judged.thumbs[opinion.message] = value
            case "correction":
                judged.corrections[opinion.message] = value  # the one said last stands
            case "choice":
                judged.choices.append(value)
    return judged
