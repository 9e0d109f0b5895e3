"""A small server that keeps the page's contract with the API, without a model: what is asked decides what is answered.

`slow` in the question makes a long, slow answer; `sources` brings citations; `markup` tries to do harm; `fail` breaks off.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from steelyard.serve import page
from steelyard.serve.places.place import of_sentence, of_table
from steelyard.serve.places.table import TableLimits, read_csv, table_in
from steelyard.serve.store.parts import PointedPart

ANSWER = "The **Danube** rises in the Black Forest and ends in the Black Sea.\n\n| river | km |\n| --- | --- |\n| Danube | 2850 |\n| Rhine | 1233 |\n"
CITED = "It is 2850 km long [1] and passes ten countries [2].\n"
HARMFUL = (
    "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>\n\n"
    "![a picture](http://192.0.2.1/pixel.png) [press me](javascript:document.title='broken') [fine](https://example.org)\n"
)
SOURCES = [
    {"source": "rivers.txt", "title": "Rivers of Europe", "text": "The Danube is 2850 km long.", "score": 0.83},
    {"source": "rivers.txt", "title": "Countries on the Danube", "text": "Ten countries lie on the Danube.", "score": 0.61},
]
LEVERS = [
    {
        "name": "advice",
        "idea": "Tells the model how to go about it.",
        "paper": "",
        "per_request": True,
        "hooks": ["wrap"],
        "schema": {"type": "object", "properties": {"text": {"type": "string", "default": "Be brief.", "description": "what it is told"}}},
    },
    {
        "name": "prompt_lookup",
        "idea": "Guesses the next words from the prompt itself, and checks them in one pass.",
        "paper": "",
        "per_request": True,
        "hooks": ["decode"],
        "schema": {
            "type": "object",
            "properties": {
                "tokens": {"type": "integer", "minimum": 1, "maximum": 32, "default": 8, "description": "tokens guessed at once"},
                "mode": {"enum": ["greedy", "sampled"], "default": "greedy", "description": "how guesses are checked"},
                "quick": {"type": "boolean", "default": False, "description": "stop at the first match"},
            },
        },
    },
    {
        "name": "quantize",
        "idea": "Smaller weights.",
        "paper": "",
        "per_request": False,
        "schema": {"type": "object", "properties": {"bits": {"type": "integer", "default": 8, "description": "of each weight"}}},
    },
]


@dataclass
class Kept:
    """What the server knows, for a test to look into."""

    conversations: dict[str, dict[str, Any]] = field(default_factory=dict)
    feedback: dict[str, dict[str, Any]] = field(default_factory=dict)
    choices: list[dict[str, Any]] = field(default_factory=list)
    attachments: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    undo: dict[str, Any] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    serials: Counter[str] = field(default_factory=Counter)

    def new_id(self, kind: str) -> str:
        self.serials[kind] += 1
        return f"{kind}{self.serials[kind]}"

    def message(self, name: str) -> dict[str, Any]:
        return next(m for c in self.conversations.values() for m in c["messages"] if m["id"] == name)

    def home(self, message: str) -> dict[str, Any]:
        return next(c for c in self.conversations.values() if any(m["id"] == message for m in c["messages"]))

    def add(self, conversation: str, role: str, text: str, parent: str | None = "head", **more: Any) -> dict[str, Any]:
        """Stores a message below `parent` and makes it the head."""
        home = self.conversations[conversation]
        message = {
            "id": self.new_id("m"),
            "parent": home["head"] if parent == "head" else parent,
            "role": role,
            "parts": more.pop("parts", [{"type": "text", "text": text}]),
            "created": _now(),
            "hidden": False,
            "deleted": False,
            "edited_from": None,
            "generation": None,
            "feedback": [],
            **more,
        }
        home["messages"].append(message)
        home["head"] = message["id"]
        return message

    def conversation(self, title: str = "") -> str:
        name = self.new_id("c")
        self.conversations[name] = {"id": name, "title": title, "head": None, "updated": _now(), "messages": [], "deleted": False}
        return name

    def path(self, message: str | None) -> list[dict[str, Any]]:
        out = []
        while message is not None:
            out.append(self.message(message))
            message = out[-1]["parent"]
        return out[::-1]


_clock = itertools.count()


def _now() -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(_clock))).isoformat()


def tokens_of(text: str) -> list[dict[str, Any]]:
    pieces = [piece for word in text.split(" ") for piece in (word + " ",)]
    pieces[-1] = pieces[-1][:-1]
    return [
        {
            "id": index,
            "text": piece,
            "logprob": math.log((0.97, 0.62, 0.3, 0.08, 0.82)[index % 5]),
            "entropy": 0.5 + index % 3,
            "alternatives": [{"text": piece, "logprob": -0.3}, {"text": "Rhine ", "logprob": -1.6}, {"text": " Elbe", "logprob": -3.2}],
        }
        for index, piece in enumerate(pieces)
    ]


def create_app(built: Path, kept: Kept, reports: Path | None = None) -> FastAPI:
    """The page of folder `built` and an API that works on `kept`."""
    app = FastAPI()
    app.include_router(page.router(built))

    @app.get("/v1/models")
    def models() -> Any:
        return {"object": "list", "data": [{"id": name, "steelyard": {"kind": "chat"}} for name in ("small-model", "other-model")]}

    @app.get("/api/levers")
    def levers() -> Any:
        return {"levers": LEVERS}

    @app.get("/api/indexes")
    def indexes() -> Any:
        return {"indexes": [], "shared": []}

    @app.get("/api/reports")
    def list_reports() -> Any:
        return {"reports": [{"name": "quickstart", "created": "2026-01-01T10:00:00+00:00"}]}

    @app.get("/api/reports/{name}/report.html")
    def report(name: str) -> Any:
        return Response(f"<h1>Report of {name}</h1>", media_type="text/html", headers={"Content-Security-Policy": "sandbox"})

    @app.get("/api/conversations")
    def conversations(q: str = "") -> Any:
        found = [
            {"id": c["id"], "title": c["title"], "updated": c["updated"], "messages": len(c["messages"])}
            for c in kept.conversations.values()
            if not c["deleted"] and q.lower() in (c["title"] + json.dumps(c["messages"])).lower()
        ]
        return {"conversations": found[::-1], "next": None}

    @app.post("/api/conversations")
    async def new_conversation(request: Request) -> Any:
        return _shown(kept.conversations[kept.conversation((await request.json()).get("title", ""))])

    @app.get("/api/conversations/{name}")
    def conversation(name: str) -> Any:
        return _shown(kept.conversations[name])

    @app.patch("/api/conversations/{name}")
    async def change(name: str, request: Request) -> Any:
        kept.conversations[name].update(await request.json())
        return _shown(kept.conversations[name])

    @app.delete("/api/conversations/{name}")
    def remove(name: str) -> Any:
        kept.conversations[name]["deleted"] = True
        return {"undo": "-"}

    @app.post("/api/conversations/{name}/restore")
    def restore(name: str) -> Any:
        kept.conversations[name]["deleted"] = False
        return {}

    @app.post("/api/conversations/{name}/messages")
    async def add(name: str, request: Request) -> Any:
        body = await request.json()
        parts = [_told(kept, part) if part["type"] == "place" else part for part in body["parts"]]
        return kept.add(name, body["role"], "", body["parent"], parts=parts, edited_from=body.get("edited_from"))

    @app.post("/api/conversations/{name}/rewrite")
    async def rewrite(name: str, request: Request) -> Any:
        body = await request.json()
        old = kept.message(body["message"])
        path = kept.path(body["end"])
        made = kept.add(name, old["role"], "", old["parent"], parts=body["parts"], edited_from=old["id"])
        for later in path[path.index(old) + 1 :]:
            kept.add(name, later["role"], "", parts=later["parts"], edited_from=later["id"], generation=later["generation"])
        return {"message": made["id"], "head": kept.conversations[name]["head"]}

    @app.post("/api/places")
    async def tell_place(request: Request) -> Any:
        return _told(kept, (await request.json())["place"])

    @app.post("/api/messages/{name}/delete")
    async def delete(name: str, request: Request) -> Any:
        mode = (await request.json())["mode"]
        home = kept.home(name)
        gone = [m for m in home["messages"] if name in [p["id"] for p in kept.path(m["id"])]] if mode == "below" else [kept.message(name)]
        moved = [] if mode == "below" else [m for m in home["messages"] if m["parent"] == name]
        ticket = kept.new_id("u")
        kept.undo[ticket] = (home, home["head"], gone, [(m, name) for m in moved])
        for message in gone:
            message["deleted"] = True
        for message in moved:
            message["parent"] = kept.message(name)["parent"]
        if kept.message(home["head"])["deleted"]:
            home["head"] = kept.message(name)["parent"]
        return {"undo": ticket}

    @app.post("/api/undo/{ticket}")
    def undo(ticket: str) -> Any:
        home, home["head"], gone, moved = kept.undo.pop(ticket)
        for message in gone:
            message["deleted"] = False
        for message, parent in moved:
            message["parent"] = parent
        return {}

    @app.post("/api/messages/{name}/hide")
    async def hide(name: str, request: Request) -> Any:
        kept.message(name)["hidden"] = (await request.json())["hidden"]
        return {}

    @app.get("/api/messages/{name}/tokens")
    def tokens(name: str) -> Any:
        return {"tokens": (kept.message(name)["generation"] or {}).get("tokens", [])}

    @app.post("/api/conversations/{name}/answer")
    async def answer(name: str, request: Request) -> Any:
        body = await request.json()
        kept.asked.append(body)
        return StreamingResponse(_answer(kept, name, body), media_type="text/event-stream")

    @app.post("/api/feedback")
    async def give(request: Request) -> Any:
        body = await request.json()
        row = {
            "id": kept.new_id("f"),
            "created": _now(),
            "conversation": kept.home(body["message"])["id"],
            "text": _text(kept.message(body["message"])),
        }
        kept.feedback[row["id"]] = {**row, **body}
        kept.message(body["message"])["feedback"].append({"id": row["id"], "kind": body["kind"], "value": body["value"]})
        return kept.feedback[row["id"]]

    @app.get("/api/feedback")
    def feedback(q: str = "", kind: str = "") -> Any:
        rows = [row for row in kept.feedback.values() if q.lower() in json.dumps(row).lower() and kind in ("", row["kind"])]
        return {"feedback": rows[::-1], "next": None}

    @app.patch("/api/feedback/{name}")
    async def change_feedback(name: str, request: Request) -> Any:
        kept.feedback[name].update(await request.json())
        return kept.feedback[name]

    @app.delete("/api/feedback/{name}")
    def delete_feedback(name: str) -> Any:
        del kept.feedback[name]
        return {}

    @app.post("/api/choices")
    async def choice(request: Request) -> Any:
        kept.choices.append(await request.json())
        return {}

    @app.get("/api/export")
    def export(kind: str) -> Any:
        lines = [row for row in kept.feedback.values() if row["kind"] == "correction"] if kind == "sft" else []
        return Response("".join(json.dumps(line) + "\n" for line in lines), media_type="application/x-ndjson")

    @app.post("/api/attachments")
    async def attach(request: Request) -> Any:
        name = kept.new_id("a")
        kept.attachments[name] = (unquote(request.headers["x-name"]), await request.body())
        return {"id": name, "name": kept.attachments[name][0], "type": "text/plain", "size": len(kept.attachments[name][1])}

    @app.get("/api/attachments/{name}")
    def attachment(name: str) -> Any:
        return Response(kept.attachments[name][1])

    @app.exception_handler(KeyError)
    def missing(request: Request, error: KeyError) -> JSONResponse:
        return JSONResponse({"error": {"message": f"There is no {error}."}}, 404)

    return app


def _told(kept: Kept, given: dict[str, Any]) -> dict[str, Any]:
    """A place with its figures, by the server's own code over what is kept here."""
    part = PointedPart.model_validate(given)
    source, limits = given["source"], TableLimits()
    if "attachment" in source:
        name, content = kept.attachments[source["attachment"]]
        told = of_table(read_csv(content.decode("utf-8-sig"), name, limits), part.selection, part.shown)  # type: ignore[arg-type]
    else:
        name, stretch = "", _text(kept.message(source["message"]))[source["start"] : source["end"]]
        assert part.selection.kind != "sentence" or part.shown in (None, stretch), (part.shown, stretch)
        told = (
            of_sentence(stretch)
            if part.selection.kind == "sentence"
            else of_table(table_in(stretch, "a table", limits), part.selection, part.shown)
        )
    figures = [[one.sentence, one.value] for one in told.figures]
    return {
        "type": "place",
        "source": source,
        "selection": given["selection"],
        "name": name,
        "label": told.label,
        "text": told.text,
        "figures": figures,
    }


