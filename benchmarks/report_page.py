"""How long a report of many records takes to open in a browser, and to show the answers of one arm on one task.

    python benchmarks/report_page.py [--records 100000] [--repeats 7] [--browser PROGRAM]

The run is made up: five arms, four tasks, equal parts of the records, answers of about 400 characters; once with the page as large as
200 changed samples of ordinary length make it, once filled to its limit of 3 MB. A fresh page of a running Chromium opens each from the
disk. Told are medians and ranges: milliseconds by the browser's own clock until the page is parsed, loaded and first painted, milliseconds
that its main thread worked (which other work on the machine disturbs least), and the same until the first rows of the details stand there.
The last line printed is JSON. Needs Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from steelyard.core.hardware import describe, versions
from steelyard.weigh.report.html import write_html

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "weigh" / "report"))
from example_report import ARMS, example_report

TASKS = ("facts", "json_forms", "needles", "arithmetic")
LONG = 9000  # characters of a changed sample's texts that fill the page
PARTS = {"parsed_ms": "domContentLoadedEventEnd", "loaded_ms": "loadEventEnd"}


def rows(records: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Every record's text by arm and task."""
    draw, words = random.Random(7), "the capital of this country is a city on river which was founded by and has".split()
    texts = [" ".join(draw.choices(words, k=90)) for _ in range(2000)]
    each = max(1, records // (len(ARMS) * len(TASKS)))
    return {
        (arm, task): [
            {
                "sample": f"{task}-{place:06d}",
                "question": texts[place % 2000][:120],
                "expected": texts[place * 7 % 2000][:20],
                "text": draw.choice(texts),
                "values": {"right": float(draw.random() < 0.5), "brier": round(draw.random(), 4)},
            }
            for place in range(each)
        ]
        for arm in ARMS
        for task in TASKS
    }


def opened(browser: Any, path: Path) -> dict[str, float]:
    """One opening: milliseconds of its parts."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    try:
        devtools = tab.context.new_cdp_session(tab)
        devtools.send("Performance.enable")
        tab.goto(path.as_uri())
        tab.wait_for_function("performance.getEntriesByName('first-contentful-paint').length && performance.timing.loadEventEnd")
        (entry,) = tab.evaluate("performance.getEntriesByType('navigation').map(entry => entry.toJSON())")
        out = {name: entry[key] for name, key in PARTS.items()}
        out["painted_ms"] = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        out["worked_ms"] = 1000 * _worked(devtools)
        before, begun = _worked(devtools), time.perf_counter()
        tab.select_option("#details-arm", ARMS[1])
        tab.click("#details button")
        tab.wait_for_selector(".record")
        out["details_ms"] = 1000 * (time.perf_counter() - begun)
        out["details_worked_ms"] = 1000 * (_worked(devtools) - before)
        return out
    finally:
        tab.close()


def _worked(devtools: Any) -> float:
    found = devtools.send("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in found if metric["name"] == "TaskDuration")


def main() -> None:
    from playwright.sync_api import sync_playwright

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=100_000)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    asked = options.parse_args()
    report = example_report()
    draw = random.Random(7)
    full = [
        dataclasses.replace(flip, base_text=_long(draw), arm_text=_long(draw), question=flip.question + _long(draw))
        for flip in report.flips
    ]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as runner:
        details = rows(asked.records)
        browser = runner.chromium.launch(executable_path=asked.browser, args=["--headless", "--no-sandbox", "--disable-gpu"])
        for name, one in (("ordinary", report), ("full", dataclasses.replace(report, flips=full))):
            path = Path(folder) / name / "report.html"
            begun = time.process_time()
            write_html(one, path, details)
            written, times = time.process_time() - begun, [opened(browser, path) for _ in range(asked.repeats + 1)][1:]
            beside = sum(file.stat().st_size for file in (path.parent / "details").iterdir())
            results[name] = {
                "page_bytes": path.stat().st_size,
                "details_bytes": beside,
                "records": sum(map(len, details.values())),
                "written_processor_seconds": round(written, 2),
                "runs": asked.repeats,
            } | {key: {"median": round(statistics.median(column)), "range": [round(min(column)), round(max(column))]}
                 for key in times[0] for column in [[time_[key] for time_ in times]]}  # fmt: skip
            print(name, results[name])
        browser.close()
    print(json.dumps({"results": results, "versions": versions(), "machine": describe()}))


def _long(draw: random.Random) -> str:
    return " ".join(draw.choices(["alpha", "beta", "gamma", "delta", "<b>&"], k=LONG // 6))


if __name__ == "__main__":
    main()
