"""Installs other people's clients, each in an environment of its own, so that the tests can run them unmodified.

`litellm` wants older packages than Steelyard's tests run with: it gets a virtual environment in `build/`. npm's `ai` goes into
`node_modules` beside this file.
Where a registry cannot be reached this says so and ends well: the tests of that client are then skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[2] / "build" / "clients"


def install_litellm() -> bool:
    """Whether `litellm` is there, as requirements.txt has it."""
    done = ENVIRONMENT / "installed.txt"
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return True
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    pip = [ENVIRONMENT / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if subprocess.run([*pip, "-r", HERE / "requirements.txt"]).returncode:
        return False
    done.write_text(wanted, encoding="utf-8")
    return True


def install_ai_sdk() -> bool:
    """Whether `ai` is there, as package.json has it."""
    npm = shutil.which("npm")
    wanted = ["install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    return npm is not None and subprocess.run([npm, *wanted], cwd=HERE).returncode == 0


if __name__ == "__main__":
    for name, installed in (("litellm", install_litellm()), ("ai", install_ai_sdk())):
        if not installed:
            print(f"The client `{name}` could not be installed; its tests will be skipped.", file=sys.stderr)
