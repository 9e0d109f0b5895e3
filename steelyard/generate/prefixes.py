"""Beginnings of texts that were read before, kept beside the slots: a prompt that begins alike is not read again.

A tree whose edges are blocks of 64 tokens (a radix tree of fixed span, as in SGLang, arXiv:2312.07104); each node holds what the hosts
made of its block. Texts that begin alike share nodes. Where the room is full, the leaf that was used longest ago goes.
Tenants have trees of their own, so that how soon an answer comes tells nobody what others have asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BLOCK = 64
"""Tokens of a node."""


@dataclass(eq=False)
class Node:
    """A block of tokens after those of its parents. `data` is what the hosts hold of it, `size` that in bytes."""

    parent: Node | None = None
    edge: tuple[int, ...] = ()
    data: Any = None
    size: int = 0
    used: int = 0
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)


class Prefixes:
    """At most `room` bytes of beginnings."""

    def __init__(self, room: int):
        self.room, self.bytes = room, 0
        self._roots: dict[str, Node] = {}
        self._leaves: set[Node] = set()
        self._clock = 0

    def find(self, tenant: str, tokens: list[int], most: int) -> list[Node]:
        """The nodes of the longest known beginning, at most `most` tokens, in order."""
        node, found = self._roots.get(tenant), []
        while node is not None:
            start = len(found) * BLOCK
            node = node.children.get(tuple(tokens[start : start + BLOCK])) if start + BLOCK <= most else None
            if node is not None:
                found.append(node)
        return found

    def use(self, nodes: list[Node]) -> None:
        """These were read from: they go last."""
        self._clock += 1
        for node in nodes:
            node.used = self._clock

    def keep(self, tenant: str, tokens: list[int], export: Callable[[int, int], tuple[Any, int]]) -> None:
        """Enters the whole blocks of a text.

        Args:
            tenant: whose it is.
            tokens: the text; what follows the last whole block is left out.
            export: what the hosts hold of tokens start..stop, and how many bytes that are.
        """
        nodes = self.find(tenant, tokens, len(tokens))
        self.use(nodes)
        node = nodes[-1] if nodes else self._roots.setdefault(tenant, Node())
        for start in range(len(nodes) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
            data, size = export(start, start + BLOCK)
            if not self._make_room(size, keeping=node):
                return
            edge = tuple(tokens[start : start + BLOCK])
            child = Node(node, edge, data, size, self._clock)
            node.children[edge] = child
            self._leaves.discard(node)
            self._leaves.add(child)
            self.bytes += size
            node = child

    def _make_room(self, size: int, keeping: Node) -> bool:
        """Lets leaves go until there is room; False where only what leads to `keeping` is left."""
        while self.bytes + size > self.room:
            leaf = min(self._leaves - {keeping}, key=lambda node: node.used, default=None)
            if leaf is None:
                return False
            self._leaves.discard(leaf)
            self.bytes -= leaf.size
            parent = leaf.parent
            assert parent is not None
            del parent.children[leaf.edge]
            if not parent.children and parent.parent is not None:
                self._leaves.add(parent)
        return True


def common_prefix(first: list[int], second: list[int], most: int) -> int:
    """How many tokens two lists begin with alike, at most `most`."""
    low, high = 0, min(len(first), len(second), most)
    while low < high:  # the first `low` are alike; beyond `high` they are not, or nobody asks
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle - 1)
    return low
