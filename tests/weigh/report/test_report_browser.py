"""The page in a real browser, where one is installed: nothing a model wrote runs, and the page's own script does."""

import dataclasses

import pytest
from example_report import example_details, example_report
from hostile_text import HOSTILE

from steelyard.weigh.report.html import write_html
from steelyard.weigh.report.report import ArmSummary, Flip

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture
def opened(chromium):
    """Opens a page from the disk and collects everything that should not happen."""
    wrong: list[str] = []
    pages = []

    def open_page(path, **how):
        tab = chromium.new_page(**how)
        pages.append(tab)
        tab.on("console", lambda message: wrong.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        tab.goto(path.as_uri())
        return tab

    yield open_page, wrong
    for tab in pages:
        tab.close()


def test_hostile_text_neither_runs_nor_breaks_the_page(opened, tmp_path):
    open_page, wrong = opened
    report = example_report(flips=0)
    arms = {"base": report.arms["base"], **{word: ArmSummary("f", [], {}) for word in HOSTILE[:6]}}
    cells = [
        dataclasses.replace(cell, arm=HOSTILE[place % 6], note=HOSTILE[place % len(HOSTILE)]) for place, cell in enumerate(report.cells)
    ]
    flips = [
        Flip("facts", word, HOSTILE[place % 6], "right", word, word, word, HOSTILE[place - 1], 0.0, 1.0)
        for place, word in enumerate(HOSTILE)
    ]
    rows = [{"sample": word, "question": word, "expected": word, "text": word, "values": {word: 1.0}} for word in HOSTILE]
    details = {("base", "facts"): rows, (HOSTILE[0], "facts"): rows}
    write_html(dataclasses.replace(report, arms=arms, cells=cells, flips=flips), tmp_path / "report.html", details)
    tab = open_page(tmp_path / "report.html", viewport={"width": 500, "height": 800})
    while tab.locator("#flip-more").is_visible():
        tab.click("#flip-more")
    tab.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    tab.select_option("#details-arm", HOSTILE[0])
    tab.click("#details button")
    tab.wait_for_selector("#details-count:has-text(' of ')")
    while tab.locator("#details-more").is_visible():
        tab.click("#details-more")
    assert tab.locator(".record").count() == len(HOSTILE)
    tab.mouse.move(200, 300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 500
    assert tab.locator("main img, main base, main iframe, main style, main script").count() == 0
    assert wrong == []


def test_the_page_filters_sorts_picks_and_loads(opened, tmp_path):
    open_page, wrong = opened
    write_html(example_report(), tmp_path / "report.html", example_details())
    tab = open_page(tmp_path / "report.html")
    assert tab.locator(".flip:visible").count() == 25
    tab.select_option("#flip-arm", "library")
    assert set(tab.locator(".flip:visible").evaluate_all("all => all.map(one => one.dataset.arm)")) == {"library"}
    tab.select_option("[data-filter='4']", "worse")
    assert set(tab.locator("#all-cells tbody tr:visible .chip").all_inner_texts()) == {"✘ worse"}
    tab.click("#all-cells thead th:nth-child(12) button")
    sizes = tab.locator("#all-cells tbody tr:visible td:nth-child(12)").all_inner_texts()
    assert [int(size) for size in sizes] == sorted(int(size) for size in sizes)
    assert tab.locator("#all-cells th[aria-sort='ascending']").inner_text().startswith("n")
    assert tab.locator(".picture:visible").count() == 1
    tab.select_option("#cost", "peak memory")
    assert tab.locator(".picture:visible").get_attribute("data-cost") == "peak memory"
    tab.select_option("#details-arm", "int8")
    tab.fill("#details-text", "palau")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".record")
    assert tab.locator("#details-count").inner_text() == "5 of 5"
    tab.click("#theme")
    assert tab.locator("html").get_attribute("data-theme") == "light"
    assert wrong == []


def test_without_details_beside_it_the_page_says_so_and_works(opened, tmp_path):
    open_page, wrong = opened
    write_html(example_report(), tmp_path / "run" / "report.html", example_details())
    (tmp_path / "run" / "report.html").rename(tmp_path / "alone.html")
    tab = open_page(tmp_path / "alone.html")
    tab.click("#details button")
    tab.wait_for_selector("#details-count:has-text('is not beside this page')")
    assert tab.locator(".flip:visible").count() == 25
    assert [line for line in wrong if "ERR_FILE_NOT_FOUND" not in line] == []


@pytest.mark.parametrize("width", [340, 390, 768, 920, 1280, 1440])
def test_neither_the_page_nor_a_table_scrolls_sideways(opened, tmp_path, width):
    open_page, _ = opened
    report = example_report()
    long = {"task": "support_answers", "metric": "right_edges_less_middle", "unit": "tokens/passage", "base": 123.4, "value": 1234.5}
    cells = [dataclasses.replace(cell, **long, base_interval=(100.1, 234.5), value_interval=(1000.1, 2345.6)) for cell in report.cells]
    write_html(dataclasses.replace(report, cells=[*report.cells, *cells]), tmp_path / "report.html")
    tab = open_page(tmp_path / "report.html", viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    wide = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.ariaLabel)"
    assert tab.evaluate(wide) == []


def test_all_is_there_without_scripts(chromium, tmp_path):
    write_html(example_report(), tmp_path / "report.html", example_details())
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    assert tab.locator(".flip:visible").count() == 200
    assert not tab.locator("#theme").is_visible() and not tab.locator("#flip-arm").is_visible()
    context.close()


def test_nothing_is_cut_off_on_paper(opened, tmp_path):
    open_page, _ = opened
    report = example_report()
    more = [
        dataclasses.replace(cell, axis="format", metric=f"share_{n}") for n in range(12) for cell in report.cells if cell.metric == "valid"
    ]
    primary = [dataclasses.replace(cell, primary=True) for cell in more]
    write_html(dataclasses.replace(report, cells=[*report.cells, *primary]), tmp_path / "report.html")
    tab = open_page(tmp_path / "report.html", viewport={"width": 688, "height": 1000})  # A4 within its margins, in pixels
    tab.emulate_media(media="print")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 688
    assert tab.evaluate("[...document.querySelectorAll('.main td')].every(cell => cell.getBoundingClientRect().right <= 689)")
    assert tab.locator(".main td:visible").count() > 12 * 5
    beyond = """one => {
      const chip = one.querySelector('.chip')
      return chip && chip.getBoundingClientRect().right > one.getBoundingClientRect().right + 1
    }"""
    assert tab.evaluate(f"[...document.querySelectorAll('.plot td, .cells td')].filter({beyond}).length") == 0


def test_the_curves_are_pictures_with_words_and_tables_that_open_by_keyboard(opened, tmp_path):
    open_page, wrong = opened
    write_html(example_report(), tmp_path / "report.html")
    tab = open_page(tmp_path / "report.html", viewport={"width": 360, "height": 800})
    pictures = tab.locator("#curves svg[role=img]")
    assert pictures.count() == 15
    assert all("%" in label and "n 24" in label for label in pictures.evaluate_all("all => all.slice(0, 5).map(p => p.ariaLabel)"))
    summary = tab.locator("#curves summary").first
    summary.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#curves table:visible").count() == 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert wrong == []
