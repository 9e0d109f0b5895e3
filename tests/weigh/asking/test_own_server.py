"""The same report through an endpoint: our own server, asked over HTTP, is found to be what it serves."""

from __future__ import annotations

import json
import random

import pytest

from steelyard.core import recipe as recipes
from steelyard.serve.engine_process import ServedModel
from steelyard.weigh.asking import roster
from steelyard.weigh.records import Records
from steelyard.weigh.runner import weigh
from tests.serve.live_server import LiveServer
from tests.serve.tiny_served import saved_talker

pytest.importorskip("fastapi", reason="the server needs fastapi")


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    """A tiny model here, and the same one behind our server, on every kind of request."""
    folder = tmp_path_factory.mktemp("served")
    path = saved_talker(folder / "tiny", max_position_embeddings=512)
    words = random.Random(1)
    rows = [
        {"question": f"What is {i} and {i}?", "choices": [str(2 * i), f"a fish ~ {words.random():.3f}", "é🗼"], "answer": 0}
        for i in range(6)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "text.txt").write_text(" ".join(f"Sentence {i} is about the number {i * i}. Ünïcode 🗼." for i in range(30)))
    passages = [{"en": f"Number {i} is green.", "de": f"Die Zahl {i} ist grün. 🗼"} for i in range(3)]
    (folder / "parallel.jsonl").write_text("\n".join(map(json.dumps, passages)))
    server = LiveServer([ServedModel("tiny", str(path))])
    try:
        remote = {"endpoint": {"url": server.url + "/v1", "model": "tiny"}}
        value = {
            "base": str(path),
            "arms": {"remote": remote, "told": {**remote, "steps": [{"prompt": "Be brief."}]}, "here": [{"prompt": "Be brief."}]},
            "tasks": [
                {"arithmetic": {"problems": 8, "shown": 1, "max_tokens": 6}},
                {"choices": {"path": str(folder / "rows.jsonl")}},
                {"bits_per_byte": {"path": str(folder / "text.txt"), "pieces": 6, "piece_bytes": 80}},
                {"parallel_text": {"path": str(folder / "parallel.jsonl")}},
            ],
            "axes": ["quality", "languages", "calibration", "format", "repeatability"],
            "seed": 3,
        }
        report = weigh(recipes.from_mapping(value, name="both"), folder / "run", say=lambda line: None, progress=lambda *told: None)
    finally:
        server.close()
    marks = {name: seeds[""] for name, seeds in roster.read(folder / "run").items()}
    with Records(folder / "run" / "records.sqlite") as records:
        rows = [(address, output) for address, output in records if address["trial"] >= 0]

    def pairs(task, mark):
        """(here, there) of everything both were asked: greedy and sampled answers to one question are told apart by their own words."""
        sides = []
        for name in ("base", "remote"):
            mine = [(address, output) for address, output in rows if (address["task"], address["arm"]) == (task, marks[name][mark])]
            sides.append(sorted(mine, key=lambda row: (row[0]["sample"], row[0]["trial"], row[1].text)))
        assert [(one["sample"], one["trial"]) for one, _ in sides[0]] == [(one["sample"], one["trial"]) for one, _ in sides[1]]
        return [(here, there) for (_, here), (_, there) in zip(*sides, strict=True)]

    return report, pairs


def test_answers_and_their_probabilities_are_those_of_the_model_here(weighed):
    _, pairs = weighed
    answers = pairs("arithmetic", "fingerprint")
    assert len(answers) == 8 + 3 * 8  # greedy, and three times at temperature 0.8
    for here, there in answers:
        assert (here.text, here.reason, here.usage.completion_tokens) == (there.text, there.reason, there.usage.completion_tokens)
        assert [token.logprob for token in there.tokens] == pytest.approx([token.logprob for token in here.tokens], abs=1e-5)
        assert (here.model, there.model) == ("", "tiny")


@pytest.mark.parametrize(
    ("task", "mark"), [("choices", "fingerprint"), ("bits_per_byte", "read_fingerprint"), ("parallel_text", "read_fingerprint")]
)
def test_log_probabilities_of_given_texts_are_those_of_the_model_here(weighed, task, mark):
    _, pairs = weighed
    scored = pairs(task, mark)
    assert len(scored) == 6
    for here, there in scored:
        assert [score.logprob for score in there.scores] == pytest.approx([score.logprob for score in here.scores], abs=1e-5)
        for field in ("greedy", "tokens", "bytes"):
            assert [getattr(score, field) for score in there.scores] == [getattr(score, field) for score in here.scores]


def test_the_report_has_every_cell_and_no_difference(weighed):
    report, _ = weighed
    cells = [cell for cell in report.cells if cell.arm == "remote"]
    assert {cell.task for cell in cells} >= {"arithmetic", "choices", "bits_per_byte"}
    for cell in cells:
        assert cell.verdict != "not measurable" or cell.base is None, cell
        if cell.value is not None:
            assert cell.value == pytest.approx(cell.base, abs=1e-4)
    assert "answered as tiny" in report.arms["remote"].note


def test_what_stands_around_an_endpoint_passes_its_probabilities_on(weighed):
    report, pairs = weighed
    there, here = (
        {cell.metric: cell.value for cell in report.cells if (cell.arm, cell.task) == (arm, "choices")} for arm in ("told", "here")
    )
    assert there.keys() == here.keys() and there["acc"] is not None
    for metric, value in here.items():
        assert there[metric] == pytest.approx(value, abs=1e-4)