def _shown(conversation: dict[str, Any]) -> dict[str, Any]:
    messages = [{**m, "generation": m["generation"] and {**m["generation"], "tokens": []}} for m in conversation["messages"]]
    return {**conversation, "messages": messages}


def _text(message: dict[str, Any]) -> str:
    return "\n\n".join(part["text"] for part in message["parts"] if part["type"] == "text")


async def _answer(kept: Kept, name: str, body: dict[str, Any]) -> AsyncIterator[str]:
    def frame(**event: Any) -> str:
        return f"data: {json.dumps(event)}\n\n"

    asked = _text(kept.message(body["parent"])).lower()
    said = itertools.groupby(kept.path(body["parent"]), key=lambda m: m["role"])
    turns = [[m["id"] for m in turn] for role, turn in said if role == "user"]
    text = HARMFUL if "markup" in asked else CITED if "sources" in asked else ANSWER
    if "slow" in asked:
        text = " ".join(["word"] * 4000)  # two minutes: no test waits for its end
    pause = 0.03 if "slow" in asked else 0.002
    before = kept.conversations[name]["head"]
    message = kept.add(name, "assistant", "", body["parent"])
    kept.conversations[name]["head"] = before
    yield frame(type="message", id=message["id"], parent=body["parent"])
    for turn in turns:  # of all that is read, as the real server tells it
        if len(turn) > 1:
            yield frame(type="joined", messages=turn)
    citations = SOURCES if "sources" in asked else []
    for citation in citations:
        yield frame(type="citation", **citation)
    generation: dict[str, Any] = {"model": body["model"], "levers": body["levers"], "settings": body["settings"], "citations": citations}
    generation["joined"] = len(turns[-1])
    generation |= {"tokens": [], "reason": "cancelled", "usage": None, "confidence": None}
    message["generation"] = generation
    for token in tokens_of(text):
        await asyncio.sleep(pause)
        message["parts"][0]["text"] += token["text"]
        generation["tokens"].append(token)
        came = {"prompt_tokens": None, "completion_tokens": len(generation["tokens"])}
        generation["usage"] = came | {"seconds": 0.5, "first_token_seconds": 0.02}
        yield frame(type="text", text=token["text"]) + frame(type="token", **token)
        if "fail" in asked and len(generation["tokens"]) > 4:
            generation["reason"] = "error"
            yield frame(type="error", message="The engine fell over.") + frame(type="done", reason="error")
            return
    count = len(generation["tokens"])
    usage = {"prompt_tokens": 12, "completion_tokens": count, "seconds": 0.02 + count * pause, "first_token_seconds": 0.02}
    usage["energy_joules"] = {"low": 1.234, "high": 5.678, "source": "modelled", "shared": False}
    kept.conversations[name]["head"] = message["id"]
    generation |= {"usage": usage, "reason": "stop"}
    yield frame(type="usage", **usage) + frame(type="done", reason="stop")
