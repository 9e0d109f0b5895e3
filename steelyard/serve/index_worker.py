"""A process that builds one index: `python -m steelyard.serve.index_worker`, started by `indexing.py` and by nobody else.

Standard input brings a line of JSON (where to, how much memory) and then one line for each document; standard output tells each that is
in, and at the end how many passages there are or what is wrong. Killed at any moment it leaves the index that was there as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.augment.retrieve.building import Source, build_from
from steelyard.augment.retrieve.uploaded import documents_in
from steelyard.core.errors import SteelyardError
from steelyard.data.documents.sections import Section


def sources() -> Iterator[Source]:
    """Each document's name and what is in it, as the lines come."""
    for line in sys.stdin.buffer:
        name, sections = json.loads(line)
        yield name, partial(documents_in, name, [Section(*section) for section in sections])


def main() -> None:
    """Builds one index."""
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**said: Any) -> None:
        reply.write(json.dumps(said) + "\n")
        reply.flush()

    asked = json.loads(sys.stdin.buffer.readline())
    with contextlib.suppress(ModuleNotFoundError, ValueError, OSError):  # a system that knows no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (asked["memory_bytes"], asked["memory_bytes"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    destination = Path(asked["destination"])
    try:
        total = build_from(
            sources(),
            destination,
            asked["fingerprint"],
            where="documents",
            tolerate=True,
            told=lambda name, passages: tell(name=name, passages=passages),
        )
        tell(total=total)
    except SteelyardError as error:
        tell(reason=" ".join(f"{error.what}. {error.do or ''}".split()))
    except OSError as error:
        tell(reason=f"the index cannot be written: {error.strerror}")
    except MemoryError:
        tell(reason="it needs more memory than is allowed")


if __name__ == "__main__":
    main()
