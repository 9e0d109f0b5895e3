"""Takes the picture of a report that the README shows.

    python docs/tools/picture.py runs/quickstart/report.html docs/images/report.png

Needs Playwright (`pip install playwright`) and a Chromium; the picture stays below 300 KB, if need be with fewer colours.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

MOST_BYTES = 300_000
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def take(page: Path, width: int, height: int, scheme: str) -> bytes:
    """A PNG of the page's first `height` pixels."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("No Chromium is installed: apt-get install chromium")
    with sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        tab.goto(page.resolve().as_uri())
        shot = tab.screenshot()
        browser.close()
    return shot


def small(shot: bytes) -> bytes:
    """The same picture in at most 300 KB: with a palette, of as many colours as fit."""
    from PIL import Image

    colours = 256
    while len(shot) > MOST_BYTES and colours >= 16:
        out = io.BytesIO()
        Image.open(io.BytesIO(shot)).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        shot, colours = out.getvalue(), colours // 2
    return shot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="report.html")
    parser.add_argument("picture", type=Path, help="where the PNG goes")
    parser.add_argument("--width", type=int, default=1280, help="pixels")
    parser.add_argument("--height", type=int, default=1340, help="pixels")
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    given = parser.parse_args()
    shot = small(take(given.page, given.width, given.height, given.scheme))
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    given.picture.write_bytes(shot)
    print(f"{given.picture}: {len(shot) / 1000:.0f} KB")


if __name__ == "__main__":
    main()
