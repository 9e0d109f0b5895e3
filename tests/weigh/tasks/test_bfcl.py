"""BFCL: functions are offered as OpenAI's API describes them, calls that a model writes are read and judged, and bad rows are named."""

from __future__ import annotations

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_talker import tiny_talker

from steelyard.augment.answerers import EndpointAnswerer, LocalAnswerer
from steelyard.core.errors import DataError, SteelyardError, UnsupportedError
from steelyard.core.protocols import AnswerSettings, ToolCall
from steelyard.generate.engine import Engine
from steelyard.weigh.asking.answering import answer_all
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.cells.scoring import score
from steelyard.weigh.records import Records
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.sets.bfcl import installed
from steelyard.weigh.tasks.task import Ask, Output, Sample, Task
from tests.augment.endpoint_server import USAGE, serving, stream

WATER = {
    "name": "garden.water",
    "description": "Waters a bed.",
    "parameters": {
        "type": "dict",
        "properties": {"bed": {"type": "string"}, "litres": {"type": "float"}, "days": {"type": "tuple", "items": {"type": "any"}}},
        "required": ["bed", "litres"],
    },
}
RIGHT = {"garden.water": {"bed": ["roses", "the roses"], "litres": [2.0], "days": [["Monday"], ""]}}


def folder_of(
    folder: Path, question: Any = None, function: Any = None, answers: Any = None, category: str = "simple_python", number: str = "a_0"
) -> Path:
    """A folder in the package's form with one row of one category."""
    asked = question or [[{"role": "user", "content": "Give the roses two litres."}]]
    row = {"id": number, "question": asked, "function": [WATER] if function is None else function}
    (folder / "possible_answer").mkdir(exist_ok=True)
    (folder / f"BFCL_v4_{category}.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    answer = {"id": "a_0", "ground_truth": [RIGHT] if answers is None else answers}
    (folder / "possible_answer" / f"BFCL_v4_{category}.json").write_text(json.dumps(answer) + "\n", encoding="utf-8")
    return folder


def task_of(folder: Path, *categories: str) -> tuple[Task, Sample]:
    task = registry.make("bfcl", {"path": str(folder), "categories": list(categories or ("simple_python",))})
    (sample,) = task.samples(3)
    return task, sample


def called(*calls: tuple[str, str], reason: str = "stop") -> Output:
    return Output(calls=tuple(ToolCall("", *call) for call in calls), reason=reason)


def test_functions_are_offered_in_openais_form_without_dots(tmp_path: Path) -> None:
    _, sample = task_of(folder_of(tmp_path))
    assert isinstance(sample.request, Ask)
    (tool,) = map(json.loads, sample.request.settings.tools)
    assert tool["function"]["name"] == "garden_water"
    properties = tool["function"]["parameters"]["properties"]
    assert [properties[name]["type"] for name in ("bed", "litres", "days")] == ["string", "number", "array"]
    assert properties["days"]["items"] == {"type": "string"} and tool["function"]["parameters"]["type"] == "object"
    assert sample.reference["expected"] == "garden_water(bed='roses', litres=2.0, days=['Monday'])"


@pytest.mark.parametrize(
    ("calls", "right", "function"),
    [
        ([("garden_water", '{"bed": "The Roses", "litres": 2}')], 1.0, 1.0),
        ([("garden_water", '{"bed": "roses", "litres": 2.0, "days": ["monday"]}')], 1.0, 1.0),
        ([("garden_water", '{"bed": "roses"}')], 0.0, 1.0),
        ([("garden_water", '{"bed": "roses", "litres": "2.0"}')], 0.0, 1.0),
        ([("garden_water", "no JSON at all")], 0.0, 1.0),
        ([("garden_water", '{"bed": "roses", "litres": 2}')] * 2, 0.0, 0.0),
        ([], 0.0, 0.0),
    ],
)
def test_a_call_is_right_by_name_and_arguments(tmp_path: Path, calls: list[tuple[str, str]], right: float, function: float) -> None:
    task, sample = task_of(folder_of(tmp_path))
    found = task.score(sample, called(*calls))
    assert (found["right"], found["function"], found["called"], found["declined"]) == (right, function, float(bool(calls)), None)


def test_where_no_function_answers_calling_none_is_asked_for(tmp_path: Path) -> None:
    task, sample = task_of(folder_of(tmp_path, category="irrelevance"), "irrelevance")
    assert [task.score(sample, each)["declined"] for each in (called(), called(("garden_water", "{}")))] == [1.0, 0.0]
    assert task.score(sample, called())["right"] is None


def test_a_call_and_any_is_enough_where_no_answers_are_known(tmp_path: Path) -> None:
    task, sample = task_of(folder_of(tmp_path, category="live_relevance"), "live_relevance")
    assert [task.score(sample, each)["right"] for each in (called(), called(("garden_water", "{}")))] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"function": [{**WATER, "parameters": {"type": "dict", "properties": {"a": {"type": "Date"}}}}]}, "type `Date`"),
        ({"function": []}, "`function` is empty"),
        ({"function": [WATER, {**WATER, "name": "garden_water"}]}, "one name"),
        ({"question": [[], []]}, "`question`"),
        ({"question": [[{"role": "tool", "content": "x"}]]}, "messages of tool"),
        ({"answers": [{"other": {}}]}, "calls `other`"),
        ({"answers": [{"garden.water": {"bed": "roses"}}]}, "ground_truth"),
        ({"number": "a_1"}, "no answer"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match="rows cannot be used") as error:
        task_of(folder_of(tmp_path, **row))
    assert complaint in str(error.value)


