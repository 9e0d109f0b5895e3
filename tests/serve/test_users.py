"""Users: who a key belongs to, and that no route finds, changes or tells of what is somebody else's.

The routes come from the OpenAPI document, so that one that is added is held to this too. Wherever a route takes an id (in its path, its
query or its body), Bob puts Ann's id there and everything else is his own: he is answered 404, word for word as for an id that never was.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from steelyard.core.errors import SteelyardError
from steelyard.serve import users
from steelyard.serve.engine_process import ServedModel
from steelyard.serve.settings import ServeSettings
from steelyard.serve.users import Keys, digest_of, users_from
from tests.serve.live_server import LiveServer
from tests.serve.tiny_served import saved_talker

ANN, BOB = "key-of-ann-key-of-ann", "key-of-bob-key-of-bob"
NO_IDS = {"model", "name", "file"}
"""Path parameters that name what belongs to all users: models, and reports with their files."""
KINDS = {"parent": "question", "turn": "question", "message": "answer", "chosen": "answer", "rejected": "other", "edited_from": "question"}
KINDS |= {"head": "answer", "end": "answer", "cursor": ""}
"""Fields that hold an id under another name than that of the thing."""
WORTH: dict[str, Any] = {
    **{"model": "tiny", "settings": {"max_tokens": 2}, "role": "user", "kind": "thumbs", "value": "up", "strength": 1, "mode": "this"},
    **{"end": 3, "hidden": True, "title": "title", "text": "text"},
}
"""What stands in fields that hold no id."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server for Ann and Bob."""
    folder = tmp_path_factory.mktemp("users")
    model = ServedModel("tiny", str(saved_talker(folder / "tiny", max_position_embeddings=2048)), slots=2, threads=1)
    (folder / "runs" / "first").mkdir(parents=True)
    (folder / "runs" / "first" / "report.html").write_text("<h1>first</h1>")
    users = {"ann": digest_of(ANN), "bob": digest_of(BOB)}
    running = LiveServer([model], store=folder / "store.sqlite", runs=folder / "runs", users=users)
    try:
        yield running
    finally:
        running.close()


NEEDED = {"/api/indexes/{index}/place": ["document"]}
"""What must be there beside the ids of a route for its owner to be answered."""
BODIES = {
    "/api/indexes/{index}/place": {"source": "table.csv", "text": "1,2"},
    "/api/indexes/place": {"index": "shared by all", "source": "table.csv", "text": "1,2"},
    "/api/attachments/{attachment}/pieces": {"left": 0, "top": 0, "width": 8, "height": 8},
}
"""Bodies that a schema alone does not lead to."""


class World:
    """Things of one user, made when they are first asked for."""

    def __init__(self, server: LiveServer, key: str):
        self.client = httpx.Client(base_url=server.url, timeout=240, verify=False, headers={"Authorization": f"Bearer {key}"})
        self.made: dict[str, str] = {}

    def __getitem__(self, kind: str) -> str:
        if kind not in self.made:
            self.made[kind] = getattr(self, f"_{kind}")()
        return self.made[kind]

    def post(self, path: str, body: Any) -> dict[str, Any]:
        answered = self.client.post(path, json=body)
        assert answered.status_code == 200, answered.text
        return answered.json()

    def say(self, role: str, parent: str | None) -> str:
        body = {"role": role, "parent": parent, "parts": [{"type": "text", "text": "Some words. And more."}]}
        return self.post(f"/api/conversations/{self['conversation']}/messages", body)["id"]

    def _conversation(self) -> str:
        return self.post("/api/conversations", {})["id"]

    def _question(self) -> str:
        return self.say("user", None)

    def _answer(self) -> str:
        return self.say("assistant", self["question"])

    def _other(self) -> str:
        return self.say("assistant", self["question"])

    def _attachment(self) -> str:
        return self.client.post("/api/attachments", content=b"a,b\n1,2\n3,4\n", headers={"X-Name": "table.csv"}).json()["id"]

    def _index(self) -> str:
        return self.post("/api/indexes", {"name": f"Of {self['attachment']}"})["id"]

    def _document(self) -> str:
        return self.post(f"/api/indexes/{self['index']}/documents", {"attachment": self["attachment"]})["id"]

    def _feedback(self) -> str:
        return self.post("/api/feedback", {"message": self["answer"], "kind": "thumbs", "value": "up"})["id"]

    def _undo(self) -> str:
        return self.post(f"/api/messages/{self['answer']}/hide", {"hidden": True})["undo"]

    def _stream(self) -> str:
        body = {"model": "tiny", "prompt": "hi", "max_tokens": 2, "stream": True, "steelyard": {"resumable": True}}
        return self.client.post("/v1/completions", json=body).headers["X-Steelyard-Stream"]


