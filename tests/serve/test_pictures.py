"""Pictures: pieces of them, the text in them, and pictures made to do harm."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from typing import Any

import pytest

pytest.importorskip("PIL", reason="Pillow is not installed")
from PIL import Image

from steelyard.core.errors import DataError
from steelyard.serve.reading import Readers, Reading, ReadingLimits
from steelyard.serve.store.attachments import Attached, Piece
from steelyard.serve.store.rendering import rendered
from steelyard.serve.store.tree import Node
from tests.serve.drawn import picture
from tests.serve.live_server import LiveServer

INVOICE = [(20, 20, "Invoice from Orvia"), (20, 150, "Total: 128.50 EUR")]


def upload(server: LiveServer, name: str, content: bytes) -> dict[str, Any]:
    response = server.client.post("/api/attachments", content=content, headers={"X-Name": name})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_piece_of_a_picture_is_an_attachment_with_its_place_and_its_text(server: LiveServer) -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="the extra `ocr` is not installed")
    whole = upload(server, "invoice.jpg", picture(INVOICE))
    rectangle = {"left": 0, "top": 130, "width": 500, "height": 90}
    piece = server.post(f"/api/attachments/{whole['id']}/pieces", rectangle).json()
    assert (piece["origin"], piece["rectangle"], piece["type"]) == (whole["id"], rectangle, "image/png")
    text = server.client.get(f"/api/attachments/{piece['id']}/text").json()
    assert "128.50" in text["sections"][0]["text"] and "Invoice" not in text["sections"][0]["text"]
    assert text["reader"].startswith("rapidocr-onnxruntime ")
    assert Image.open(io.BytesIO(server.client.get(f"/api/attachments/{piece['id']}").content)).size == (500, 90)
    conversation = server.post("/api/conversations", {}).json()["id"]
    parts = [{"type": "file", "attachment": piece["id"]}, {"type": "text", "text": "How much?"}]
    message = server.post(f"/api/conversations/{conversation}/messages", {"parent": None, "role": "user", "parts": parts}).json()["id"]
    asked = {"parent": message, "model": "tiny", "settings": {"max_tokens": 2}}
    assert server.post(f"/api/conversations/{conversation}/answer", asked).status_code == 200


def test_the_model_is_told_that_it_reads_ocr_text_of_which_piece_and_by_what() -> None:
    from steelyard.data.documents.sections import Section

    reading = Reading("rapidocr-onnxruntime 1.4.4", (Section("", "Total: 128.50 EUR"),))
    attached = Attached("piece.png", "image/png", b"", "", reading, Piece("a" * 24, "invoice.jpg", (0, 130, 500, 90)))
    node = Node("n", None, 0, "user", False, False)
    (message,) = rendered([(node, [{"type": "file", "attachment": "x", "name": "piece.png"}])], lambda id: attached).messages
    assert message.content.splitlines()[0] == (
        "OCR text of the picture piece.png, a piece of invoice.jpg (500 x 90 pixels, 0 from its left, 130 from its top), "
        "read by rapidocr-onnxruntime 1.4.4; it may hold errors, and the picture itself is not seen:"
    )
    assert message.content.endswith("Total: 128.50 EUR")


def cut(content: bytes, rectangle: tuple[int, int, int, int], **limits: Any) -> Image.Image:
    readers = Readers(ReadingLimits.model_validate(limits))
    return Image.open(io.BytesIO(asyncio.run(readers.crop(content, "picture", rectangle))))


def test_pieces_are_counted_in_the_picture_as_it_is_seen_upright() -> None:
    lying = picture([(20, 150, "HERE")], turned=True)
    assert Image.open(io.BytesIO(lying)).size == (240, 640)
    dark = lambda image: min(image.convert("L").tobytes()) < 100  # noqa: E731
    assert dark(cut(lying, (0, 130, 300, 90))) and not dark(cut(lying, (0, 0, 640, 100)))


def test_a_piece_outside_the_picture_is_refused_by_the_server(server: LiveServer) -> None:
    with pytest.raises(DataError, match="no piece of 640 x 240 pixels"):
        cut(picture([]), (600, 0, 41, 10))
    text = upload(server, "a.txt", b"text")
    refused = server.post(f"/api/attachments/{text['id']}/pieces", {"left": 0, "top": 0, "width": 1, "height": 1})
    assert refused.status_code == 400 and "no picture" in refused.json()["error"]["message"]
    assert server.post(f"/api/attachments/{text['id']}/pieces", {"left": -1, "top": 0, "width": 1, "height": 1}).status_code == 400
    assert server.post("/api/attachments/none/pieces", {"left": 0, "top": 0, "width": 1, "height": 1}).status_code == 404


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (picture(INVOICE)[:900], "damaged"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"x"), "pixels"),
        (b"GIF89a\x04\x00\x03\x00\x00\x00\x00;", "damaged"),
    ],
)
def test_pictures_made_to_do_harm_are_refused_with_the_reason(content: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why):
        cut(content, (0, 0, 1, 1))
