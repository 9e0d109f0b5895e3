"""Scoring: how probable given texts are after what comes before them, as lm-eval's Hugging Face backend defines it.

* Tokens are those of the joined text; the context's are as many as it has alone. White space at its end belongs to the continuation.
* Without a context the text follows the model's begin-of-text token (else its end-of-text token), unless it begins with that itself.
* A text that is rolled over is cut into windows that predict each of its tokens once: the first after the start token, the next ones
  after one token, the last after as many as fit. Where the tokenizer begins every text with a token of its own, that token counts too.
* The last token is predicted and never read, so a text may have one token more than the context.

What begins alike is read once: the items of a `Scoring` follow one another in one slot, which goes back to where they part, and what was
told of the tokens before that stands. So sentences that differ in a word are read together up to that word.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from steelyard.core.errors import ContextLengthError, SteelyardError
from steelyard.core.protocols import Score
from steelyard.generate.candidates import Candidates, Wish
from steelyard.generate.host import Pass, Place
from steelyard.generate.prefixes import common_prefix
from steelyard.generate.sequences import HEAD_ROWS, Sequence, attempt
from steelyard.model.tokenizer import Tokenizer

WORTH = 4
"""Tokens that two items must share, and a quarter of the shorter one, for one to wait for the other's slot."""
ROUNDS = 4
"""Items of different contexts share a slot only as long as every slot gets this many turns: else the slots would end unevenly."""


class Item(NamedTuple):
    """Tokens of which those from `first` on are scored; `size` is their text's bytes, `cut` how many tokens were left out before them."""

    tokens: list[int]
    first: int
    size: int
    cut: int = 0


class Scoring(Sequence):
    """Given texts being scored one after the other; `on_score` hears each one's number and its score, or why there is none."""

    wish = Wish(1)
    """What is asked of the logits at each place."""

    def __init__(self, items: Many[Item], on_score: Callable[[int, Score | str], None]):
        super().__init__(items[0].tokens)
        self.items, self.on_score = items, on_score
        self.number = 0
        self.back: int | None = None  # where the slot is to go back to before the next item is read
        self.told: list[tuple[float, bool]] = []  # of each scored token its log-probability, and whether it was the likeliest

    @property
    def item(self) -> Item:
        """What is being scored now."""
        return self.items[self.number]

    @property
    def read_until(self) -> int:
        return len(self.tokens) - 1

    @property
    def reusable(self) -> int:
        """Scoring needs the hidden states from the token before the first scored one."""
        return min(self.read_until, self.item.first) - 1

    def wanted(self, start: int, count: int) -> range:
        """The positions whose logits are wanted of tokens start..start + count: what stands at position p predicts token p + 1."""
        return range(max(self.item.first - 1, start), start + count)

    def heard(self, position: int, logits: Tensor, found: Many[Candidates]) -> None:
        """Logits float32 [n, vocabulary] of wanted positions, from `position` on, and what is known of each row where a routine found it."""
        targets = torch.tensor(self.tokens[position + 1 : position + 1 + len(logits)], device=logits.device)
        # Not the routine's own sums: they are rounded more coarsely than a sum over many tokens bears.
        picked = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
        likeliest = [int(one.ids[0]) if len(one.ids) else -1 for one in found] or logits.argmax(-1).tolist()
        self.told += zip(picked.tolist(), map(operator.eq, targets.tolist(), likeliest), strict=True)

    def took(self, read: Pass, piece: int, start: int, count: int) -> None:
        """Tokens start..start + count have been read as a piece of a pass, and what was wanted of them was heard."""
        del read, piece
        if start + count == self.read_until:
            self._next()

    def _next(self) -> None:
        number, item = self.number, self.item
        logprob = math.fsum(logprob for logprob, _ in self.told)
        score = Score(logprob, all(greedy for _, greedy in self.told), len(item.tokens) - item.first, item.size, item.cut)
        if number + 1 == len(self.items):
            self.finished = True
        else:
            self._go_back(item, self.items[number + 1])
        self.on_score(number, score)

    def _go_back(self, last: Item, item: Item) -> None:
        """Turns to the next item: where its slot goes on, and what is known of its tokens up to there."""
        self.number, self.tokens = self.number + 1, item.tokens
        shared = common_prefix(last.tokens[:-1], item.tokens, self.read_until)
        if last.first <= item.first <= shared:
            self.back = shared - 1  # the last shared token once more: it predicts where they part
            self.told = self.told[item.first - last.first : shared - last.first]
        else:
            self.back, self.told = min(shared, self.reusable), []

    def fail(self, message: str) -> None:
        self.finished = True
        for number in range(self.number, len(self.items)):
            self.on_score(number, message)

    def stop_early(self, reason: Literal["cancelled", "timeout"]) -> None:
        self.fail(reason)


class Part(NamedTuple):
    """Tokens start..start + count of a scored text, as a piece of a pass."""

    scoring: Scoring
    piece: int
    start: int
    count: int


