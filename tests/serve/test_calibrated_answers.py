"""Calibrated confidence over a whole server: said where a calibration is about the very model, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steelyard.augment.answerers import LocalAnswerer
from steelyard.augment.uncertainty.calibration import Calibration
from steelyard.augment.uncertainty.calibrators import Platt
from steelyard.augment.uncertainty.risk_control import Threshold
from steelyard.augment.uncertainty.subject import subject
from steelyard.core.errors import SteelyardError
from steelyard.generate.engine import Engine
from steelyard.model.load import load
from steelyard.serve.engine_calibration import named_once
from steelyard.serve.engine_opening import open_model
from steelyard.serve.engine_process import ServedModel
from tests.serve.live_server import LiveServer
from tests.serve.tiny_served import saved_talker
from tests.tiny_talker import CHATML

QUESTION = [{"role": "user", "content": "hello there"}]


def made_for(folder: Path) -> Calibration:
    """A calibration by mean token probability of the model that lies in a folder."""
    with Engine(load(str(folder)), deterministic=True) as engine:
        about = subject(LocalAnswerer(engine))
    return Calibration(
        subject=about, model="tiny", task="facts", task_fingerprint="f", seed=1, made="2026-03-04T05:06:07+00:00",
        measure="mean_probability", n=312, right=0.4, calibrator=Platt(1.0, 0.5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """`sure`: calibrated by a file in its folder; `named`: by one named at the start; `careful`: abstains; `other`: a file about another."""
    folder = tmp_path_factory.mktemp("calibrated")
    for seed, name in enumerate(("sure", "named", "careful", "other")):
        saved_talker(folder / name, seed=seed, template=CHATML.replace("assistant\n", "assistant\na"))  # it says again what it read last
    sure = made_for(folder / "sure")
    sure.write(folder / "sure" / "calibration.json")
    sure.write(folder / "other" / "calibration.json")
    made_for(folder / "named").write(folder / "named.json")
    limit = Threshold(alpha=0.1, delta=0.1, above=0.99, share=0.2, wrong=0.05, n=312)
    dataclasses.replace(made_for(folder / "careful"), threshold=limit).write(folder / "careful" / "limit.json")
    record = json.loads((folder / "careful" / "steelyard.json").read_text())
    record["serve"] = [{"abstain": {"calibration": "limit.json"}}]  # beside it
    (folder / "careful" / "steelyard.json").write_text(json.dumps(record))
    models = [
        ServedModel(name, str(folder / name), slots=1, threads=1, calibrations=(str(folder / "named.json"),))
        for name in ("sure", "named", "careful", "other")
    ]
    running = LiveServer(models, store=folder / "store.sqlite")
    try:
        yield running
    finally:
        running.close()


def completed(server: LiveServer, model: str, **more: Any) -> dict[str, Any]:
    reply = server.post("/v1/chat/completions", {"model": model, "messages": QUESTION, "max_tokens": 6, "temperature": 0, **more})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]


def answered(server: LiveServer, model: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of the page's answer, and the record that is kept."""
    conversation = server.post("/api/conversations", {}).json()["id"]
    body = {"parent": None, "role": "user", "parts": [{"type": "text", "text": "hello there"}]}
    question = server.post(f"/api/conversations/{conversation}/messages", body).json()["id"]
    ask = {"parent": question, "model": model, "settings": {"max_tokens": 6, "ignore_eos": True}, "levers": [], "store": True}
    with server.client.stream("POST", f"/api/conversations/{conversation}/answer", json=ask) as response:
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: ")]
    return events, server.client.get(f"/api/conversations/{conversation}").json()["messages"][-1]["generation"]


