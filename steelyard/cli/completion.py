"""What the shell may complete: names of levers, known models, files. Asked at every press of the tab key, so nothing heavy."""

from __future__ import annotations


def lever_names(incomplete: str) -> list[str]:
    """Levers that begin so, or else presets. Inside a comma-separated list only the last is completed."""
    from steelyard.core import levers

    before, comma, last = incomplete.rpartition(",")
    found = [name for name in levers.names() if name.startswith(last)]
    if not found:  # presets are known only to the levers' modules, and to import those takes seconds
        found = sorted(name for name in levers.presets() if name.startswith(last))
    return [f"{before}{comma}{name}" for name in found]


def task_names(incomplete: str) -> list[str]:
    """Tasks that begin so."""
    from steelyard.core.recipe_parts import task_names as names

    return [name for name in names() if name.startswith(incomplete)]


def known_names(incomplete: str) -> list[str]:
    """Everything `steelyard get` knows."""
    from steelyard.core.get_known import KNOWN

    return [name for name in KNOWN if name.startswith(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Known models, then folders and .gguf files."""
    import glob
    from pathlib import Path

    from steelyard.core.get_known import KNOWN

    models = [name for name, package in KNOWN.items() if package.kind != "corpus" and name.startswith(incomplete)]
    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))
    return models + [f"{path}/" if Path(path).is_dir() else path for path in paths if Path(path).is_dir() or path.endswith(".gguf")]
