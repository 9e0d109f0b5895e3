"""One search: hypotheses that share a prompt, each in a slot of its own, and the answers finished so far.

The scheduler reads the prompt in the first slot and then, turn by turn, forks slots as `take_forks` says, computes the last token
of every branch, and hands the logits to `accept`. Branches keep sessions of processors of their own; where a branch takes up
another's beginning, its sessions go back to what both share and on from there.

Shapes: m live branches, v vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from steelyard.core.errors import SteelyardError
from steelyard.core.protocols import AnswerSettings, Event, Token
from steelyard.generate.candidates import Candidates, Wish
from steelyard.generate.guesses import Speculation
from steelyard.generate.host import Piece
from steelyard.generate.processor import Processor, Session, View
from steelyard.generate.sampling import UNDRAWABLE, Confidence, confidence
from steelyard.generate.sequences import Generation, StreamDecoder
from steelyard.kernels.native import Pool
from steelyard.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rules:
    """Width, scoring and end of a search; see the lever."""

    beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]

    def score(self, total: float, length: int) -> float:
        """What answers are compared by."""
        return total / length**self.length_penalty


@dataclass(frozen=True)
class Word:
    """A token with the model's own view of it (None where nobody asked) and its log-probability in the search."""

    token: int
    view: Confidence | None
    logprob: float


@dataclass(frozen=True)
class Hypothesis:
    """A beginning of an answer. `total` is its log-probability in nats; an end token counts but is no word."""

    words: tuple[Word, ...] = ()
    total: float = 0.0

    @property
    def tokens(self) -> list[int]:
        return [word.token for word in self.words]


@dataclass(frozen=True)
class Finished:
    """An answer that has ended, and how."""

    hypothesis: Hypothesis
    score: float
    reason: Literal["stop", "length"]


@dataclass
class Branch:
    """A slot with the hypothesis it holds; `said` is what its sessions have been told."""

    slot: int
    sessions: list[Session]
    hypothesis: Hypothesis = field(default_factory=Hypothesis)
    said: list[int] = field(default_factory=list)

    def follow(self, hypothesis: Hypothesis) -> None:
        """Takes up a hypothesis; the sessions go back to what both share, and on."""
        tokens, shared = hypothesis.tokens, 0
        while shared < min(len(tokens), len(self.said)) and tokens[shared] == self.said[shared]:
            shared += 1
        for session in self.sessions:
            if shared < len(self.said):
                session.rewind(len(self.said) - shared)
            for token in tokens[shared:]:
                session.advance(token)
        self.hypothesis, self.said = hypothesis, tokens


@dataclass(frozen=True)
class Candidate:
    """A continuation by one token."""

    total: float
    row: int
    token: int
    logprob: float


