"""A person's part in the experiment `circle`: a served model is talked to, corrected and exported from.

Some corrections are typed into the page in a real browser, in its own form; the others are sent by the calls the page makes for the
same (`web/src/api/calls.ts`): a conversation, a message, its answer as a stream, the feedback.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from acceptance.customers import Note
from steelyard.core.errors import SteelyardError
from steelyard.serve import page

ANSWER_TOKENS = 24
"""Longest answer; it is thrown away, as the correction takes its place."""
AT_ONCE = 4
"""Corrections under way at the same time by way of the API."""
PATIENCE = 120.0
"""Seconds that an answer or the page may take on a machine that does much else."""


def build_page() -> None:
    """Builds the page as `make web` does, where this checkout has none.

    Raises:
        SteelyardError: it cannot be built.
    """
    if (page.BUILT / "index.html").is_file():
        return
    program = Path(__file__).parents[2] / "web" / "build.py"
    made = subprocess.run([sys.executable, program, page.BUILT], capture_output=True, text=True)
    if made.returncode:
        raise SteelyardError("the page could not be built", where=str(program), do=made.stderr[-2000:])


@contextlib.contextmanager
def serving(model: str, folder: Path) -> Iterator[str]:
    """The address of `steelyard serve MODEL`, which keeps what is said in `folder` and shows the page."""
    build_page()
    program = [sys.executable, "-c", "from steelyard.cli.main import main; main()"]
    command = [*program, "serve", model, "--port", "0", "--data", str(folder), "--runs", str(folder / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r" at (http://\S+) ", line):
                yield found[1]
                return
        raise SteelyardError("the server did not start", where=" ".join(command[3:]), do="".join(said)[-2000:])
    finally:
        process.terminate()
        process.stderr.close()
        process.wait(60)


def correct_by_calls(url: str, model: str, notes: Sequence[Note]) -> None:
    """Asks and corrects by the page's own calls, in order of the conversations' beginnings."""
    with httpx.Client(base_url=url, timeout=PATIENCE) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [called(client, "/api/conversations", {"title": note.text[:60]})["id"] for note in notes]
        list(pool.map(lambda one: _correct(client, model, *one), zip(begun, notes, strict=True)))


def _correct(client: httpx.Client, model: str, conversation: str, note: Note) -> None:
    said = {"parent": None, "role": "user", "parts": [{"type": "text", "text": note.text}]}
    question = called(client, f"/api/conversations/{conversation}/messages", said)["id"]
    settings = {"temperature": 0.7, "top_p": 0.95, "max_tokens": ANSWER_TOKENS, "seed": 1, "alternatives": 5, "token_events": True}
    asked = {"parent": question, "model": model, "settings": settings, "levers": [], "store": True}
    with client.stream("POST", f"/api/conversations/{conversation}/answer", json=asked) as stream:
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: {")]
    answer = next(event["id"] for event in events if event["type"] == "message")
    called(client, "/api/feedback", {"message": answer, "kind": "correction", "value": note.line})


def called(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """What a POST is answered."""
    answered = client.post(path, json=body)
    if answered.status_code != 200:
        raise SteelyardError(f"{path} answered {answered.status_code}: {answered.text[:300]}")
    return answered.json()


def exported_by_calls(url: str) -> str:
    """The corrections, as the page's own button asks for them."""
    return httpx.get(f"{url}/api/export", params={"kind": "sft", "consent": "1"}, timeout=PATIENCE).raise_for_status().text


@contextlib.contextmanager
def browsing(url: str) -> Iterator[Any]:
    """A tab of a real Chromium that shows the page."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise SteelyardError("there is no Chromium on this machine", do="Install one, or run the short form: --reduced.")
    with sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.set_default_timeout(PATIENCE * 1000)
        tab.goto(url)
        yield tab
        browser.close()


def correct_on_page(tab: Any, notes: Sequence[Note]) -> None:
    """Asks and corrects by hand, each in a conversation of its own."""
    for note in notes:
        tab.get_by_role("link", name="New conversation").click()
        limit_answers(tab)
        box = tab.get_by_role("textbox", name="Message", exact=True)
        box.fill(note.text)
        box.press("Control+Enter")
        answer = tab.get_by_role("article", name="Answer")
        answer.get_by_role("button", name="Correct this answer").click()
        tab.get_by_role("textbox", name="How should it have been").fill(note.line)
        tab.get_by_role("button", name="Keep correction").click()
        kept = tab.get_by_text("The correction was kept.").last
        kept.wait_for()


def limit_answers(tab: Any) -> None:
    """Sets the most tokens of an answer, in the panel of the page."""
    limit = tab.get_by_label("Most tokens")
    if not limit.is_visible():
        tab.get_by_role("button", name="How it answers").click()
    limit.fill(str(ANSWER_TOKENS))


def exported_by_page(tab: Any) -> str:
    """The file that the page's export saves."""
    tab.get_by_role("link", name="Feedback").click()
    tab.get_by_label("I may use these for training").check()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Corrections (sft)").click()
    return Path(download.value.path()).read_text(encoding="utf-8")
