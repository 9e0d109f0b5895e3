"""Where got packages are kept, so that what looks complete is complete, whatever was killed or ran beside it.

A package is one folder, `got/NAME`, with `files/` and `stamp.json`. It is filled under another name, written through to
the disk and then renamed, so a reader sees all of it or nothing. Getting happens under a file lock; reading needs none.
The stamp holds each file's size and time of change: `locate` compares these and reads no bytes, `verify` reads them all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steelyard.core.errors import DownloadError, SteelyardError
from steelyard.core.files import write_json
from steelyard.core.fingerprint import file_digest
from steelyard.core.get_known import KnownPackage, PinnedFile
from steelyard.core.locks import lock

FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

State = Literal["absent", "intact", "damaged"]


def home() -> Path:
    """Steelyard's folder: STEELYARD_HOME, or `steelyard` in the platform's cache folder (XDG_CACHE_HOME is honoured)."""
    if chosen := os.environ.get("STEELYARD_HOME"):
        return Path(chosen).expanduser().absolute()
    if (cache := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():  # the XDG specification ignores relative paths
        return cache / "steelyard"
    try:
        user = Path.home()
    except RuntimeError as error:
        raise SteelyardError("this user has no home folder", do="Set STEELYARD_HOME to a folder you can write to.") from error
    if sys.platform == "darwin":
        return user / "Library" / "Caches" / "steelyard"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or user / "AppData" / "Local") / "steelyard" / "Cache"
    return user / ".cache" / "steelyard"


@dataclass(frozen=True)
class Store:
    """One package's place under `home()`."""

    package: KnownPackage
    root: Path

    @classmethod
    def of(cls, package: KnownPackage) -> Store:
        return cls(package, home() / "got")

    @property
    def folder(self) -> Path:
        """The finished package; exists only when complete."""
        return self.root / self.package.name

    @property
    def work(self) -> Path:
        """What an unfinished get leaves behind; touched only under the lock."""
        return self.root / f".{self.package.name}.work"

    @property
    def entry(self) -> Path:
        """What `locate` gives: a file or the folder of files."""
        files = self.folder / "files"
        return files / self.package.entry if self.package.entry else files

    def state(self) -> State:
        """Whether the package is there, by sizes and times of change; bytes are read only where those differ from the stamp's."""
        if not self.folder.exists():
            return "absent"
        stamp = _read_stamp(self.folder / "stamp.json")
        if stamp is None:
            return "damaged"
        doubtful = []
        for pinned in self.package.files:
            noted = stamp.get(pinned.path)
            now = _noted(self.folder / "files" / pinned.path, pinned.sha256)
            if now is None or now["size"] != pinned.size:
                return "damaged"
            if noted != now:
                doubtful.append(pinned)
        if doubtful and self.problems(doubtful):
            return "damaged"
        if doubtful:
            with contextlib.suppress(OSError):  # a shared cache may be read-only: the bytes were right, which is all that matters
                self.write_stamp(self.folder)
        return "intact"

    def problems(self, files: list[PinnedFile] | None = None) -> list[str]:
        """Reads every byte (of some of the files, or all): one line per file that is not what was pinned."""
        found = []
        for pinned in self.package.files if files is None else files:
            path = self.folder / "files" / pinned.path
            try:
                digest = file_digest(path)
            except OSError as error:
                found.append(f"{pinned.path} cannot be read ({error.strerror})")
                continue
            if digest != pinned.sha256:
                found.append(f"{pinned.path} has SHA-256 {digest[:16]}..., pinned is {pinned.sha256[:16]}...")
        return found

    def distrust(self) -> None:
        """Forgets that the package is complete, so the next `get` fetches it again."""
        with self.writing():
            (self.folder / "stamp.json").unlink(missing_ok=True)

    def write_stamp(self, folder: Path) -> None:
        """Notes sizes and times of change of the files under `folder`, which must be complete."""
        notes = {pinned.path: _noted(folder / "files" / pinned.path, pinned.sha256) for pinned in self.package.files}
        write_json(folder / "stamp.json", {"requirement": self.package.requirement, "files": notes})

    def put_in_place(self, new: Path) -> None:
        """Renames a complete folder into place; a damaged one that stands there goes first."""
        self.write_stamp(new)
        for folder in sorted({path.parent for path in new.rglob("*")} | {new}):
            _sync(folder)
        if self.folder.exists():
            old = self.work / "damaged"
            shutil.rmtree(old, ignore_errors=True)
            os.rename(self.folder, old)
        os.rename(new, self.folder)
        _sync(self.root)

    def tidy(self) -> None:
        """Removes what a process left that was killed after its work was done; leaves it to one that is still at work."""
        if not self.work.exists():
            return
        with contextlib.suppress(OSError):  # only tidying: a cache that cannot be written may keep it
            handle = os.open(self._lock_file, os.O_RDWR)
            try:
                if lock(handle, wait=False):
                    shutil.rmtree(self.work, ignore_errors=True)
            finally:
                os.close(handle)

    @property
    def _lock_file(self) -> Path:
        return self.root / f".{self.package.name}.lock"

    def check_space(self, needed: int) -> None:
        """Refuses to begin what cannot fit."""
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise DownloadError(
                f"getting {self.package.name} needs {needed / 1e6:.0f} MB of disk, and {free / 1e6:.0f} MB are free",
                where=str(self.root),
                do="Free some space, or set STEELYARD_HOME to a folder on another disk.",
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what a disk can say no with into errors that say what to do."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise DownloadError(
                    f"the disk is full, so {self.package.name} could not be kept",
                    where=str(self.root),
                    do="Free some space, or set STEELYARD_HOME to a folder on another disk; nothing half-written was left.",
                ) from error
            if error.errno in UNWRITABLE:
                raise DownloadError(
                    f"the folder for downloads cannot be written ({error.strerror})",
                    where=str(error.filename or self.root),
                    do="Set STEELYARD_HOME to a folder you can write to.",
                ) from error
            raise

    @contextlib.contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[int]:
        """Holds the package's lock; yields its file descriptor, which a child process may inherit to keep holding it.

        Waits for another process that is getting the same package. The system lets go of the lock when a process dies.
        """
        with self.writing():
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not lock(handle, wait=False):
                say(f"Another process is getting {self.package.name}; waiting for it.")
                lock(handle, wait=True)
            yield handle
        finally:
            os.close(handle)


def _read_stamp(path: Path) -> dict[str, Any] | None:
    try:
        files = json.loads(path.read_text(encoding="utf-8")).get("files")
    except (OSError, ValueError, AttributeError):
        return None  # an unreadable stamp is no stamp: the caller fetches again
    return files if isinstance(files, dict) else None


def _noted(path: Path, sha256: str) -> dict[str, Any] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return {"sha256": sha256, "size": status.st_size, "modified_ns": status.st_mtime_ns} if path.is_file() else None


def _sync(folder: Path) -> None:
    """Writes a folder's entries through to the disk, where the system lets folders be opened."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
