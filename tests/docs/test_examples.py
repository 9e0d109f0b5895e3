"""What the documentation shows works: recipes are read, rows are taken, commands exist, and Python runs."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.core import levers, recipe
from steelyard.data.formats import read_jsonl
from steelyard.weigh.tasks.registry import make as make_task

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    words: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            found.append(Block(path.name, text[: match.start()].count("\n") + 1, match[1], match[2].strip(), match[3]))
    return [block for block in found if block.language == language]


def commands() -> list[tuple[Block, list[str]]]:
    return [
        (block, words)
        for block in blocks("bash")
        for line in block.text.splitlines()
        for part in line.split("#")[0].replace("&&", "|").split("|")
        if (words := shlex.split(part)) and words[0] == "steelyard"
    ]


def test_there_is_something_to_test():
    assert len(blocks("yaml")) > 5 and len(blocks("python")) > 5 and len(commands()) > 10


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_recipes_are_read_as_they_stand(block, tmp_path):
    value = yaml.safe_load(block.text)
    assert {"base", "new"} & set(value), "a recipe says what it starts from"
    (tmp_path / "shown.yaml").write_text(block.text, encoding="utf-8")
    read = recipe.read(tmp_path / "shown.yaml")
    assert len(read.arms) == 1 + len(value.get("arms", {}))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read_and_opens_with_the_command_that_runs_it(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(("# steelyard weigh ", "# steelyard make ")) and f"recipes/{path.name}" in first
    assert recipe.read(path).name == path.stem


@pytest.mark.parametrize("block", blocks("jsonl"), ids=str)
def test_rows_are_taken_as_they_stand(block, tmp_path):
    path = tmp_path / "shown.jsonl"
    path.write_text(block.text, encoding="utf-8")
    if block.words == "training":
        rows = read_jsonl(path)
        assert len(rows.examples) == len(block.text.splitlines()) and not rows.bad
    else:
        task = make_task(recipe.task_for(path), {"path": str(path)})
        assert len(task.samples(0)) == len(block.text.splitlines())


@pytest.mark.parametrize(("block", "words"), commands(), ids=lambda value: str(value) if isinstance(value, Block) else " ".join(value)[:60])
def test_commands_and_their_options_exist(block, words):
    if len(words) == 1:
        return
    shown = CliRunner().invoke(app, [words[1], "--help"]) if not words[1].startswith("-") else CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0, f"no verb is called {words[1]}"
    for place, word in enumerate(words):
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", shown.output), f"{words[1]} has no option {word}"
        if word == "--try":
            assert levers.parse_try(words[place + 1])
        if word.startswith("recipes/"):
            given = [word for word in words[place + 1 :] if "=" in word]
            assert recipe.read(ROOT / word, given)


def python_pages() -> list[str]:
    """Those with Python; serve.md's asks a running server, in tests/serve/test_clients.py."""
    return [page for page in dict.fromkeys(block.page for block in blocks("python")) if page != "serve.md"]


@pytest.mark.parametrize("page", python_pages())
def test_python_runs_from_the_top_of_a_page_to_its_end(page, tmp_path, monkeypatch, smollm, encyclopedia):
    monkeypatch.chdir(tmp_path)
    shown = [block for block in blocks("yaml") if block.page == page]
    if shown:
        (tmp_path / "mine.yaml").write_text(shown[0].text, encoding="utf-8")
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks("python"):
        if block.page == page:
            exec(compile(block.text, str(block), "exec"), names)
    assert names.keys() - {"__name__", "__builtins__"}, "the page's blocks left something behind"


def test_shown_reports_have_the_keys_that_reports_have():
    from dataclasses import fields

    from steelyard.weigh.report.report import Cell, Report

    page = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    assert {field.name for field in fields(Cell)} | {field.name for field in fields(Report)} <= named


def test_every_key_of_a_recipe_is_explained():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert set(recipe.KEYS) <= set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


def test_kept_results_are_json_without_numbers_that_are_none():
    kept = sorted((ROOT / "docs" / "results").glob("*.json"))
    assert len(kept) > 30
    for path in kept:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"a kept result holds {name}"))
        assert found["experiment"] == path.stem if "experiment" in found else found
