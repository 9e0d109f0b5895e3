"""The tree of a conversation: what hangs where once deleted messages are out of the way.

A message whose parent is deleted hangs from the nearest ancestor that is not: children move up, and move back when the deletion is
undone, because where a message was said never changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A message's place. `number` grows with time; a parent's is smaller than its children's."""

    id: str
    parent: str | None
    number: int
    role: str
    hidden: bool
    deleted: bool


class Tree:
    """The messages of one conversation.

    Args:
        nodes: all of them, deleted ones too, in the order of their numbers.
    """

    def __init__(self, nodes: Iterable[Node]):
        self.nodes = {node.id: node for node in nodes}
        self._standing: dict[str | None, str | None] = {None: None}
        for node in self.nodes.values():
            self._standing[node.id] = self._standing.get(node.parent) if node.deleted else node.id

    def parent_of(self, id: str) -> str | None:
        """The message this one hangs from now."""
        return self._standing.get(self.nodes[id].parent)

    def path(self, id: str | None) -> list[Node]:
        """From the root to a message that is not deleted, inclusive; hidden ones are among them."""
        path: list[Node] = []
        while id is not None:
            path.append(self.nodes[id])
            id = self.parent_of(id)
        return path[::-1]

    def below(self, id: str) -> list[str]:
        """A message and all that was ever said below it."""
        children: defaultdict[str | None, list[str]] = defaultdict(list)
        for node in self.nodes.values():
            children[node.parent].append(node.id)
        found, at = [id], 0
        while at < len(found):
            found += children[found[at]]
            at += 1
        return found

    def head(self, wanted: str | None) -> str | None:
        """The message to read up to: the wanted one, else the nearest above it that is left, else the latest there is."""
        if (left := self._standing.get(wanted)) is not None:
            return left
        return next((node.id for node in reversed(self.nodes.values()) if not node.deleted), None)
