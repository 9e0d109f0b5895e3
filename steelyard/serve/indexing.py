"""Builds the indexes of people's documents, each in a process of its own, so that answers go on meanwhile.

Documents are read first (`reading.py`), then cut into passages and indexed. A new index is a new file that takes the old one's place
when it is whole; what is killed, fails or finds the disk full leaves the old one as it was. A change of the documents while they are
being indexed begins again with what is there now.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastapi.concurrency import run_in_threadpool

from steelyard.augment.retrieve.building import FORMAT, TOKENIZER
from steelyard.augment.retrieve.passages import PASSAGE_TOKENS
from steelyard.core.errors import SteelyardError
from steelyard.core.fingerprint import digest
from steelyard.data.documents.reading import VERSION
from steelyard.data.documents.sections import Section
from steelyard.serve.reading import Readers
from steelyard.serve.settings import ServeSettings
from steelyard.serve.store.errors import NotFoundError
from steelyard.serve.store.indexes import Source

if TYPE_CHECKING:
    from steelyard.serve.engine_process import EngineProcess
    from steelyard.serve.store.store import Store

logger = logging.getLogger(__name__)

AT_ONCE = 1
"""Indexes that are built at once."""
MEMORY = 4 * 2**30
"""Bytes of address space of a process that builds one."""
LINE = 2**20
"""Bytes of a line it says."""
State = Literal["waiting", "reading", "indexing"]


@dataclass
class Progress:
    """How far an index is.

    Attributes:
        state: waiting for its turn, reading documents, indexing them.
        done, total: documents.
        document: the one that was done last.
        passages: so far.
    """

    state: State = "waiting"
    done: int = 0
    total: int = 0
    document: str = ""
    passages: int = 0


@dataclass
class _Work:
    """The building of one index."""

    owner: str
    progress: Progress = field(default_factory=Progress)
    task: asyncio.Task[None] | None = None
    changed: bool = False


def index_folder(settings: ServeSettings, store: Store) -> Path:
    """Where index files lie: beside the file of conversations, or in the server's own folder where a database server holds those."""
    return (Path(store.database.where).parent if store.database.lite else settings.data) / "indexes"


def key_of(id: str) -> str:
    """What the engine knows a person's index by. No name that `--documents` takes begins so."""
    return f"index:{id}"


