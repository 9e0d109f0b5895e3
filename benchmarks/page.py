"""How fast the page is: first paint, the size of what is loaded, opening and scrolling a conversation of 10,000 messages.

    python benchmarks/page.py [--repeats 7] [--messages 10000] [--browser PROGRAM]

A real `steelyard serve` on loopback with a made-up conversation (questions of a line, answers of three paragraphs with a table in one of
five), and a fresh browser profile each time, so nothing is cached. Told are medians and ranges in milliseconds by the browser's own clock:
from asking for the page to its first paint, to its first words and to the field to write in; from a click on the long conversation until
its last message is seen; and, while the wheel turns from its end towards its beginning, the times between two frames, with the share of
those above 50 ms, beside the milliseconds that the main thread worked a frame (which other work on the machine disturbs least). Without a
screen Chromium draws 60 frames a second at most. The last line printed is JSON. Needs Playwright, a Chromium, and `make web`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from steelyard.core.hardware import describe, versions
from steelyard.serve import page as built
from steelyard.serve.store.store import Store
from steelyard.serve.users import LOCAL

MODEL = "smollm2-135m-instruct"
SLOW_MS = 50.0
TURNS = 150
"""Turns of the wheel of a scrolling, of 600 pixels each."""
RECORD = """() => {
  window.frames_ = []; let last = performance.now();
  const next = (now) => { window.frames_.push(now - last); last = now; window.frame_ = requestAnimationFrame(next); };
  window.frame_ = requestAnimationFrame(next);
}"""


def conversation(messages: int) -> bytes:
    """The line of a made-up conversation, as an export has it."""
    draw, words = random.Random(7), "a river rises in the hills and runs past towns fields and mills to the sea".split()
    table = "\n\n| river | km |\n| --- | --- |\n| Danube | 2850 |\n| Rhine | 1233 |\n"

    def text(number: int) -> str:
        if number % 2 == 0:
            return f"Question {number}: {' '.join(draw.choices(words, k=12))}?"
        paragraphs = [" ".join(draw.choices(words, k=draw.randint(20, 60))) + "." for _ in range(3)]
        return f"**Answer {number}.** " + "\n\n".join(paragraphs) + (table if number % 10 == 1 else "")

    said = [
        {
            "id": f"{number + 1:024x}",
            "parent": f"{number:024x}" if number else None,
            "role": "assistant" if number % 2 else "user",
            "parts": [{"type": "text", "text": text(number)}],
            "created": "2026-01-01T00:00:00+00:00",
            "hidden": False,
            "edited_from": None,
            "generation": None,
        }
        for number in range(messages)
    ]
    frame = {"format": "steelyard.conversation", "version": 1, "id": "f" * 24, "title": "The long one", "head": said[-1]["id"]}
    frame |= {"consent": False, "created": said[0]["created"], "updated": said[0]["created"], "messages": said}
    return json.dumps(frame | {"feedback": [], "attachments": []}).encode()


def opened(browser: Any, url: str, messages: int) -> dict[str, Any]:
    """One opening with a fresh profile: milliseconds, and the times between frames."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        tab = context.new_page()
        devtools = context.new_cdp_session(tab)
        devtools.send("Performance.enable")
        tab.goto(url, wait_until="commit")
        tab.wait_for_selector("textarea")
        out: dict[str, Any] = {"writable_ms": tab.evaluate("performance.now()")}
        while not tab.evaluate("performance.getEntriesByName('first-contentful-paint').length"):  # the page lets nobody poll from within
            tab.wait_for_timeout(5)
        for name, entry in (("painted_ms", "first-paint"), ("words_ms", "first-contentful-paint")):
            out[name] = tab.evaluate(f"performance.getEntriesByName('{entry}')[0].startTime")
        tab.wait_for_selector("nav.list a")
        out["long_ms"] = tab.evaluate(
            """async (last) => {
                const begun = performance.now();
                document.querySelector("nav.list a").click();
                for (;;) {
                    await new Promise(requestAnimationFrame);
                    const node = document.getElementById(`message-${last}`);
                    if (node && node.getBoundingClientRect().bottom <= innerHeight) return performance.now() - begun;
                }
            }""",
            f"{messages:024x}",
        )
        tab.mouse.move(640, 400)
        before, top = _worked(devtools), _top(tab)
        tab.evaluate(RECORD)
        for _ in range(TURNS):
            tab.mouse.wheel(0, -600)
            tab.wait_for_timeout(16)
        frames = tab.evaluate("cancelAnimationFrame(window.frame_), window.frames_")[2:]
        out |= {
            "frame_ms": statistics.median(frames),
            "frame_95_ms": sorted(frames)[int(0.95 * len(frames))],
            "worst_frame_ms": max(frames),
        }
        out["slow_frames"] = sum(frame > SLOW_MS for frame in frames) / len(frames)
        out["worked_a_frame_ms"] = 1000 * (_worked(devtools) - before) / len(frames)
        out["scrolled_pixels"] = top - _top(tab)
        return out
    finally:
        context.close()


def _top(tab: Any) -> float:
    return tab.evaluate("document.querySelector('.scroller').scrollTop")


def _worked(devtools: Any) -> float:
    found = devtools.send("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in found if metric["name"] == "TaskDuration")


def sizes() -> dict[str, int]:
    """Bytes of the built page's files, as gzip makes them: those that every opening loads, and the chart library, which comes on demand."""
    files = {path.name: len(gzip.compress(path.read_bytes())) for path in Path(built.__file__).with_name("page").rglob("*.??*")}
    charts = sum(size for name, size in files.items() if name.startswith("chart"))
    return {
        "page_gzip_bytes": sum(size for name, size in files.items() if name.endswith((".js", ".css", ".html", ".svg"))) - charts,
        "charts_gzip_bytes": charts,
    }


def main() -> None:
    from playwright.sync_api import sync_playwright

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--messages", type=int, default=10_000)
    options.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as runner:
        with Store(Path(folder) / "steelyard.sqlite") as store:
            store.import_conversations(LOCAL, conversation(asked.messages))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        command = [sys.executable, "-m", "steelyard.cli.main", "serve", MODEL, "--port", str(port), "--data", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                _wait(url, server)
                flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
                browser = runner.chromium.launch(executable_path=asked.browser, args=flags)
                times = [opened(browser, url, asked.messages) for _ in range(asked.repeats + 1)][1:]
                browser.close()
            finally:
                server.terminate()
    results: dict[str, Any] = {"runs": asked.repeats, "messages": asked.messages, **sizes()}
    for key in times[0]:
        column = [one[key] for one in times]
        results[key] = {"median": round(statistics.median(column), 3), "range": [round(min(column), 3), round(max(column), 3)]}
    for key, value in results.items():
        print(f"{key}: {value}")
    print(json.dumps({"results": results, "versions": versions(), "machine": describe()}))


def _wait(url: str, server: subprocess.Popen) -> None:
    """Until the server is ready; it says itself why it is not."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("The server did not start.")


if __name__ == "__main__":
    main()