@dataclass(frozen=True)
class Slot:
    """A place for an id."""

    kind: str


@dataclass(frozen=True)
class Asking:
    """A request with places for ids."""

    method: str
    path: str
    query: Mapping[str, Any]
    body: Any

    @property
    def slots(self) -> list[Slot]:
        found = re.findall(r"\{(\w+)\}", self.path)
        return list(
            dict.fromkeys([Slot(KINDS.get(name, name)) for name in found if name not in NO_IDS] + list(_slots([self.query, self.body])))
        )

    def send(self, world: World, ids: Mapping[Slot, str]) -> httpx.Response:
        def filled(value: Any) -> Any:
            if isinstance(value, Slot):
                return ids.get(value) or world[value.kind]
            if isinstance(value, dict):
                return {key: filled(part) for key, part in value.items()}
            return [filled(part) for part in value] if isinstance(value, list) else value

        path = re.sub(r"\{(\w+)\}", lambda found: filled(Slot(KINDS.get(found[1], found[1]))), self.path)
        for kind in NEEDED.get(self.path, ()):
            assert world[kind]
        return world.client.request(self.method, path, params=filled(dict(self.query)), json=filled(self.body))


def _slots(value: Any) -> Iterator[Slot]:
    if isinstance(value, Slot):
        yield value
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _slots(part)


class Document:
    """The OpenAPI document, read for requests."""

    def __init__(self, document: dict[str, Any]):
        self.document = document

    def askings(self) -> Iterator[Asking]:
        """Every route that takes an id, with a body of each form it takes."""
        for path, methods in self.document["paths"].items():
            for method, route in methods.items():
                query = {
                    one["name"]: Slot(self.kind(one["name"]) or "")
                    for one in route.get("parameters", ())
                    if one["in"] == "query" and self.kind(one["name"])
                }
                schema = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
                for body in [BODIES[path]] if path in BODIES else [None] if schema is None else self.forms(schema, ""):
                    asking = Asking(method, path, query, body)
                    if path == "/api/erase":  # it takes exactly one of its two
                        for name in body:
                            yield Asking(method, path, query, {name: body[name]})
                    elif asking.slots:
                        yield asking

    @staticmethod
    def kind(name: str) -> str:
        """The kind of thing whose id a field of this name holds; empty where it holds none."""
        return KINDS.get(name, name if hasattr(World, f"_{name}") else "")

    def forms(self, schema: dict[str, Any], name: str) -> list[Any]:
        """Values of a schema: of each of its alternatives at least one."""
        if "$ref" in schema:
            return self.forms(self.document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], name)
        if alternatives := schema.get("anyOf", schema.get("oneOf")):
            return [form for one in alternatives if one.get("type") != "null" for form in self.forms(one, name)]
        if "const" in schema:
            return [schema["const"]]
        kind = schema.get("type")
        if kind == "string" and self.kind(name):
            return [Slot(self.kind(name))]
        if name in WORTH and kind != "array":
            return [WORTH[name]]
        if kind == "array":
            return [[form] for form in self.forms(schema.get("items", {}), name)]
        if kind == "object":
            inner = {
                key: self.forms(part, key)
                for key, part in schema.get("properties", {}).items()
                if key in schema.get("required", ()) or list(_slots(self.forms(part, key)))
            }
            return [dict(zip(inner, chosen, strict=True)) for chosen in itertools.product(*inner.values())]
        return [schema["enum"][0] if "enum" in schema else {"integer": 0, "number": 0.5, "boolean": True}.get(kind or "", "text")]