class Indexing:
    """Builds indexes and tells the engine of them. It belongs to the server's event loop.

    Args:
        store: where the documents are.
        engine: what searches the indexes.
        readers: read the documents.
        folder: where index files lie.
    """

    def __init__(self, store: Store, engine: EngineProcess, readers: Readers, folder: Path):
        self.store, self.engine, self.readers, self.folder = store, engine, readers, folder
        self._works: dict[str, _Work] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._registered: dict[str, str] = {}

    async def start(self) -> None:
        """Registers what was built before, removes files nobody knows, and goes on with what a killed server left undone."""
        known = await run_in_threadpool(self.store.indexes.everybodys)
        files = {built for _, _, built, _ in known if built}
        await run_in_threadpool(self._sweep, files)
        for owner, id, built, error in known:
            sources = await run_in_threadpool(self.store.indexes.sources, owner, id)
            if built and self._file(built).is_file():
                self._registered[key_of(id)] = str(self._file(built))
            if error is None and (_named(id, sources) != built or built and not self._file(built).is_file()):
                self.build(owner, id)
        self.engine.register(self._registered)

    async def close(self) -> None:
        """Ends what is under way; the next start goes on with it."""
        tasks = [work.task for work in self._works.values() if work.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def build(self, owner: str, id: str) -> None:
        """Sees that an index is built of the documents that are in it now."""
        work = self._works.get(id)
        if work is not None:
            if work.task is not None and work.progress.state != "waiting":  # else it has not looked at the documents yet
                work.changed = True
                work.task.cancel()
            return
        work = self._works[id] = _Work(owner)
        work.task = asyncio.get_running_loop().create_task(self._keep_building(id, work))

    async def drop(self, id: str) -> None:
        """Ends the building of an index that was deleted, and removes its files."""
        if (work := self._works.get(id)) is not None and work.task is not None:
            work.changed = False
            work.task.cancel()
            await asyncio.gather(work.task, return_exceptions=True)
            self._works.pop(id, None)
        if self._registered.pop(key_of(id), None) is not None:
            self.engine.register(self._registered)
        await run_in_threadpool(self._remove, id)

    def progress(self, id: str) -> Progress | None:
        """How far the building of an index is; None where none is under way."""
        work = self._works.get(id)
        return None if work is None else work.progress

    # The work

    async def _keep_building(self, id: str, work: _Work) -> None:
        """Builds until the documents stayed the same."""
        while True:
            work.changed, work.progress = False, Progress()
            try:
                async with self._turns:
                    await self._build(id, work)
                break
            except asyncio.CancelledError:
                if not work.changed:
                    self._works.pop(id, None)
                    raise
                asyncio.current_task().uncancel()  # type: ignore[union-attr]
            except NotFoundError:  # deleted meanwhile
                break
            except SteelyardError as error:
                await self._fail(id, work, error)
                break
            except Exception:  # our own mistake: whoever waits for the index is told, and the others' indexes go on
                logger.exception("an index could not be built")
                await self._fail(id, work, SteelyardError("indexing failed; the server's log says more"))
                break
        self._works.pop(id, None)

    async def _fail(self, id: str, work: _Work, error: SteelyardError) -> None:
        with contextlib.suppress(SteelyardError):  # a full disk may refuse this too; then only the old error stays
            await run_in_threadpool(self.store.indexes.fail, work.owner, id, " ".join(error.what.split()))

    async def _build(self, id: str, work: _Work) -> None:
        work.progress.state = "reading"
        sources = await run_in_threadpool(self.store.indexes.sources, work.owner, id)
        work.progress.total = len(sources)
        readable, errors = await self._read(work, sources)
        name, passages = _named(id, sources) if readable else None, {}
        if name is not None:
            passages = await self._index(name, work, readable)
            errors |= {source: "there is no text in it to index" for source, count in passages.items() if not count}
        before = await run_in_threadpool(self.store.indexes.finish, work.owner, id, name, passages, errors)
        if name is None:
            self._registered.pop(key_of(id), None)
        else:
            self._registered[key_of(id)] = str(self._file(name))
        self.engine.register(self._registered)
        if before:
            await run_in_threadpool(self._file(before).unlink, True)

    async def _read(self, work: _Work, sources: list[Source]) -> tuple[list[Source], dict[str, str]]:
        """Sees that documents are read: those that have text, and why others have none. No text is held here: there may be much."""
        readable: list[Source] = []
        errors: dict[str, str] = {}
        for number, source in enumerate(sources):
            work.progress.done, work.progress.document = number, source.name
            attached = await run_in_threadpool(self.store.attachments.read, work.owner, source.attachment)
            reading = attached.reading
            if (what := attached.needs) is not None:
                reading = await self.readers.read(what, attached.content, source.name)
                await run_in_threadpool(self.store.readings.keep, attached.sha256, reading)
            if reading is not None and reading.reason is not None:
                errors[source.name] = reading.reason
            else:
                readable.append(source)
        return readable, errors

    async def _index(self, name: str, work: _Work, sources: list[Source]) -> dict[str, int]:
        """Passages of each document, once all are indexed.

        Raises:
            SteelyardError: why they are not.
        """
        progress = work.progress
        progress.state, progress.done, progress.total = "indexing", 0, len(sources)
        await run_in_threadpool(self.folder.mkdir, 0o700, True, True)
        header = {"destination": str(self._file(name)), "fingerprint": name, "memory_bytes": MEMORY}
        counts: dict[str, int] = {}
        async with _process() as process:
            feeding = asyncio.create_task(self._feed(process, header, work.owner, sources))
            try:
                total, reason = None, None
                async for said in _said(process):
                    if "name" in said:
                        counts[said["name"]] = said["passages"]
                        progress.done, progress.document = len(counts), said["name"]
                        progress.passages += said["passages"]
                    total, reason = said.get("total", total), said.get("reason", reason)
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
            await process.wait()
        if total is None:
            await run_in_threadpool(self._file(name + ".part").unlink, True)
            raise SteelyardError(reason or "the process that indexed was killed", where="documents", do="Index them again.")
        return counts

    async def _feed(self, process: asyncio.subprocess.Process, header: Mapping[str, Any], owner: str, sources: list[Source]) -> None:
        """Hands the documents over one after the other; one that cannot be had ends the process, whose answer is then missing."""
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(header).encode() + b"\n")
            for source in sources:
                line = await run_in_threadpool(self._line, owner, source)
                process.stdin.write(line)
                await process.stdin.drain()
            process.stdin.close()
        except ConnectionError:  # it has ended, and says why
            return
        except SteelyardError:
            process.kill()

    def _line(self, owner: str, source: Source) -> bytes:
        attached = self.store.attachments.read(owner, source.attachment)
        sections = (Section("", attached.content.decode("utf-8-sig")),) if attached.reading is None else attached.reading.sections
        return json.dumps([source.name, [[section.title, section.text] for section in sections]]).encode() + b"\n"

    # Files

    def _file(self, built: str) -> Path:
        return self.folder / f"{built}.sqlite" if not built.endswith(".part") else self.folder / f"{built[:-5]}.sqlite.part"

    def _remove(self, id: str) -> None:
        for path in self.folder.glob(f"{id}-*"):
            path.unlink(missing_ok=True)

    def _sweep(self, known: set[str]) -> None:
        """Removes files of indexes that were replaced or deleted while the server went down, and unfinished ones."""
        for path in self.folder.glob("*.sqlite*") if self.folder.is_dir() else ():
            if path.name.removesuffix(".sqlite") not in known:
                path.unlink(missing_ok=True)


def _named(id: str, sources: list[Source]) -> str | None:
    """The name of an index's file: its id and a digest over all that is in it and how it is cut. None for one without documents."""
    if not sources:
        return None
    content = [[source.name, source.sha256] for source in sources]
    return f"{id}-{digest([FORMAT, TOKENIZER, PASSAGE_TOKENS, VERSION, content])[:32]}"


@contextlib.asynccontextmanager
async def _process() -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that builds an index; it ends with the block."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-P", "-m", "steelyard.serve.index_worker")
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, limit=LINE)
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())


async def _said(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    async for line in process.stdout:
        yield json.loads(line)