@pytest.mark.parametrize("model", ["sure", "named"])
def test_an_answer_tells_its_chance_and_what_that_was_measured_on(server: LiveServer, model: str) -> None:
    events, record = answered(server, model)
    last = [event for event in events if event["type"] == "confidence"][-1]
    assert last == {"type": "confidence"} | record["confidence"]
    assert last["kind"] == "calibrated" and 0 < last["value"] < 1
    assert last["calibration"]["task"] == "facts" and last["calibration"]["n"] == 312
    assert last["calibration"]["made"] == "2026-03-04T05:06:07+00:00" and not last["calibration"]["abstains"]
    text = "".join(event["text"] for event in events if event["type"] == "text")
    (sentence,) = last["sentences"]
    assert text[sentence["start"] : sentence["end"]] == text.strip() and sentence["value"] == pytest.approx(last["value"])
    assert record["tokens"], "the record holds the tokens as ever"


def test_clients_of_the_api_are_told_under_steelyard(server: LiveServer) -> None:
    assert completed(server, "sure")["steelyard"]["confidence"]["kind"] == "calibrated"
    body = {"model": "sure", "messages": QUESTION, "max_tokens": 6, "temperature": 0, "stream": True}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    told = [chunk["choices"][0]["steelyard"]["confidence"] for chunk in chunks if chunk["choices"] and "steelyard" in chunk["choices"][0]]
    assert told[0]["kind"] == "calibrated" and "start" not in told[0]
    response = server.post("/v1/responses", {"model": "sure", "input": "hello", "max_output_tokens": 6, "temperature": 0}).json()
    assert response["steelyard"]["confidence"]["kind"] == "calibrated"


def test_the_list_of_models_says_what_is_calibrated(server: LiveServer) -> None:
    told = {model["id"]: model["steelyard"]["calibration"] for model in server.client.get("/v1/models").json()["data"]}
    assert told["sure"]["measure"] == "mean_probability" and told["careful"]["abstains"] and told["other"] is None


def test_a_file_about_another_model_is_not_believed(server: LiveServer) -> None:
    events, record = answered(server, "other")
    assert record["confidence"] is None and "confidence" not in {event["type"] for event in events}
    assert "steelyard" not in completed(server, "other")


def test_nothing_is_claimed_of_an_answer_with_other_levers_or_drawn_otherwise(server: LiveServer) -> None:
    assert "confidence" not in completed(server, "sure", steelyard={"levers": [{"prompt": "Be brief."}]}).get("steelyard", {})
    assert completed(server, "sure", temperature=0.9, seed=1)["steelyard"]["confidence"]["kind"] == "mean_probability"
    asked = completed(server, "sure", steelyard={"levers": [{"confidence": "entropy"}]})
    assert asked["steelyard"]["confidence"]["kind"] == "entropy"


def test_an_unsure_model_says_so_and_its_words_are_not_kept(server: LiveServer) -> None:
    events, record = answered(server, "careful")
    assert [event["text"] for event in events if event["type"] == "text"] == ["I am not sure."]
    assert record["confidence"]["kind"] == "abstained" and record["confidence"]["calibration"]["threshold"]["alpha"] == 0.1
    assert not record["tokens"]


def test_a_promise_is_not_stretched_to_answers_drawn_otherwise(server: LiveServer) -> None:
    body = {"model": "careful", "messages": QUESTION, "max_tokens": 6, "temperature": 0.9}
    refused = server.post("/v1/chat/completions", body)
    assert refused.status_code == 400 and "temperature 0" in refused.json()["error"]["message"]


def test_a_file_about_none_of_the_models_or_a_broken_one_stops_the_start(tmp_path: Path) -> None:
    saved_talker(tmp_path / "tiny")
    (tmp_path / "tiny" / "calibration.json").write_text("{")
    asked = {
        "name": "tiny",
        "source": str(tmp_path / "tiny"),
        "levers": [],
        "threads": 1,
        "dtype": None,
        "slots": 1,
        "context": None,
        "device": "cpu",
    }
    with pytest.raises(SteelyardError, match=r"model `tiny`.*calibration\.json"):
        open_model(asked, 1, (), (), False, lambda line: None)
    with pytest.raises(SteelyardError, match="about none of the models"):
        named_once(str(tmp_path / "c.json"), [None])