def test_no_route_tells_somebody_elses_thing_from_one_that_never_was(shared: LiveServer) -> None:
    ann = World(shared, ANN)
    document = Document(ann.client.get("/openapi.json").json())
    unknown = [
        name
        for path in document.document["paths"]
        for name in re.findall(r"\{(\w+)\}", path)
        if name not in NO_IDS and not document.kind(name)
    ]
    assert not unknown, f"tell World how Ann gets one of these, or NO_IDS that they are everybody's: {unknown}"
    held: dict[tuple[str, str, str], bool] = {}
    for asking in document.askings():
        bob = World(shared, BOB)
        for slot in asking.slots:
            foreign = asking.send(bob, {slot: ann[slot.kind]})
            nowhere = asking.send(bob, {slot: re.sub("[0-9a-f]", "0", ann[slot.kind])})
            assert (foreign.status_code, foreign.text) == (nowhere.status_code, nowhere.text), (asking, slot)
            assert foreign.status_code >= 400, (asking, slot)
            place = (asking.method, asking.path, slot.kind)
            held.setdefault(place, False)
            # A 404 says something only where the same request with an id of Bob's own is answered otherwise.
            if not held[place] and foreign.status_code == 404 and asking.send(World(shared, BOB), {}).status_code in (200, 204, 400):
                held[place] = True
    assert len(held) > 25
    assert not (bare := [place for place, holds in held.items() if not holds]), (
        f"no request of these was answered otherwise to its owner: {bare}"
    )


def test_what_is_somebody_elses_is_in_no_list_and_no_export(shared: LiveServer) -> None:
    ann, bob = World(shared, ANN), World(shared, BOB)
    assert ann["feedback"] and ann["undo"]
    ann.client.patch(f"/api/conversations/{ann['conversation']}", json={"title": "of ann alone"})
    for path in ("/api/conversations?q=of+ann+alone", "/api/export?kind=conversations", "/api/export?kind=sft", "/api/feedback"):
        told = bob.client.get(path)
        assert told.status_code == 200 and ann["conversation"] not in told.text and "of ann alone" not in told.text
    lines = ann.client.get("/api/export?kind=conversations").text
    assert bob.client.post("/api/import", content=lines.encode()).status_code == 200
    mine = json.loads(bob.client.get("/api/conversations?q=of+ann+alone").text)["conversations"]
    assert mine and ann["conversation"] not in {one["id"] for one in mine}, "what is imported is a copy under ids of its own"


def test_what_one_user_had_read_is_reused_for_nobody_else(shared: LiveServer) -> None:
    def reused() -> float:
        told = httpx.get(f"{shared.url}/metrics", headers={"Authorization": f"Bearer {ANN}"}).text
        return float(re.search(r'^steelyard_engine_prefix_tokens_total\{model="tiny"\} (.*)$', told, re.M)[1])  # type: ignore[index]

    body = {"model": "tiny", "prompt": "a long secret that only one of them wrote " * 30, "max_tokens": 1}
    ann, bob = World(shared, ANN), World(shared, BOB)
    ann.post("/v1/completions", body)
    before = reused()
    bob.post("/v1/completions", body)
    assert reused() == before
    ann.post("/v1/completions", body)
    assert reused() > before


def test_everybody_needs_a_key_and_nobody_but_its_user_has_it(shared: LiveServer) -> None:
    for headers in ({}, {"Authorization": "Bearer key-of-nobody-key-of-nobody"}, {"Authorization": f"Bearer {digest_of(ANN)}"}):
        assert httpx.get(f"{shared.url}/v1/models", headers=headers).status_code == 401
    assert httpx.get(f"{shared.url}/ready").status_code == 200
    assert ANN not in repr(shared.settings) and digest_of(ANN) not in repr(shared.settings)


