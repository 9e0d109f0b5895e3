"""The page of dependencies names what pyproject.toml declares, each with a reason and a licence."""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| ([\w./@-]+) \|(.*)\|$", re.MULTILINE)


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    native = tomllib.loads((ROOT / "native" / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *(name for extra in extras for name in extra)]
    wanted += [*project["build-system"]["requires"], *native["build-system"]["requires"]]
    page = json.loads((ROOT / "web" / "package.json").read_text(encoding="utf-8"))
    wanted += [*page["dependencies"], *page["devDependencies"]]
    names = {re.split(r"[\[<>=!~ ]", requirement)[0].lower() for requirement in wanted}
    return names - {"steelyard"}


def test_every_dependency_is_explained_and_nothing_else_is():
    rows = dict(ROW.findall((ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")))
    rows = {name: row for name, row in rows.items() if name not in ("package", "---")}
    assert {name.lower() for name in rows} == declared()
    assert all(len([part for part in row.split("|") if part.strip()]) >= 2 for row in rows.values())
