"""Two workers on Ray answer as one process does, record for record."""

from __future__ import annotations

import importlib.util
import json

import pytest
from tiny_talker import tiny_talker

from steelyard.core import recipe as recipes
from steelyard.core.errors import SteelyardError, UnsupportedError
from steelyard.core.recipe_parts import Where
from steelyard.core.run import Run
from steelyard.weigh.asking.ray_workers import RayOpener
from steelyard.weigh.records import Records
from steelyard.weigh.report.json import quality_part
from steelyard.weigh.runner import weigh

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'steelyard[ray]' (80 MB)")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A recipe about a tiny model with every kind of request, and levers on weights, decoding and the conversation."""
    folder = tmp_path_factory.mktemp("recipe")
    tiny_talker(max_position_embeddings=512).save(folder / "tiny")
    (folder / "text.txt").write_text(" ".join(f"Sentence {i} is about the number {i * i}." for i in range(60)))
    rows = [{"question": f"{i} and {i}?", "choices": [str(2 * i), "a fish"], "answer": 0} for i in range(8)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "base": str(folder / "tiny"),
        "arms": {"int8": [{"quantize": {"bits": 8}}], "brief": [{"prompt": "Be brief"}]},
        "tasks": [
            {"arithmetic": {"problems": 10, "shown": 1, "max_tokens": 8}},
            {"choices": {"path": str(folder / "rows.jsonl")}},
            {"bits_per_byte": {"path": str(folder / "text.txt"), "pieces": 6, "piece_bytes": 120}},
        ],
        "axes": ["quality", "calibration", "format", "repeatability", "diversity"],
        "seed": 3,
    }


def quiet(value, directory, say=lambda line: None):
    return weigh(recipes.from_mapping(value, name="both"), directory, say=say, progress=lambda *told: None)


def kept(directory):
    """Every record without its time."""
    with Records(directory / "records.sqlite") as records:
        return [(address, {**vars(output), "seconds": None}) for address, output in records]


@needs_ray
def test_two_workers_give_the_records_and_the_report_of_one_process(written, tmp_path):
    alone = quiet(written, tmp_path / "alone")
    lines = []
    spread = quiet(written | {"run": {"ray": "auto", "workers": 2, "threads": 1}}, tmp_path / "spread", lines.append)
    assert "Asking 2 workers of 1 processors each, on Ray." in lines
    assert kept(tmp_path / "spread") == kept(tmp_path / "alone")
    one, other = json.loads(quality_part(alone)), json.loads(quality_part(spread))
    assert other["recipe"].pop("run") == {"ray": "auto", "workers": 2, "threads": 1}
    assert other == one


@needs_ray
def test_a_worker_killed_in_the_middle_is_told_and_the_same_command_finishes(written, tmp_path):
    alone = quiet(written, tmp_path / "alone")
    where = Where(ray="auto", workers=2, threads=1)
    opener, killed = RayOpener(Run(tmp_path / "spread"), where), []

    def kill(task, done, total, note):
        if not killed and task == "base: choices" and done:
            killed.append(opener.workers[1])
            opener.ray.kill(opener.workers[1])

    one = recipes.from_mapping(written, name="both")
    with pytest.raises(SteelyardError, match="a worker failed") as told:
        weigh(one, tmp_path / "spread", say=lambda line: None, progress=kill, opener=opener)
    assert killed and "run the same command again" in str(told.value)
    finished = {address["key"] for address, output in kept(tmp_path / "spread") if output["failure"] is None}
    assert finished and all(output["failure"] is None for _, output in kept(tmp_path / "spread")), "the samples are not to blame"
    quiet(written | {"run": {"ray": "auto", "workers": 2, "threads": 1}}, tmp_path / "spread")
    assert kept(tmp_path / "spread") == kept(tmp_path / "alone")
    assert quality_part(alone)


@needs_ray
def test_a_cluster_that_does_not_answer_is_told(written, tmp_path):
    for address in ("127.0.0.1:9", "nonsense", "ray://127.0.0.1:9"):
        with pytest.raises(SteelyardError, match="no Ray cluster answers"):
            RayOpener(Run(tmp_path), Where(ray=address))


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_it_says_what_to_install(written, tmp_path):
    with pytest.raises(UnsupportedError, match=r"steelyard\[ray\]"):
        quiet(written | {"run": {"ray": "auto"}}, tmp_path)


def test_workers_without_ray_are_refused_and_where_it_runs_is_no_other_recipe(written, tmp_path):
    with pytest.raises(SteelyardError, match="add `ray: auto`"):
        recipes.from_mapping(written | {"arms": {}, "run": {"workers": 2}})
    for wrong in ({"ray": ""}, {"ray": "auto", "workers": 0}, {"rays": "auto"}, "auto"):
        with pytest.raises(SteelyardError, match="run"):
            recipes.from_mapping(written | {"arms": {}, "run": wrong})
    from steelyard.weigh.directory import differences

    one = recipes.from_mapping(written | {"arms": {}}).resolved()
    assert differences(one, one | {"run": {"ray": "auto"}}) == differences(one | {"run": {"ray": "auto"}}, one) == []
