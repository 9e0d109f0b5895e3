"""A suffix automaton of a growing text: where the longest ending of the text stood before, in amortised constant time for each token.

States are sets of substrings that end at the same places; `link` leads to the longest shorter ending that stands at more places. The
construction is online: A. Blumer et al., The smallest automaton recognizing the subwords of a text, 1985. Following the match along
with the text, and what to do with it: Y. Hu et al., SAM Decoding, arXiv:2411.10666.

Memory is linear whatever the text: at most 2 states and 3 transitions a token. Nearly all states have a single way on, so that one is
kept in arrays (20 bytes a state) and only states with more get a dictionary.
"""

from __future__ import annotations

from array import array

NOWHERE = -1
DEEPEST = 32
"""How many ever shorter endings learn of each new place. Only texts that repeat one thing over and over have more; theirs then know an
earlier place, after which the same thing stands."""


class SuffixAutomaton:
    """The automaton, the text, and the longest ending of the text that stood before, of at most `longest` tokens where given.

    Attributes:
        tokens: the text.
        matched: how many tokens that ending has.
        before: the index after its latest earlier place; 0 where there is none.
    """

    def __init__(self, longest: int | None = None):
        self.longest = longest
        self.tokens: list[int] = []
        self.matched = self.before = 0
        self._length, self._link, self._end = array("i", [0]), array("i", [NOWHERE]), array("i", [0])
        self._token, self._target = array("i", [NOWHERE]), array("i", [NOWHERE])  # the first way on of each state
        self._more: dict[int, dict[int, int]] = {}  # the other ways on of states that have several
        self._last = self._state = 0

    @property
    def states(self) -> int:
        return len(self._length)

    def append(self, token: int) -> None:
        """The text goes on with a token >= 0."""
        self._follow(token)
        self.tokens.append(token)
        self._grow(token)
        self._settle()

    def _to(self, state: int, token: int) -> int:
        """Where a token leads from a state, or NOWHERE."""
        if self._token[state] == token:
            return self._target[state]
        more = self._more.get(state)
        return more.get(token, NOWHERE) if more else NOWHERE

    def _lead(self, state: int, token: int, target: int) -> None:
        if self._token[state] in (NOWHERE, token):
            self._token[state], self._target[state] = token, target
        else:
            self._more.setdefault(state, {})[token] = target

    def _add(self, length: int, end: int) -> int:
        self._length.append(length)
        self._link.append(0)
        self._end.append(end)
        self._token.append(NOWHERE)
        self._target.append(NOWHERE)
        return len(self._length) - 1

    def _follow(self, token: int) -> None:
        """The match goes on with the token, or with its longest ending that can; what is to come does not count as earlier."""
        state, matched = self._state, self.matched
        while (target := self._to(state, token)) == NOWHERE and state:
            state = self._link[state]
            matched = self._length[state]
        self._state, self.matched = (target, matched + 1) if target != NOWHERE else (0, 0)
        if self.longest is not None:
            self.matched = min(self.matched, self.longest)

    def _grow(self, token: int) -> None:
        """Takes the token in, after it was put into `tokens`."""
        end = len(self.tokens)
        new, state = self._add(end, end), self._last
        while state != NOWHERE and (target := self._to(state, token)) == NOWHERE:
            self._lead(state, token, new)
            state = self._link[state]
        if state != NOWHERE:
            self._link[new] = self._split(state, token, target)  # type: ignore[possibly-undefined]
        self._last = new

    def _split(self, state: int, token: int, target: int) -> int:
        """The state of exactly the substrings up to `state` and the token: the target, or a copy of it for the shorter ones."""
        if self._length[target] == self._length[state] + 1:
            return target
        copy = self._add(self._length[state] + 1, self._end[target])
        self._link[copy], self._token[copy], self._target[copy] = self._link[target], self._token[target], self._target[target]
        if target in self._more:
            self._more[copy] = dict(self._more[target])
        while state != NOWHERE and self._to(state, token) == target:
            self._lead(state, token, copy)
            state = self._link[state]
        self._link[target] = copy
        return copy

    def _settle(self) -> None:
        """The match finds its state (it may have been split, or cut to `longest`) and its earlier place, and leaves word of this one."""
        while self._state and self._length[self._link[self._state]] >= self.matched:
            self._state = self._link[self._state]
        self.before = self._end[self._state] if self.matched else 0
        state, here = self._state, len(self.tokens)
        for _ in range(DEEPEST):
            if not state:
                break
            self._end[state], state = here, self._link[state]