def test_users_are_read_from_yaml_and_json_with_keys_or_digests(tmp_path: Path) -> None:
    told = {"ann": digest_of(ANN), "bob": digest_of(BOB)}
    (tmp_path / "users.yaml").write_text(f"ann: {ANN}\nbob: sha256:{digest_of(BOB)}\n")
    (tmp_path / "users.json").write_text(json.dumps({"ann": ANN, "bob": BOB}))
    assert users_from(tmp_path / "users.yaml") == users_from(tmp_path / "users.json") == told
    (tmp_path / "many.json").write_text(json.dumps({f"user{number}": f"sha256:{number:064x}" for number in range(users.MOST)}))
    assert len(users_from(tmp_path / "many.json")) == users.MOST
    keys = Keys.of(told, None)
    assert (keys.user(ANN.encode()), keys.user(BOB.encode()), keys.user(b""), keys.user(digest_of(BOB).encode())) == (
        "ann",
        "bob",
        None,
        None,
    )
    settings = ServeSettings.model_validate({"host": "0.0.0.0", "users": told})
    settings.check()
    with pytest.raises(SteelyardError, match="users with keys of their own"):
        settings.model_copy(update={"key": ServeSettings.model_validate({"key": ANN}).key}).check()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "ann", "{}", "ann: short-secret", "ann: 12345678901234567890", "ann: secret with a lot of spaces", "ann: [secret-secret-secret]",
     "ann: sha256:secret-secret-secret-secret", "'': secret-secret-secret", "a b: secret-secret-secret", "ann: secret-secret-secret: x",
     "ann: secret-secret-secret\nbob: secret-secret-secret", "ann: secret-secret-secret\nann: secret2-secret-secret", "ann: 'secret-secret",
     "ann: sécret-secret-secret", "ann: !secret secret-secret-secret"],
)  # fmt: skip
def test_a_file_of_users_that_is_not_right_is_refused_without_quoting_a_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "users.yaml").write_text(text)
    with pytest.raises(SteelyardError) as refusal:
        users_from(tmp_path / "users.yaml")
    assert "secret-" not in str(refusal.value) and "12345" not in str(refusal.value)


def test_a_session_opens_reports_and_nothing_else(shared: LiveServer) -> None:
    key = {"Authorization": f"Bearer {ANN}"}
    with httpx.Client(base_url=shared.url, timeout=240) as browser:
        assert browser.post("/api/reports/session").status_code == 401
        opened = browser.post("/api/reports/session", headers=key)
        told = opened.headers["set-cookie"].lower()
        assert opened.status_code == 204 and all(
            part in told for part in ("httponly", "samesite=strict", "path=/api/reports", "max-age=600")
        )
        assert browser.get("/api/reports/first/report.html").text == "<h1>first</h1>"
        cookie = {"Cookie": opened.headers["set-cookie"].split(";")[0]}
        for method, path in (
            ("GET", "/api/reports"), ("GET", "/api/reports/"), ("POST", "/api/reports/session"), ("DELETE", "/api/reports/session"),
            ("POST", "/api/reports/first/report.html"), ("GET", "/api/conversations"), ("GET", "/v1/models"), ("GET", "/metrics"),
            ("GET", "/api/reports/../conversations"),
        ):  # fmt: skip
            assert browser.request(method, path, headers=cookie).status_code == 401, (method, path)
        for forged in ("", "steelyard_reports=", "steelyard_reports=guess", "steelyard_reports=\u00e9", 'a="; steelyard_reports'):
            assert httpx.get(f"{shared.url}/api/reports/first/report.html", headers={"Cookie": forged.encode()}).status_code == 401
        apart = {**cookie, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert browser.get("/api/reports/first/report.html", headers=apart).status_code == 403, "another page cannot embed or open it"
        other = httpx.delete(f"{shared.url}/api/reports/session", headers={"Authorization": f"Bearer {BOB}"})
        assert other.status_code == 204 and browser.get("/api/reports/first/report.html").status_code == 200
        assert browser.delete("/api/reports/session", headers=key).status_code == 204
        assert httpx.get(f"{shared.url}/api/reports/first/report.html", headers=cookie).status_code == 401
