"""What a sentence-transformers directory says beside config.json: how token vectors become one vector, and how long a text may be.

`modules.json` lists the steps (transformer, pooling, normalising), `1_Pooling/config.json` how to pool, and
`sentence_bert_config.json` or tokenizer_config.json where texts are cut. Read in the forms of versions 2 to 6 of the library,
written in the oldest, which all of them open.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.core.errors import ModelFileError, UnsupportedError
from steelyard.core.files import write_json
from steelyard.model.files.extent import ExtentFile
from steelyard.model.files.source import quoted
from steelyard.model.files.strict_json import parse_object, read_object

MODULES, POOLING, LENGTH = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
KEY = "sentence_transformers"
"""Where a config keeps it in memory; it is never written into config.json."""
MODES = {"mean": "mean", "cls": "first", "lasttoken": "last"}
FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}
OTHER_FLAGS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
LONGEST = 2**26
MOST_BYTES = 2**20


def read(folder: Path) -> dict[str, Any]:
    """`pooling` (mean, first, last), `normalize`, and `max_seq_length` (tokens) where it is given; {} where the directory is no encoder's.

    Raises:
        ModelFileError: the files are damaged.
        UnsupportedError: a step or a kind of pooling that is not built here, by name.
    """
    if not (folder / MODULES).exists():
        return {}
    kinds = _steps(folder / MODULES)
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise UnsupportedError(
            f"the steps {', '.join(map(quoted, kinds))} are not built here",
            where=str(folder / MODULES),
            do="Transformer, Pooling and Normalize are.",
        )
    out: dict[str, Any] = {"pooling": _pooling(folder / POOLING), "normalize": kinds[2:] == ["Normalize"]}
    for file, key in ((LENGTH, "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        values = read_object(folder / file) if (folder / file).exists() else {}
        if file == LENGTH and values.get("do_lower_case"):
            raise UnsupportedError(
                "`do_lower_case` is not built here", where=str(folder / file), do="Lower-case the texts, and set it to false."
            )
        value = values.get(key)
        if type(value) is int and 0 < value <= LONGEST:
            out.setdefault("max_seq_length", value)
        elif value is not None and file == LENGTH:
            raise ModelFileError(
                f"`{key}` is {value!r:.60}, not a number of tokens", where=str(folder / file), do="Restore the published file."
            )
    return out


def write(folder: Path, said: Mapping[str, Any]) -> None:
    """Writes what `read` reads, so that sentence-transformers opens the directory as the same encoder."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] if said["normalize"] else [])
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(steps)
    ]
    chosen = next(name for name, mode in MODES.items() if mode == said["pooling"])
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / MODULES, entries)
    write_json(folder / POOLING, {"word_embedding_dimension": said["width"]} | {flag: mode == chosen for flag, mode in FLAGS.items()})
    write_json(folder / LENGTH, {"max_seq_length": said["max_seq_length"], "do_lower_case": False})


def _steps(path: Path) -> list[str]:
    """The last names of the classes, in order. The file is a list, which the strict reader takes only inside an object."""
    with ExtentFile(path) as file:
        if file.size > MOST_BYTES:
            raise ModelFileError(f"{file.size} bytes are too many for it", where=str(path), do="Restore the published file.")
        held = parse_object(b'{"steps":' + file.read(0, file.size) + b"}", str(path))
    steps = held["steps"]
    if len(held) > 1 or not isinstance(steps, list) or not all(isinstance(s, dict) and isinstance(s.get("type"), str) for s in steps):
        raise ModelFileError("not a list of steps with their `type`", where=str(path), do="Restore the published file.")
    if wrong := [step.get("path") for step, place in zip(steps, ("", "1_Pooling"), strict=False) if step.get("path", place) != place]:
        raise UnsupportedError(f"a step lies in {quoted(wrong[0])}", where=str(path), do="Save the model again with sentence-transformers.")
    return [step["type"].rpartition(".")[2] for step in steps]


def _pooling(path: Path) -> str:
    values = read_object(path)
    chosen = values.get("pooling_mode")
    if chosen is None:
        on = [flag for flag in (*FLAGS, *OTHER_FLAGS) if values.get(flag)]
        chosen = FLAGS.get(on[0], on[0]) if len(on) == 1 else (" and ".join(on) or "mean")
    if isinstance(chosen, list) and len(chosen) == 1:
        chosen = chosen[0]
    if not isinstance(chosen, str) or chosen not in MODES:
        raise UnsupportedError(f"pooling {quoted(chosen)} is not built here", where=str(path), do=f"Known: {', '.join(MODES)}.")
    return MODES[chosen]
