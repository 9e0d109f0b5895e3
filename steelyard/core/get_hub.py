"""Snapshots from the Hugging Face Hub: weights, config, tokenizer and template, never pickles or code.

They live in the Hub's own cache (HF_HOME), so what other tools downloaded is not downloaded again, and HF_HUB_OFFLINE
works. `huggingface_hub` itself resumes, locks and renames. Import this file lazily: the library is an optional extra.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from steelyard.core.errors import DownloadError, SteelyardError
from steelyard.core.fingerprint import file_digest

try:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub import errors as hub_errors
except ImportError as error:
    raise DownloadError(
        "hf:... needs the package huggingface_hub, which is not installed", do='Install the extra: pip install "steelyard[hub]"'
    ) from error

NAME = re.compile(r"hf:(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:/(?P<file>[^@]+\.gguf))?(?:@(?P<revision>[\w./-]+))?")
KEPT = {".safetensors", ".json", ".jinja", ".txt", ".model"}
PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
# The HTTP library's own base error: which library that is has changed between versions of huggingface_hub.
HTTP_ERROR: type[Exception] = hub_errors.HfHubHTTPError.__bases__[0]  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class HubName:
    """A parsed `hf:` name; `file` is a .gguf file inside the repository, or None."""

    repo: str
    file: str | None
    revision: str | None


def parse(name: str) -> HubName:
    """Reads `hf:org/name[/file.gguf][@revision]`.

    Raises:
        SteelyardError: it has another form.
    """
    match = NAME.fullmatch(name)
    if match is None or ".." in name:
        raise SteelyardError(f"`{name}` is not a name on the Hub", do="Write hf:org/name, hf:org/name@revision or hf:org/name/file.gguf.")
    return HubName(match["repo"], match["file"], match["revision"])


def wanted(files: Sequence[str], chosen: str | None = None) -> list[str]:
    """Which of a repository's files to fetch: everything a model directory needs, or one GGUF file.

    Raises:
        DownloadError: no safetensors and no GGUF, or several GGUF files to choose from.
    """
    if chosen is not None:
        if chosen not in files:
            raise DownloadError(f"there is no {chosen} in it", do=_choices(files) or "It holds no .gguf file.")
        return [chosen]
    top = [file for file in files if "/" not in file and PurePosixPath(file).suffix in KEPT and not file.startswith("consolidated")]
    if any(file.endswith(".safetensors") for file in top):
        nested = [f for f in files if "/" in f and (re.fullmatch(r"\d+_\w+/config\.json", f) or f.startswith("additional_chat_templates/"))]
        return top + [file for file in nested if PurePosixPath(file).suffix in KEPT]
    weights = [file for file in files if file.endswith(".gguf")]
    if len(weights) == 1:
        return weights
    if weights:
        raise DownloadError(f"it holds {len(weights)} GGUF files", do=_choices(files))
    if any(PurePosixPath(file).suffix in PICKLES for file in files):
        raise DownloadError(
            "its weights are pickles, which can run code and are never loaded", do="Choose a repository or revision with safetensors."
        )
    raise DownloadError("it holds no weights (neither safetensors nor GGUF)", do="Choose another repository or revision.")


def _choices(files: Sequence[str]) -> str:
    found = [file for file in files if file.endswith(".gguf")]
    return f"Name one: hf:org/name/{found[0]}; it has {', '.join(found[:20])}{', ...' if len(found) > 20 else ''}" if found else ""


def snapshot(name: str, say: Callable[[str], None]) -> Path:
    """Fetches (or finds in the cache) a snapshot; gives its directory, or the path of its only weights if they are one GGUF file.

    Without a network, what the cache has is used.

    Raises:
        DownloadError: with what to do about it.
    """
    hub = parse(name)
    try:
        info = huggingface_hub.HfApi().model_info(hub.repo, revision=hub.revision)
        files = wanted([sibling.rfilename for sibling in info.siblings or []], hub.file)
        say(f"Getting {name} from the Hugging Face Hub (what is in its cache already is not downloaded again).")
        patterns = [glob.escape(file) for file in files]
        folder = Path(huggingface_hub.snapshot_download(hub.repo, revision=hub.revision, allow_patterns=patterns))
    except SteelyardError as error:
        raise error.at(name) from None
    except (HTTP_ERROR, hub_errors.HFValidationError, OSError) as error:
        if not _unreachable(error):
            raise _explained(error, name) from error
        folder, files = _from_cache(hub, name, error)
    only = [file for file in files if file.endswith(".gguf")]
    return folder / only[0] if only else folder


def _unreachable(error: Exception) -> bool:
    """Whether the Hub could not be asked at all, as opposed to having answered no."""
    answered = isinstance(error, hub_errors.HfHubHTTPError)
    return not answered and isinstance(error, (HTTP_ERROR, ConnectionError, TimeoutError, hub_errors.LocalEntryNotFoundError))


def _cached(hub: HubName) -> Path | None:
    """The snapshot's folder in the Hub's cache, by the cache's documented layout.

    Not `snapshot_download(local_files_only=True)`: newer versions call a snapshot without its pickles and code incomplete.
    """
    root = Path(constants.HF_HUB_CACHE) / f"models--{hub.repo.replace('/', '--')}"
    revision = hub.revision or "main"
    reference = root / "refs" / revision
    folder = root / "snapshots" / (reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision)
    return folder if folder.is_dir() else None


def _from_cache(hub: HubName, name: str, cause: Exception) -> tuple[Path, list[str]]:
    """The snapshot as it is in the cache, when the Hub cannot be asked."""
    folder = _cached(hub)
    if folder is None:
        raise _explained(cause, name) from cause
    present = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    try:
        return folder, wanted(present, hub.file)
    except DownloadError as error:
        raise DownloadError(
            f"the cached snapshot is not usable: {error.what}", where=name, do=f"Get it again with a network. {error.do or ''}".strip()
        ) from error


def _explained(error: Exception, name: str) -> DownloadError:
    """The Hub's failure in our words."""
    remedies: list[tuple[Any, str, str]] = [
        (hub_errors.GatedRepoError, "its owner wants terms accepted first", "Accept them on its page, then run `hf auth login`."),
        (hub_errors.RevisionNotFoundError, "no such revision", "Check what comes after the @."),
        (
            hub_errors.RepositoryNotFoundError,
            "no such repository, or it is private",
            "Check the name; for a private one run `hf auth login`.",
        ),
        (hub_errors.HFValidationError, "not a valid repository name", "Write hf:org/name."),
        (
            hub_errors.OfflineModeIsEnabled,
            "HF_HUB_OFFLINE is set, and it is not in the Hub's cache",
            "Unset HF_HUB_OFFLINE, or get it first.",
        ),
    ]
    for kind, what, do in remedies:
        if isinstance(error, kind):
            return DownloadError(what, where=name, do=do)
    if _unreachable(error):
        return DownloadError(
            "the Hub cannot be reached, and it is not in the Hub's cache",
            where=name,
            do="Check the network (HTTPS_PROXY, HF_ENDPOINT), or download it elsewhere and give the directory.",
        )
    detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DownloadError(f"could not be downloaded: {detail}", where=name, do="Check the network, the disk (HF_HOME) and the Hub's status.")


def verify_snapshot(name: str) -> Path:
    """Compares a cached snapshot's large files with the SHA-256 the Hub names them by.

    Raises:
        DownloadError: not in the cache, or damaged.
    """
    hub = parse(name)
    folder = _cached(hub)
    if folder is None:
        raise DownloadError("it is not in the Hub's cache", where=name, do=f"Run `steelyard get {name}`.")
    for path in sorted(folder.rglob("*")):
        blob = path.resolve()
        if path.is_file() and re.fullmatch("[0-9a-f]{64}", blob.name) and file_digest(blob) != blob.name:
            raise DownloadError(f"{path.relative_to(folder)} does not have its SHA-256", where=name, do=f"Delete {blob} and get it again.")
    return folder / hub.file if hub.file else folder
