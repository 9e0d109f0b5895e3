"""What an endpoint's answers cost, and a cap on it that holds over every process and every resumption of a run.

Before a request is sent, the most it can cost is written down: as many tokens read as the conversation has bytes (no tokenizer makes
more of it) with room for its template, as many written as it may. Once it has ended, what it did cost takes that place: by the usage
that the server tells, nothing where it refused, and all of it where nobody knows. A process that is killed in between has spent it all.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.core.errors import SpendError, SteelyardError
from steelyard.core.files import append_line
from steelyard.core.meters.money import VARIABLE, Prices, of_tokens
from steelyard.core.protocols import Usage

FILE = "spending.jsonl"
TEMPLATE = 32  # tokens that a chat template may add to a message
PAUSE = 0.05  # seconds between two looks whether requests under way have left something over


def most_read(body: Mapping[str, Any]) -> int:
    """The most tokens a request's prompt can be."""
    messages = body.get("messages", ())
    return len(json.dumps({key: body[key] for key in ("messages", "prompt", "response_format") if key in body}).encode()) + TEMPLATE * (
        1 + len(messages)
    )


class Spending:
    """The account of one model at one endpoint, in one run's directory.

    Args:
        directory: the run's.
        url, model: whom the account is of.
        prices: the price table.
        cap: most that may be spent, in the table's currency; None for no cap.

    Raises:
        SteelyardError: there is a cap and the table does not name the model, or the account cannot be read.
    """

    def __init__(self, directory: Path, url: str, model: str, prices: Prices, cap: float | None = None):
        self.path, self.url, self.model, self.prices, self.cap = directory / FILE, url, model, prices, cap
        if cap is not None and model not in prices.tokens:
            raise SteelyardError(
                f"`spend` needs the price of its tokens, and the price table does not name `{model}`",
                where=url,
                do=f"Name it under `tokens` in a YAML file, and the file in {VARIABLE} (docs/reports.md shows the form).",
            )
        self._lock, self._open = threading.Lock(), {}
        self.spent = sum(of_account(self.path, url, model).values())

    def price(self, read: int, written: int) -> float:
        """What tokens cost; 0 where the table has no price and so there is no cap."""
        return of_tokens(self.prices, self.model, read, written) or 0.0

    async def reserve(self, body: Mapping[str, Any]) -> str:
        """Sets aside the most that a request can cost; waits for others that are under way where that might leave enough.

        Returns:
            What `settle` is to be told.

        Raises:
            SpendError: the cap could be exceeded.
        """
        most = self.price(most_read(body), int(body.get("max_tokens") or body.get("max_completion_tokens") or 0))
        while True:
            with self._lock:
                if self.cap is None or self.spent + most <= self.cap:
                    name = secrets.token_hex(8)
                    self._write(name, most)
                    self._open[name] = most
                    self.spent += most
                    return name
                if not self._open:
                    raise SpendError(
                        f"{self._told(self.spent)} of {self._told(self.cap)} are spent, and the next request might cost {self._told(most)}",
                        where=f"{self.model} at {self.url}",
                        do="Raise `spend` and run the same command again; what was recorded stays.",
                    )
            await asyncio.sleep(PAUSE)

    def settle(self, name: str, usage: Usage | None, *, free: bool = False) -> None:
        """Notes what a request did cost: by its usage, nothing where it was refused, else the most it could."""
        with self._lock:
            most = self._open.pop(name)
            cost = 0.0 if free else most if usage is None else self.price(usage.prompt_tokens, usage.completion_tokens)
            self._write(name, cost)
            self.spent += cost - most

    def _told(self, amount: float) -> str:
        return f"{amount:.4g} {self.prices.currency}"

    def _write(self, name: str, cost: float) -> None:
        append_line(self.path, json.dumps({"url": self.url, "model": self.model, "request": name, "cost": cost}))


def of_account(path: Path, url: str, model: str) -> dict[str, float]:
    """What each request of an account cost, or might have.

    Raises:
        SteelyardError: a line is none of an account. The last line may be cut off: then it was never acted upon.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if entry["url"] == url and entry["model"] == model:
                found[str(entry["request"])] = float(entry["cost"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise SteelyardError("no line of an account", where=f"{path}:{number}", do="Mend or delete the line.") from error
    return found