class Beams(Generation):
    """A request answered by beam search. Events come at the end, for the winner alone."""

    def __init__(
        self,
        prompt: list[int],
        settings: AnswerSettings,
        on_event: Callable[[Event], None],
        tokenizer: Tokenizer,
        limit: int,
        rules: Rules,
    ):
        super().__init__(prompt, settings, on_event, tokenizer.stream_decoder(), frozenset(tokenizer.eos_ids), limit)
        self.rules, self.width = rules, rules.beams
        self._decoder: Callable[[], StreamDecoder] = tokenizer.stream_decoder
        self.branches: list[Branch] = []
        self.idle: list[Branch] = []
        self.answers: list[Finished] = []
        self._forks: list[tuple[int, int]] = []

    def begin(self, processors: tuple[Processor, ...], speculation: Speculation | None, pool: Pool | None = None) -> None:
        """One branch that goes on, in the slot that reads the prompt; the others wait for something to follow."""
        assert self.slot is not None
        every = []
        for slot in (self.slot, *self.others):
            super().begin(processors, None, pool)
            every.append(Branch(slot, self.sessions))
        self.branches, self.idle = every[:1], every[1:]
        self.wish = Wish()  # every branch is looked at by the search itself

    def draft(self, most: int) -> list[int]:
        """Nothing: a search is not guessed ahead."""
        return []

    def pieces(self) -> list[Piece]:
        """What is to be computed next: the last token of every branch."""
        return [
            Piece(branch.slot, len(self.prompt) + len(words) - 1, [words[-1].token], self.program)
            for branch in self.branches
            if (words := branch.hypothesis.words)
        ]

    def take_forks(self) -> list[tuple[int, int]]:
        """(source, target) slots to copy before the next step, which makes the branches hold what their hypotheses say."""
        forks, self._forks = self._forks, []
        return forks

    def accept(self, logits: Tensor, draft: object, found: Sequence[Candidates] = ()) -> None:
        """One step of the search, from the logits [m, v] of the live branches, in their order."""
        self.passes += 1
        candidates = self._candidates(logits)
        length = len(self.branches[0].hypothesis.words) + 1
        going: list[Candidate] = []
        for rank, candidate in enumerate(candidates):
            reason = self._ends(candidate, length)
            if reason is None:
                going.append(candidate)
            elif rank < self.rules.beams:
                score = self.rules.score(candidate.total, length)
                self.answers.append(Finished(self._continued(candidate, logits), score, reason))
        self.answers = sorted(self.answers, key=lambda answer: -answer.score)[: self.rules.beams]
        going = going[: self.rules.beams]
        if self._over(going, length):
            return self._give(self.answers[0])
        self._branch(going, logits)

    def _candidates(self, logits: Tensor) -> list[Candidate]:
        """The likeliest continuations of all branches, best first: enough that `beams` of them do not end the answer."""
        most = max(2, 1 + len(self.eos)) * self.rules.beams
        found = []
        for row, (branch, own) in enumerate(zip(self.branches, logits, strict=True)):
            view, shaped = View(self.prompt, branch.hypothesis.tokens), own
            for session in branch.sessions:
                shaped = session(shaped, view)
                if shaped.shape != own.shape:
                    raise SteelyardError(f"a processor gave logits of shape {tuple(shaped.shape)}, not {tuple(own.shape)}")
            logprobs = torch.log_softmax(shaped, -1)
            top = logprobs.topk(min(most, logprobs.numel()))
            for token, logprob in zip(top.indices.tolist(), top.values.tolist(), strict=True):
                if math.isnan(logprob):
                    raise SteelyardError(UNDRAWABLE, where="beam search")
                if logprob > -math.inf:
                    found.append(Candidate(branch.hypothesis.total + logprob, row, token, logprob))
        if not found:
            raise SteelyardError(UNDRAWABLE, where="beam search")
        return sorted(found, key=lambda candidate: -candidate.total)[:most]

    def _ends(self, candidate: Candidate, length: int) -> Literal["stop", "length"] | None:
        """How an answer ends with this token, or None where it goes on."""
        if self._is_end(candidate.token):
            return "stop"
        if self.settings.stop:
            decoder = self._decoder()
            tokens = [*self.branches[candidate.row].hypothesis.tokens, candidate.token]
            text = "".join(decoder.push(token) for token in tokens)
            if any(stop in text for stop in self.settings.stop):
                return "stop"
        return "length" if length >= self.most else None

    def _is_end(self, token: int) -> bool:
        return token in self.eos and not self.settings.ignore_eos

    def _continued(self, candidate: Candidate, logits: Tensor) -> Hypothesis:
        parent = self.branches[candidate.row].hypothesis
        if self._is_end(candidate.token):
            return replace(parent, total=candidate.total)
        view = None
        if self.settings.token_events:
            row = logits[candidate.row : candidate.row + 1]
            view = confidence(row, [candidate.token], self.settings.alternatives, self.pool)[0]
        return Hypothesis((*parent.words, Word(candidate.token, view, candidate.logprob)), candidate.total)

    def _over(self, going: list[Candidate], length: int) -> bool:
        """Whether the search ends after hypotheses of this length."""
        if not going:
            return True
        if len(self.answers) < self.rules.beams:
            return False
        if self.rules.early_stopping is True:
            return True
        reach = self.most if self.rules.early_stopping == "never" and self.rules.length_penalty > 0 else length
        return self.rules.score(going[0].total, reach) <= self.answers[-1].score

    def _branch(self, going: list[Candidate], logits: Tensor) -> None:
        """Gives every hypothesis a slot: the first that follows from a branch stays in its slot, the others take slots of branches that
        none follows from."""
        followed = {candidate.row for candidate in going}
        free = [branch for row, branch in enumerate(self.branches) if row not in followed] + self.idle
        placed: list[tuple[Branch, Hypothesis]] = []
        for candidate in going:
            parent = self.branches[candidate.row]
            if candidate.row in followed:
                followed.remove(candidate.row)
                branch = parent
            else:
                branch = free.pop(0)
                self._forks.append((parent.slot, branch.slot))
            placed.append((branch, self._continued(candidate, logits)))
        for branch, hypothesis in placed:
            branch.follow(hypothesis)
        self.branches, self.idle = [branch for branch, _ in placed], free

    def _give(self, answer: Finished) -> None:
        """Says the winner, as if it had been generated in one go."""
        self.timing.first_token = time.perf_counter()
        self.branches[0].follow(answer.hypothesis)
        self.sessions = self.branches[0].sessions
        self.generated = answer.hypothesis.tokens
        for word in answer.hypothesis.words:
            text, _ = self.stream.push(word.token)
            if word.view is not None:
                view = word.view
                self.on_event(Token(word.token, text, view.logprob, view.entropy, word.logprob, view.alternatives))
            self._show(text)
        self._finish(answer.reason)