def test_without_the_package_it_says_how_to_get_it() -> None:
    if find_spec("bfcl_eval") is not None:
        assert (installed() / "BFCL_v4_simple_python.json").is_file()
        return
    with pytest.raises(UnsupportedError, match="pip install --no-deps bfcl-eval"):
        registry.make("bfcl", {}).samples(1)


CALL = '{"name": "garden_water", "arguments": {"bed": "roses", "litres": 2}}'


def asked(arm: OpenArm, task: Task, sample: Sample, folder: Path) -> Output:
    """What an arm gives, and what its record gives again."""
    with Records(folder / "records.sqlite") as records:
        (output,) = answer_all(arm, task.name, [sample], records, seed=1)
        assert answer_all(arm, task.name, [sample], records, seed=1) == [output]
    return output


def test_what_a_model_writes_is_read_as_calls_and_kept_as_written(tmp_path: Path) -> None:
    """A tiny model that can write nothing but this call; its template has no place for functions, so it is told of them in words."""
    pytest.importorskip("llguidance", reason="the extra `constraint` is not installed")
    task, sample = task_of(folder_of(tmp_path))
    assert isinstance(sample.request, Ask)
    exactly = "".join(f"[{letter}]" if letter not in "\\^" else f"\\{letter}" for letter in CALL)
    settings = AnswerSettings(max_tokens=200, constraint={"regex": exactly}, tools=sample.request.settings.tools)  # type: ignore[arg-type]
    sample = Sample(sample.id, Ask(sample.request.conversation, settings), sample.reference)
    with Engine(tiny_talker(max_position_embeddings=2048), dtype="float32", deterministic=True) as engine:
        output = asked(OpenArm("base", LocalAnswerer(engine), engine.fingerprint), task, sample, tmp_path)
        with pytest.raises(SteelyardError, match="tools are written into a conversation"):
            engine.generate([[*sample.request.conversation]], tools=settings.tools)  # type: ignore[union-attr]
    assert output.failure is None and output.text == CALL and output.reason == "tool_calls"
    assert output.calls == (ToolCall("", "garden_water", '{"bed": "roses", "litres": 2}'),)
    assert score(task, [sample], [[output]]).values["right"] == [1.0]


def test_an_endpoint_is_offered_the_functions_and_says_which_it_calls(tmp_path: Path) -> None:
    pytest.importorskip("httpx", reason="endpoints need httpx")
    task, sample = task_of(folder_of(tmp_path))
    pieces = (
        {"id": "x1", "function": {"name": "garden_water", "arguments": '{"bed": "roses",'}},
        {"function": {"arguments": ' "litres": 2}'}},
    )
    frames = [{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **piece}]}, "finish_reason": None}]} for piece in pieces]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    with serving(stream(*frames, end, USAGE)) as server:
        answerer = EndpointAnswerer(server.url, "some", whole=True)
        output = asked(OpenArm("far", answerer, answerer.fingerprint, slots=1, ahead=1), task, sample, tmp_path)
    assert isinstance(sample.request, Ask)
    assert server.bodies[0]["tools"] == [json.loads(tool) for tool in sample.request.settings.tools]
    assert output.calls == (ToolCall("", "garden_water", '{"bed": "roses", "litres": 2}'),) and output.reason == "tool_calls"
    assert output.text == 'garden_water({"bed": "roses", "litres": 2})'
    assert score(task, [sample], [[output]]).values["right"] == [1.0]


def test_models_whose_template_has_a_place_for_functions_are_told_there(tmp_path: Path) -> None:
    _, sample = task_of(folder_of(tmp_path))
    model = tiny_talker(max_position_embeddings=2048)
    template = (
        "{% for t in tools or [] %}TOOL {{ t.function.name }};{% endfor %}{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    )
    model.template = type(model.template)(template)  # type: ignore[misc]
    seen: list[Any] = []
    assert isinstance(sample.request, Ask)
    with Engine(model, dtype="float32") as engine:
        submit = engine.submit
        engine.submit = lambda prompt, *more: seen.append(prompt) or submit(prompt, *more)  # type: ignore[method-assign,func-returns-value]

        async def listen() -> None:
            settings = AnswerSettings(max_tokens=1, tools=sample.request.settings.tools)  # type: ignore[union-attr]
            async for _ in LocalAnswerer(engine).answer(sample.request.conversation, settings):  # type: ignore[union-attr]
                pass

        asyncio.run(listen())
        assert model.tokenizer is not None
        assert model.tokenizer.decode(seen[0]).startswith("TOOL garden_water;user:Give the roses two litres.")
