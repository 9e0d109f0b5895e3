"""Opens the index of a corpus, folder or file by name; what is not indexed yet is indexed once.

Indexes are kept under the home folder, each in a file named after the content of its sources and the way they are cut. So a source
that changed gets an index of its own, and one that did not is opened in milliseconds (reading the sources' digest aside).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from steelyard.augment.retrieve.building import build, fingerprint_of
from steelyard.augment.retrieve.documents import SUFFIXES, files_of
from steelyard.augment.retrieve.index import PassageIndex, is_index
from steelyard.core.errors import DataError, SteelyardError, nearest
from steelyard.core.files import writing
from steelyard.core.get import KNOWN, home, locate
from steelyard.data import encyclopedia

Say = Callable[[str], None]
CORPORA = tuple(name for name, package in KNOWN.items() if package.kind == "corpus")


def open_index(name: str | Path, say: Say = lambda line: None) -> PassageIndex:
    """The index that a name stands for, built before if need be.

    Args:
        name: a corpus got before or known (`encyclopedia`), a folder, a document, or an index file that `building.build` wrote.
        say: receives lines for a person: what is downloaded, built, or damaged and built again.

    Raises:
        DataError: there is nothing of that name, nothing in it to read, or something in it that cannot be read.
        DownloadError: a known corpus could not be fetched.
    """
    source = documents_of(str(name), say)
    place = index_file(source)
    if place == source:
        return PassageIndex(place)
    with writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        try:
            return PassageIndex(place)
        except DataError as error:
            say(f"The index of {name} is damaged ({error.what}); building it again.")
            with writing(place):
                place.unlink(missing_ok=True)
    return PassageIndex(build(source, place, say=say))


def index_file(source: Path) -> Path:
    """Where the index of documents lies, or would once it is built; documents that are an index already are it themselves."""
    if is_index(source):
        return source
    files, _ = files_of(source)
    return home() / "indexes" / f"{fingerprint_of(files, source)}.sqlite"


def documents_of(name: str, say: Say = lambda line: None) -> Path:
    """What is to be indexed under a name; nothing is read or built yet. Of the encyclopedia that is its English articles.

    Raises:
        DataError, DownloadError: as for `open_index`.
    """
    if name == "encyclopedia":
        return encyclopedia.find(locate(name, say))
    if name in CORPORA or name.startswith("hf:"):
        return locate(name, say)
    path = Path(name).expanduser()
    if path.is_dir() or is_index(path) or (path.is_file() and path.suffix.lower() in SUFFIXES):
        return path
    if path.exists():
        raise DataError("neither a folder, nor a document, nor an index", where=name, do=f"Documents are {', '.join(SUFFIXES)}.")
    if name in KNOWN:
        raise SteelyardError(f"`{name}` is a model, not documents", where="documents", do=f"Known: {', '.join(CORPORA)}.")
    raise DataError(
        f"there are no documents called `{name}`", do=f"{nearest(name, CORPORA)} Or name a folder, a document or an index file."
    )
