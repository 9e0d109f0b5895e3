"""`steelyard detect MODEL FILE`: whether a text bears a key's watermark. Needs the tokenizer and the key, never the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.completion import model_names
from steelyard.cli.output import console, print_json
from steelyard.core.errors import DataError

if TYPE_CHECKING:
    from steelyard.generate.processors.green_lists import Detection


def detect(
    model: Annotated[
        str,
        typer.Argument(help="Whose tokenizer: a model as for `inspect`, or a folder with tokenizer.json.", autocompletion=model_names),
    ],
    file: Annotated[Path, typer.Argument(help="The text, in UTF-8; - reads standard input.")],
    key: Annotated[str, typer.Option(envvar="STEELYARD_WATERMARK_KEY", help="The key the text may be marked with.")] = "steelyard",
    gamma: Annotated[float, typer.Option(help="The watermark's share of green tokens.")] = 0.25,
    width: Annotated[int, typer.Option(help="The watermark's context, in tokens.")] = 1,
    false_positives: Annotated[float, typer.Option(help="Share of unmarked texts that may be called marked.")] = 3e-5,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Tell whether a text bears the watermark of a key.

    Key, gamma and width must be those of the lever `watermark` that may have marked it. Give the answer alone: a prompt before
    it hides the mark. "No mark found" is no proof that a person wrote it.
    """
    from steelyard.generate.processors.green_lists import GreenLists, detect_text
    from steelyard.model.load import load_tokenizer

    name = "standard input" if str(file) == "-" else str(file)
    lists = GreenLists(key, gamma, width)
    text, tokenizer = _read(file, name), load_tokenizer(model)
    try:
        found = detect_text(text, tokenizer, lists, false_positives)
    except DataError as error:
        raise error.at(name) from None
    if as_json:
        print_json(_document(name, found, lists.gamma, lists.width, false_positives))
    else:
        _show(found, false_positives)


def _read(file: Path, name: str) -> str:
    """The text, its lines ended as a model ends them.

    Raises:
        DataError: it cannot be read, is empty, or is not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {(error.strerror or 'unknown reason').lower()}", where=name, do="Name a text file.") from None
    if not content.strip():
        raise DataError("the text is empty", where=name, do="Give the text to look at.")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"not UTF-8 from byte {error.start} on", where=f"{name}:{line}", do="Give plain text; convert other encodings with iconv."
        ) from None


def _document(name: str, found: Detection, gamma: float, width: int, false_positives: float) -> dict:
    """The finding as plain data. The key is not in it."""
    return {
        "file": name,
        "verdict": found.verdict,
        "marked": found.marked,
        "z_score": found.z_score,
        "p_value": found.p_value,
        "tokens": found.tokens,
        "scored": found.scored,
        "green": found.green,
        "expected": found.expected,
        "gamma": gamma,
        "width": width,
        "false_positives": false_positives,
    }


def _show(found: Detection, false_positives: float) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(found.verdict, style="bold"))
    rows = {
        "z-score": f"{found.z_score:.2f}",
        "p-value": f"{found.p_value:.3g} (marked from {false_positives:g} down)",
        "scored": f"{found.scored:,} of {found.tokens:,} tokens (repeated n-grams counted once)",
        "green": f"{found.green:,} (an unmarked text: {found.expected:.1f})",
    }
    for label, value in rows.items():
        out.print(Text(f"{label:<8}  ", style="dim") + Text(value))
