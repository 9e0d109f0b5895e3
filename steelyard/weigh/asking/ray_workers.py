"""Arms that answer in processes which Ray starts, here and on further machines: `run: {ray: auto}` in a recipe.

The weighing itself stays where it is: what is asked, in which order, with which seeds, and what becomes of the answers. Only an open
arm is another: every worker has opened it too, and each sample goes to the worker with least to do; raw texts, which share what they
begin with, go out in stretches. Answers do not depend on the company they are computed in (a deterministic engine), so the records
are those of one process, times excepted.

What weight levers make is made once, by the first worker, and read by the others where they share the run's directory; elsewhere
each machine makes its own. Arms that come out different on two workers are refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
import socket
import urllib.parse
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, Conversation, Event, Score
from steelyard.core.recipe import Arm
from steelyard.core.recipe_parts import EndpointSource, Where
from steelyard.core.run import Run
from steelyard.weigh.asking import roster
from steelyard.weigh.asking.answering import GoneError, answer_one, reason_of
from steelyard.weigh.asking.arms import ArmOpener, OpenArm
from steelyard.weigh.tasks.task import Output, Sample, Task

PATIENCE = 5.0  # seconds for a cluster to accept a connection
LOCAL = 2  # processors of a worker, where nothing says otherwise


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UnsupportedError("`run: {ray: ...}` needs Ray", do="Run `pip install 'steelyard[ray]'`, or leave `run` out.") from None


class Worker:
    """What runs in a worker's process: one arm at a time, opened as anywhere.

    Args:
        directory: the run's, shared or not.
        seed: the recipe's.
        threads: processors it may use.
    """

    def __init__(self, directory: str, seed: int, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.opener = ArmOpener(Run(Path(directory), seed))
        self.arm: OpenArm | None = None

    def open(self, arm: Arm, seed: int | None) -> dict[str, Any]:
        """Opens an arm in place of the last one; tells what it is, or why it cannot be had (`error`, `do`)."""
        self.shut()
        try:
            self.arm = self.opener.open(arm, seed)
        except SteelyardError as error:
            return {"error": [error.what, error.where, error.do]}
        return roster.described(self.arm)

    def foreign(self, task: Task, seed: int) -> str | None:
        """See `calibrate.foreign`."""
        from steelyard.weigh.asking.calibrate import foreign

        assert self.arm is not None
        return foreign(self.arm.answerer, task, seed)

    async def answer(self, sample: Sample, seed: int, trial: int) -> Output:
        """One sample put to the arm."""
        assert self.arm is not None
        return await answer_one(self.arm, sample, seed, trial)

    async def read(self, pairs: Sequence[tuple[str, str]], how: dict[str, Any]) -> list[Score] | str:
        """Scores of raw texts, or why there are none."""
        assert self.arm is not None and self.arm.read is not None
        return await self._told(self.arm.read, pairs, how)

    async def roll(self, texts: Sequence[str]) -> list[Score] | str:
        """Scores of raw texts of any length, or why there are none."""
        assert self.arm is not None and self.arm.roll is not None
        return await self._told(self.arm.roll, texts, {})

    async def _told(self, scores: Callable[..., list[Score]], texts: Sequence[Any], how: dict[str, Any]) -> list[Score] | str:
        try:
            return await asyncio.to_thread(scores, texts, **how)
        except Exception as error:  # as in `answering`: told as the reason of a failure
            return reason_of(error)

    def shut(self) -> None:
        """Lets go of the arm."""
        if self.arm is not None:
            self.arm.close()
            self.arm = None


@dataclasses.dataclass(frozen=True)
class _Spread:
    """Stands for the answerer that every worker has; samples go to them by `OpenArm.ask`."""

    fingerprint: str
    capabilities: frozenset[str]
    first: Any
    ray: Any

    def answer(self, conversation: Conversation, settings: AnswerSettings) -> AsyncIterator[Event]:
        raise UnsupportedError("an arm on Ray answers samples, one by one")

    async def score(self, conversation: Conversation, continuations: Sequence[str]) -> list[Score]:
        raise UnsupportedError("an arm on Ray answers samples, one by one")

    def foreign(self, task: Task, seed: int) -> str | None:
        """Why what the arm was calibrated on promises nothing here."""
        return self.ray.get(self.first.foreign.remote(task, seed))


class RayOpener:
    """Opens arms on Ray's workers. Satisfies `arms.Opener`.

    Args:
        run: of the weighing.
        where: the recipe's `run`.

    Raises:
        SteelyardError: Ray is not installed, or its cluster cannot be reached or has no room.
    """

    def __init__(self, run: Run, where: Where):
        self.run, self.ray = run, _ray()
        self.here = ArmOpener(run)  # finds what arms name before anything starts; opens nothing
        self.mine = self._join(where)
        try:
            self.workers = self._started(where)
        except BaseException:
            self._leave()
            raise

    def _join(self, where: Where) -> bool:
        """Joins the cluster that is meant; whether it was started for this run alone."""
        if self.ray.is_initialized():
            return False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if where.ray != "auto":
            _see(str(where.ray))
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            self.ray.init(address="auto" if where.ray == "auto" else where.ray, **quiet)
            return True
        except ConnectionError as error:
            if where.ray != "auto":
                raise SteelyardError(
                    f"no Ray cluster answers: {_short(error)}", where=f"run.ray: {where.ray}", do="See `ray status`."
                ) from error
        self.run.say("Starting Ray on this machine.")
        self.ray.init(include_dashboard=False, **({"num_cpus": where.workers * (where.threads or 1)} if where.workers else {}), **quiet)
        return True

    def _started(self, where: Where) -> list[Any]:
        cores = int(self.ray.cluster_resources().get("CPU", 1))
        threads = where.threads or (max(cores // where.workers, 1) if where.workers else min(LOCAL, cores))
        count = where.workers or max(cores // threads, 1)
        if count * threads > cores:
            do = "Ask for fewer `workers` or `threads`, or add machines."
            raise SteelyardError(f"{count} workers of {threads} processors, and the cluster has {cores}", where="run", do=do)
        made = self.ray.remote(Worker).options(num_cpus=threads, max_concurrency=64)
        self.run.say(f"Asking {count} workers of {threads} processors each, on Ray.")
        return [made.remote(str(self.run.directory.resolve()), self.run.seed, threads) for _ in range(count)]

    def find(self, arm: Arm) -> None:
        """Sees that the models and documents an arm names are there.

        Raises:
            SteelyardError: they are not; or the arm is an endpoint with a cap, whose account one process keeps.
        """
        if isinstance(arm.source, EndpointSource) and arm.source.spend is not None:
            raise SteelyardError("`spend` and `run: {ray: ...}` do not go together", where=f"arm `{arm.name}`", do="Leave `run` out.")
        self.here.find(arm)

    def open(self, arm: Arm, seed: int | None = None, *, deterministic: bool = True) -> OpenArm:
        """The arm, opened by every worker: by the first alone, so that what has to be made is made once, then by the others.

        Raises:
            SteelyardError: a worker cannot have it, it is not the same everywhere, or a worker died.
        """
        first, *others = self.workers
        told = [*self._heard([first.open.remote(arm, seed)]), *self._heard([worker.open.remote(arm, seed) for worker in others])]
        for one in told:
            if "error" in one:
                what, where, do = one["error"]
                raise SteelyardError(what, where=where, do=do)
        for what in ("fingerprint", "read_fingerprint"):
            if len(found := {str(one[what]): str(one["kernels"]) for one in told}) > 1:
                listed = "; ".join(f"{name} ({kernels})" for name, kernels in found.items())
                do = "Use machines of one kind, with the same versions and data; answers of different arms do not mix."
                raise SteelyardError(f"it is not the same on all workers: {listed}", where=f"arm `{arm.name}`", do=do)
        opened = roster.as_it_was(arm.name, told[0])
        opened.answerer = _Spread(opened.fingerprint, opened.answerer.capabilities, first, self.ray)
        opened.slots = opened.slots * len(self.workers)
        opened.ask = self._asks()
        opened.read = self._reads("read") if told[0]["reads"] else None
        opened.roll = self._reads("roll") if told[0]["rolls"] else None
        opened.closing = lambda: self._shut()
        return opened

    def _heard(self, calls: Sequence[Any]) -> list[Any]:
        try:
            return self.ray.get(list(calls))
        except self.ray.exceptions.RayError as error:
            raise _gone(error) from error

    def _asks(self) -> Callable[[Sample, int, int], Any]:
        busy = dict.fromkeys(range(len(self.workers)), 0)

        async def ask(sample: Sample, seed: int, trial: int) -> Output:
            place = min(busy, key=lambda each: busy[each])
            busy[place] += 1
            try:
                return await self.workers[place].answer.remote(sample, seed, trial)
            except self.ray.exceptions.RayError as error:
                raise _gone(error) from error
            finally:
                busy[place] -= 1

        return ask

    def _reads(self, method: str) -> Callable[..., list[Score]]:
        def read(texts: Sequence[Any], **how: Any) -> list[Score]:
            size = -(-len(texts) // len(self.workers))
            parts = [texts[begin : begin + size] for begin in range(0, len(texts), max(size, 1))]
            rest = (how,) if method == "read" else ()
            calls = [getattr(worker, method).remote(list(part), *rest) for worker, part in zip(self.workers, parts, strict=False)]
            found: list[Score] = []
            for heard in self._heard(calls):
                if isinstance(heard, str):
                    raise SteelyardError(heard)
                found += heard
            return found

        return read

    def _shut(self) -> None:
        try:
            self.ray.get([worker.shut.remote() for worker in self.workers])
        except self.ray.exceptions.RayError as error:  # a worker that is gone holds no arm; the next question to it fails
            self.run.log(f"a worker failed: {_short(error)}")

    def _leave(self) -> None:
        if self.mine:
            self.ray.shutdown()

    def close(self) -> None:
        """Ends the workers, and Ray where it was started for this run."""
        self.here.close()
        for worker in self.workers:
            self.ray.kill(worker)
        self.workers = []
        self._leave()


def _see(address: str) -> None:
    """Sees that somebody listens at a cluster's address: Ray itself would wait for minutes.

    Raises:
        SteelyardError: nobody does, or it is no address.
    """
    place = urllib.parse.urlsplit(address if "://" in address else f"ray-gcs://{address}")
    try:
        if place.hostname is None or place.port is None:
            raise ValueError("expected HOST:PORT")
        socket.create_connection((place.hostname, place.port), PATIENCE).close()
    except (OSError, ValueError) as error:
        do = "See that it runs (`ray status`), or write `ray: auto` for one of this machine's own."
        raise SteelyardError(f"no Ray cluster answers: {error}", where=f"run.ray: {address}", do=do) from error


def _gone(error: Exception) -> GoneError:
    do = "See `ray status`, then run the same command again: what was recorded stays."
    return GoneError(f"a worker failed: {_short(error)}", where="Ray", do=do)


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
