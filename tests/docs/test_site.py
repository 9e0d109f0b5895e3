"""The site builds without a warning, links nowhere wrong, and fetches nothing from elsewhere."""

import logging
import re
from pathlib import Path

import pytest

from steelyard.core import levers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    build = pytest.importorskip("mkdocs.commands.build", reason="the extra `docs` is not installed")
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    warnings: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record):
            warnings.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("mkdocs").addHandler(listener)
    try:
        config.plugins.on_startup(command="build", dirty=False)
        build.build(config)
    finally:
        config.plugins.on_shutdown()
        logging.getLogger("mkdocs").removeHandler(listener)
    assert warnings == []
    return folder


def test_every_lever_has_a_page_with_its_settings(site):
    for name, kind in levers.all_levers().items():
        text = (site / "levers" / f"{name}.html").read_text(encoding="utf-8")
        assert all(f"<code>{setting}</code>" in text for setting in kind.model_fields)


def test_pages_fetch_nothing_from_elsewhere(site):
    loaded = re.compile(
        r"""<(?:script|img|iframe)[^>]+src=["']?(https?:)?//|<link[^>]+rel=["']?(?:stylesheet|preconnect)[^>]*href=["']?(https?:)?//"""
    )
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text(encoding="utf-8")), page.name


def test_results_come_with_the_pages_and_tools_do_not(site):
    kept = {path.name for path in (ROOT / "docs" / "results").glob("*.json")}
    assert kept == {path.name for path in (site / "results").glob("*.json")}
    assert not (site / "tools").exists()
