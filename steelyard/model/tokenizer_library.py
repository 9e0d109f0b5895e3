"""Failures of the `tokenizers` library as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from steelyard.core.errors import ModelFileError


@contextlib.contextmanager
def library(where: str, *also: type[Exception]) -> Iterator[None]:
    """Turns a failure inside `tokenizers` into one of ours.

    The library raises bare `Exception` for everything in a file that it cannot use, and its panics are no `Exception` at
    all, so here, and only here, both are caught by what they are. Python's own errors about arguments pass, unless named.

    Args:
        where: address for the error.
        also: further errors that mean the file and not the caller.

    Raises:
        ModelFileError: the library's refusal, with its words.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException" or isinstance(error, also):
            raise ModelFileError(
                f"the tokenizers library refuses it: {error}", where=where, do="Restore the published tokenizer files."
            ) from None
        raise
