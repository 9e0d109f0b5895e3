"""Conversations as tokens: which tokens a model is trained on, found by rendering the conversation turn by turn.

An answer's tokens are what the chat template adds between "the assistant is about to speak" and the end of its turn. They are
found by rendering prefixes, never by searching for text, so any template whose renderings are prefixes of one another works and
any other is refused by name. The prompt is tokenised as it will be when the model is asked: the tokens of a prompt and of an
answer never merge.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from steelyard.core.errors import DataError, SteelyardError
from steelyard.core.files import atomic
from steelyard.data.formats import Example

TooLong = Literal["refuse", "skip", "cut"]


class TokenizerLike(Protocol):
    """What encoding needs of a tokenizer."""

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def add_bos(self) -> bool: ...

    def encode(self, text: str, special: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str: ...


class TemplateLike(Protocol):
    """What encoding needs of a chat template."""

    def render(self, messages: Sequence[Any], add_generation_prompt: bool = True, **variables: Any) -> str: ...


@dataclass(frozen=True, eq=False)
class TokenRow:
    """One example as tokens.

    Attributes:
        ids: int32 [time].
        learned: bool [time], True for the tokens the loss is taken on (they are predicted from the ones before).
        where: the example's address.
        key: the example's fingerprint.
        end_added: whether an end token was added because the template writes none.
    """

    ids: np.ndarray
    learned: np.ndarray
    where: str
    key: str
    end_added: bool = False

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Encoder:
    """Turns examples into token rows for one model.

    Attributes:
        tokenizer: the model's.
        template: the model's chat template; None reads every example as plain text (`plain`).
        plain: join the turns' texts as they are, without the template; the answer ends with the end-of-text token.
        learn: "all" learned turns, or only the "last" one.
    """

    tokenizer: TokenizerLike
    template: TemplateLike | None
    plain: bool = False
    learn: Literal["all", "last"] = "all"

    def encode(self, example: Example) -> TokenRow:
        """The example's tokens, up to the end of its last learned turn (nothing after it can be learned).

        Raises:
            DataError: the template refuses the conversation or renders it so that answers cannot be found in it.
        """
        learned_turns = [index for index, turn in enumerate(example.turns) if turn.learned]
        if self.learn == "last":
            learned_turns = learned_turns[-1:]
        ids: list[int] = []
        learned: list[bool] = []
        text, end_added = "", False
        for turn in learned_turns:
            before, after = self._render(example, turn)
            if not before.startswith(text):
                raise DataError(
                    f"the chat template renders turn {turn} differently once later turns follow, so that answer's tokens cannot be found",
                    where=example.where,
                    do="Set `learn: last` (each row teaches its last answer), or give each answer a row of its own.",
                )
            if not after.startswith(before) or len(after) == len(before):
                raise DataError(
                    f"the chat template does not begin answer {turn + 1} with its own generation prompt, so its tokens cannot be found",
                    where=example.where,
                    do="Use a template whose generation prompt is how an answer's turn begins, or set `plain: true`.",
                )
            prompt = self._continue(ids, text, before)
            answer = self._continue(prompt, before, after)[len(prompt) :]
            taught = self._taught(answer)
            if taught == 0:  # no end token: the model would not learn to stop
                if turn == learned_turns[-1]:
                    answer, end_added = [*answer, self._end_token(example)], True
                taught = len(answer)
            learned += [False] * (len(prompt) - len(ids)) + [True] * taught + [False] * (len(answer) - taught)
            ids, text = prompt + answer, after
        last = len(learned) - learned[::-1].index(True)
        return TokenRow(np.array(ids[:last], np.int32), np.array(learned[:last], bool), example.where, example.fingerprint, end_added)

    def _render(self, example: Example, turn: int) -> tuple[str, str]:
        """The text up to a turn, with the prompt to speak, and the text through it."""
        if self.plain:
            texts = [turn.message.content for turn in example.turns]
            return "".join(texts[:turn]), "".join(texts[: turn + 1])
        if self.template is None:
            raise DataError(
                "the model has no chat template", where=example.where, do="Set `plain: true` to train on the texts as they are."
            )
        messages = [turn.message.as_dict() for turn in example.turns]
        variables = {"tools": list(example.tools)} if example.tools else {}
        before = self.template.render(messages[:turn], add_generation_prompt=True, **variables)
        return before, self.template.render(messages[: turn + 1], add_generation_prompt=False, **variables)

    def _continue(self, ids: list[int], text: str, longer: str) -> list[int]:
        """The tokens of `longer`, which begins with `text`, whose tokens `ids` stay as they are."""
        whole = self._tokens(longer)
        if whole[: len(ids)] == ids:
            return whole
        # A token would straddle the border; the model, asked, never sees that token.
        return ids + self.tokenizer.encode(longer[len(text) :], special=True)

    def _tokens(self, text: str) -> list[int]:
        """As the engine reads it: a rendered conversation as it is, plain text after the token that texts begin with."""
        ids = self.tokenizer.encode(text, special=True)
        bos = self.tokenizer.bos_id
        starts = self.plain and self.tokenizer.add_bos and bos is not None and ids[:1] != [bos]
        return [bos, *ids] if starts else ids  # type: ignore[list-item]

    def _taught(self, answer: list[int]) -> int:
        """Tokens of an answer up to and with its last end token; 0 where no end token closes it."""
        taught = max((index + 1 for index, token in enumerate(answer) if token in self.tokenizer.eos_ids), default=0)
        return 0 if self.tokenizer.decode(answer[taught:]).strip() else taught

    def _end_token(self, example: Example) -> int:
        if not self.tokenizer.eos_ids:
            raise DataError(
                "neither the template nor the tokenizer has an end token, so the model could not learn to stop",
                where=example.where,
                do="Give the tokenizer an `eos_token` (tokenizer_config.json).",
            )
        return self.tokenizer.eos_ids[0]


def encode_all(
    encoder: Encoder,
    examples: Sequence[Example],
    *,
    max_length: int,
    too_long: TooLong = "refuse",
    bad_rows: Literal["stop", "skip"] = "stop",
    quarantine: Path | None = None,
) -> tuple[list[TokenRow], list[str]]:
    """Encodes every example; rows that cannot be are all named, and dealt with as told.

    Args:
        encoder: for one model.
        examples: what to encode.
        max_length: most tokens of a row.
        too_long: rows above it stop everything ("refuse"), are left out ("skip") or lose their end ("cut").
        bad_rows: whether rows the template cannot render, or that a cut leaves nothing to learn from, stop or are skipped.
        quarantine: file that receives those rows.

    Returns:
        The token rows and lines for a person about what was skipped, cut or added.

    Raises:
        DataError: as told above, or no row is left.
    """
    rows: list[TokenRow] = []
    failed: list[tuple[Example, str]] = []
    long: list[tuple[str, int]] = []
    for example in examples:
        try:
            row = encoder.encode(example)
        except SteelyardError as error:
            failed.append((example, f"{error.what} ({error.do})" if error.do else error.what))
            continue
        if len(row) > max_length:
            long.append((example.where, len(row)))
            row = replace(row, ids=row.ids[:max_length], learned=row.learned[:max_length])
            if too_long == "cut" and not row.learned.any():
                failed.append((example, f"its prompt alone fills the {max_length} tokens, so a cut leaves nothing to learn"))
            if too_long != "cut" or not row.learned.any():
                continue
        rows.append(row)
    notes = _settle_failed(failed, bad_rows, quarantine)
    if long:
        named = "\n".join(f"    {where}: {tokens} tokens" for where, tokens in long)
        if too_long == "refuse":
            what = f"{len(long)} of {len(examples)} rows are longer than {max_length} tokens:\n{named}"
            raise DataError(
                what, do="Shorten them, raise `max_length` (up to the model's context), or set `too_long: skip` or `too_long: cut`."
            )
        done = "left out" if too_long == "skip" else f"cut to {max_length} tokens"
        notes.append(f"{len(long)} rows were too long and were {done}:\n{named}")
    if not rows:
        raise DataError("no row is left to learn from", do="See the rows named before." if notes else None)
    if added := sum(row.end_added for row in rows):
        notes.append(f"the template closes answers with no end token; one was added to {added} rows so that the model learns to stop")
    return rows, notes


def _settle_failed(failed: list[tuple[Example, str]], policy: Literal["stop", "skip"], quarantine: Path | None) -> list[str]:
    if not failed:
        return []
    reasons: dict[str, list[str]] = {}
    for example, reason in failed:
        reasons.setdefault(reason, []).append(example.where)
    named = "\n".join(f"    {', '.join(places)}: {reason}" for reason, places in reasons.items())
    what = f"{len(failed)} rows cannot be turned into tokens:\n{named}"
    if quarantine is not None:
        with atomic(quarantine) as file:
            for example, reason in failed:
                messages = [turn.message.as_dict() for turn in example.turns]
                file.write(json.dumps({"where": example.where, "reason": reason, "row": {"messages": messages}}) + "\n")
    if policy == "stop":
        kept = "" if quarantine is None else f"They are in {quarantine}. "
        raise DataError(what, do=f"{kept}Correct them, or set `bad_rows: skip` to go on without them.")
    return [what]
