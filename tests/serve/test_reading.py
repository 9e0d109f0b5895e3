"""Files that are no plain text, from the upload to what the model reads; and files made to do harm."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from typing import Any

import pytest

from steelyard.data.documents.sections import ReadLimits
from steelyard.serve.reading import Readers, ReadingLimits
from tests.serve.live_server import LiveServer
from tests.written_documents import archive, docx, pdf, xlsx


def upload(server: LiveServer, name: str, content: bytes) -> dict[str, Any]:
    response = server.client.post("/api/attachments", content=content, headers={"X-Name": name})
    assert response.status_code == 200, response.text
    return response.json()


def asked(server: LiveServer, attachment: dict[str, Any], **part: Any) -> tuple[int, str, list[dict[str, Any]]]:
    """Status and body of an answer to a message with a file."""
    conversation = server.post("/api/conversations", {}).json()["id"]
    parts = [{"type": "file", "attachment": attachment["id"], **part}, {"type": "text", "text": "What is it?"}]
    message = server.post(f"/api/conversations/{conversation}/messages", {"parent": None, "role": "user", "parts": parts}).json()
    response = server.post(
        f"/api/conversations/{conversation}/answer", {"parent": message["id"], "model": "tiny", "settings": {"max_tokens": 2}}
    )
    return response.status_code, response.text, message["parts"]


def test_what_is_read_of_a_pdf_is_told_with_the_upload_and_given_to_the_model(server: LiveServer):
    pytest.importorskip("pypdfium2")
    kept = upload(server, "rivers.pdf", pdf(["The Danube is long.", "So is the Rhine."]))
    assert kept["type"] == "application/pdf" and kept["text"]["parts"] == 2 and kept["text"]["reason"] is None
    assert kept["text"]["characters"] == len("[page 1]\nThe Danube is long.\n\n[page 2]\nSo is the Rhine.") and kept["text"]["tokens"] > 10
    text = server.client.get(f"/api/attachments/{kept['id']}/text").json()
    assert text["sections"][1] == {"title": "page 2", "text": "So is the Rhine."}
    status, body, _ = asked(server, kept)
    assert status == 200 and '"done"' in body


def test_office_documents_and_web_pages_are_read_and_csv_stays_as_it_is(server: LiveServer):
    for name, content in {
        "a.docx": docx([("Heading1", "Rivers"), ("Normal", "The Danube.")]),
        "a.xlsx": xlsx({"One": [["a", "b"]]}),
        "a.html": b"<!doctype html><title>Rivers</title><p>The Danube.</p>",
    }.items():
        kept = upload(server, name, content)
        assert kept["text"]["characters"] and kept["text"]["reader"], name
        assert asked(server, kept)[0] == 200
    plain = upload(server, "a.csv", b"river,km\nDanube,2850\n")
    assert plain["text"] == plain["text"] | {"characters": 21, "reader": None, "reason": None}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("broken.pdf", b"%PDF-1.7\nnothing", "damaged"),
        ("empty.pdf", pdf([""]), "pictures"),
        ("entities.docx", docx([("Normal", "&a;")], before='<!DOCTYPE x [<!ENTITY a "ha">]>'), "entities"),
    ],
)
def test_a_file_that_cannot_be_read_is_kept_with_the_reason_and_refused_to_the_model(
    server: LiveServer, name: str, content: bytes, why: str
):
    pytest.importorskip("pypdfium2")
    kept = upload(server, name, content)
    assert why in kept["text"]["reason"] and kept["text"]["characters"] == 0
    status, body, _ = asked(server, kept)
    assert status == 400 and why in body and name in body
    assert asked(server, kept, read="none")[0] == 200  # its name alone may go along


def test_an_archive_that_says_it_unpacks_to_too_much_is_a_413(server: LiveServer):
    bomb = archive({"word/document.xml": b"\0" * (257 * 2**20)})
    assert len(bomb) < 2**20
    response = server.client.post("/api/attachments", content=bomb, headers={"X-Name": "bomb.docx"})
    assert response.status_code == 413 and "unpacks to" in response.json()["error"]["message"]


def test_what_is_longer_than_the_context_is_refused_with_both_counts(server: LiveServer):
    pytest.importorskip("pypdfium2")
    kept = upload(server, "long.pdf", pdf(["word " * 600] * 20))
    status, body, _ = asked(server, kept)
    assert status == 400 and "2048" in body and "context_length_exceeded" in body


def test_an_erased_file_takes_its_text_along(server: LiveServer):
    kept = upload(server, "gone.html", b"<html><p>unforgettable words 4711</p></html>")
    _, _, parts = asked(server, kept)
    assert parts[0]["attachment"] == kept["id"]
    conversation = server.client.get("/api/conversations").json()["conversations"][0]["id"]
    assert server.post("/api/erase", {"conversation": conversation}).status_code == 200
    assert server.client.get(f"/api/attachments/{kept['id']}/text").status_code == 404


def read(content: bytes, **limits: Any) -> tuple[str | None, float]:
    """Why a file could not be read, and the seconds it took to say so."""

    async def one() -> str | None:
        return (await Readers(ReadingLimits.model_validate(limits)).read("document", content, "file")).reason

    begun = time.monotonic()
    return asyncio.run(one()), time.monotonic() - begun


def test_a_reader_that_takes_too_long_is_killed_with_its_process():
    deep = b"<html>" + b"<div>" * 400_000 + b"<![" * 200_000
    reason, _ = read(deep, seconds=0.2)
    assert reason == "reading it took longer than 0.2 s"
    left = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "reading_worker"], capture_output=True)
    assert left.stdout == b""


def test_a_reader_that_needs_too_much_memory_ends_with_the_reason():
    reason, _ = read(xlsx({"One": [["x" * 30_000] * 3000]}), memory_bytes=128 * 2**20, document=ReadLimits(characters=10**9))
    assert reason is not None and "memory" in reason or "MB" in reason