def hear(read: Pass, parts: Many[Part]) -> None:
    """Tells scored texts what a pass read of them. The head runs over the places of all together, since it reads its large matrix once
    for each call."""
    places = [(part, position) for part in parts for position in part.scoring.wanted(part.start, part.count)]
    for low in range(0, len(places), HEAD_ROWS):
        some = places[low : low + HEAD_ROWS]
        where = [Place(part.piece, position - part.start) for part, position in some]
        logits, found = read.read(where, [part.scoring.wish for part, _ in some])
        begin = 0
        while begin < len(some):
            part, position = some[begin]
            end = begin + sum(other is part for other, _ in some)
            if not part.scoring.finished:
                attempt(part.scoring, part.scoring.heard, position, logits[begin:end], found[begin:end])
            begin = end
    for part in parts:
        if not part.scoring.finished:
            attempt(part.scoring, part.scoring.took, read, part.piece, part.start, part.count)


def pair(tokenizer: Tokenizer, context: str, continuation: str) -> Item:
    """A continuation after its context, as tokens.

    Raises:
        SteelyardError: a continuation that is empty, or that has no tokens.
    """
    if not continuation:
        raise SteelyardError("an empty continuation has no probability to speak of", where="score", do="Leave the pair out.")
    size = len(continuation.encode())
    if spaces := len(context) - len(context.rstrip()):
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    start = start_of(tokenizer)
    before = tokenizer.encode(context) if context else []
    whole = tokenizer.encode(context + continuation)
    if not whole:
        raise SteelyardError(f"{continuation!r:.40} has no tokens in this vocabulary", where="score", do="Leave the pair out.")
    if len(whole) == 1:  # where everything merged into one token, something must come before it
        starts = True
    elif before:
        starts = tokenizer.add_bos and before[0] != start
    else:
        starts = whole[0] != start
    prefix = [start] if starts else []
    tokens, first = prefix + whole, max(1, len(prefix) + len(before))
    return Item(tokens, min(first, len(tokens) - 1), size)  # a continuation that merged into the context's last token


def start_of(tokenizer: Tokenizer) -> int:
    """What a text follows that follows nothing."""
    return tokenizer.bos_id if tokenizer.bos_id is not None else next(iter(tokenizer.eos_ids), 0)


def fitted(item: Item, most: int, cut: bool) -> Item:
    """An item of which at most `most` tokens are read: as it is, or with its beginning cut off.

    Raises:
        ContextLengthError: it is longer and not to be cut, or what is scored alone is longer.
    """
    over = len(item.tokens) - 1 - most
    if over <= 0:
        return item
    if not cut or over >= item.first:
        raise ContextLengthError(
            f"{len(item.tokens)} tokens, but at most {most + 1} can be scored together",
            where="score",
            do="Raise the engine's `context`, or shorten the text.",
        )
    return Item(item.tokens[over:], item.first - over, item.size, over)


def rolled(tokenizer: Tokenizer, text: str, window: int) -> list[Item]:
    """A text of any length as windows that read at most `window` tokens; all but the first have size 0.

    Raises:
        SteelyardError: a text without tokens.
    """
    start = start_of(tokenizer)
    tokens = tokenizer.encode(text)
    if not tokens:
        raise SteelyardError(f"{text!r:.40} has no tokens in this vocabulary", where="score", do="Leave the text out.")
    if tokenizer.add_bos and tokens[0] != start:
        tokens = [start, *tokens]
    items = [Item([start, *tokens[:window]], 1, len(text.encode()))]
    for done in range(window, len(tokens), window):
        end = min(done + window, len(tokens))
        begin = end - window - 1
        items.append(Item(tokens[begin:end], done - begin, 0))
    return items


def joined(scores: Many[Score]) -> Score:
    """The scores of a text's windows as one."""
    return Score(
        sum(score.logprob for score in scores),
        all(score.greedy for score in scores),
        sum(score.tokens for score in scores),
        sum(score.bytes for score in scores),
    )


def families(items: Many[Item], slots: int) -> Iterator[list[int]]:
    """The items' numbers in groups that begin alike; the groups with most to read first, so that the slots end together."""
    order = sorted(range(len(items)), key=lambda number: items[number].tokens)
    most, groups = len(items) // (ROUNDS * slots), []
    for number in order:
        if groups and _joins(items[groups[-1][-1]], items[number], len(groups[-1]) < most):
            groups[-1].append(number)
        else:
            groups.append([number])
    yield from sorted(groups, key=lambda group: -sum(len(items[number].tokens) for number in group))


def _joins(last: Item, item: Item, room: bool) -> bool:
    """Whether an item waits for the last one's slot: it has the same context, or there is room in the group for what begins alike."""
    shared = common_prefix(last.tokens, item.tokens, len(item.tokens))
    if shared < max(WORTH, min(len(last.tokens), len(item.tokens)) // 4):
        return False
    return room or shared >= min(last.first, item.first)
