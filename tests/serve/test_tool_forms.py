"""Calls of tools in the forms of the families, chosen by the chat template, found however the text is cut; and text that is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.serve.tool_forms import BY_NAME, FORMS, LONGEST, python_calls, taught
from tests.serve.live_server import LiveServer
from tests.serve.test_tool_calls import NAMES, read_in

ZONE = {"zone": "utc", "at": [1, -2.5, None], "deep": {"a": True}}
AS_JSON = json.dumps(ZONE)
AS_PYTHON = "zone='utc', at=[1, -2.5, None], deep={'a': true}"
WRITTEN = {
    "hermes": f'<tool_call>\n{{"name": "clock", "arguments": {AS_JSON}}}\n</tool_call>',
    "python tag": f'<|python_tag|>{{"name": "clock", "parameters": {AS_JSON}}}',
    "mistral": f'[TOOL_CALLS] [{{"name": "clock", "arguments": {AS_JSON}}}]',
    "function": f"<function=clock>{AS_JSON}</function>",
    "pythonic": f"[clock({AS_PYTHON})]",
    "lfm": f"<|tool_call_start|>[clock({AS_PYTHON})]<|tool_call_end|>",
    "phi": f'<|tool_call|>[{{"name": "clock", "arguments": {AS_JSON}}}]<|/tool_call|>',
}
MORE = [
    ("python tag", '<|python_tag|>{"name": "clock", "parameters": {}}; {"name": "stop", "parameters": {}}', ["clock", "stop"]),
    ("python tag", '{"name": "clock", "parameters": {}}; {"name": "stop", "parameters": {}}', ["clock", "stop"]),
    ("python tag", '<|python_tag|>clock.call(zone="utc")', ["clock"]),
    ("python tag", "[clock(), stop()]", ["clock", "stop"]),
    ("mistral", "[TOOL_CALLS]clock[ARGS]{}[TOOL_CALLS]stop[CALL_ID]a1b2c3d4e[ARGS]{}", ["clock", "stop"]),
    ("mistral", 'Wait.[TOOL_CALLS][{"name": "clock", "arguments": {}}, {"name": "stop", "arguments": {}}]', ["clock", "stop"]),
    ("function", "<function=clock>{}</function><function=stop>{}</function>", ["clock", "stop"]),
    ("lfm", "<|tool_call_start|>[clock(), stop(zone=1)]<|tool_call_end|> Done.", ["clock", "stop"]),
    ("pythonic", 'clock(zone="utc")', []),  # a form says that there are brackets around it
]


def test_every_form_is_written_here_and_chosen_by_its_mark() -> None:
    assert set(WRITTEN) == set(BY_NAME)
    for form in FORMS:
        assert taught(f"{{% if tools %}}{form.mark}{{% endif %}}") == (form.name,)
    assert taught("{{ tools }}") == ("hermes",)
    assert taught('<|python_tag|> {"name": function name, "parameters": ...} <function=') == ("python tag", "function")


@given(st.sampled_from(sorted(WRITTEN)), st.lists(st.integers(0, 200), max_size=10))
def test_a_call_is_found_wherever_the_text_is_cut(form: str, cuts: list[int]) -> None:
    whole = WRITTEN[form]
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    text, calls, reason = read_in([form], [whole[start:end] for start, end in zip(places, places[1:], strict=False)])
    assert (text, [(name, json.loads(arguments)) for name, arguments in calls], reason) == ("", [("clock", ZONE)], "tool_calls")


@pytest.mark.parametrize(("form", "written", "names"), MORE)
def test_several_calls_and_variants_of_a_form(form: str, written: str, names: list[str]) -> None:
    text, calls, _ = read_in([form], [written])
    assert [name for name, _ in calls] == names
    assert text == ("Wait." if written.startswith("Wait.") else " Done." if written.endswith("Done.") else "" if names else written)


@pytest.mark.parametrize("form", sorted(WRITTEN))
def test_what_merely_looks_like_a_call_stays_text(form: str) -> None:
    for written in (
        WRITTEN[form].replace("clock", "rm"),  # not offered
        WRITTEN[form].replace("utc", "utc\n\"'"),  # broken
        WRITTEN[form].replace("}", "").replace(")", ""),  # cut off
        f"For example: {WRITTEN[form][1:]}",
    ):
        text, calls, reason = read_in([form], [written])
        assert (text, calls, reason) == (written, [], "stop"), written
    other = "hermes" if form != "hermes" else "mistral"
    if form != "python tag":
        assert read_in([other], [WRITTEN[form]])[1] == [], "a form that the template does not teach is text"


@given(st.text("ab [{(\"'=<|>tool_calTOOL_CALLSpython_tag/functio\n", max_size=80), st.integers(1, 7))
def test_no_text_is_lost_changed_or_taken_for_a_call(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert read_in(sorted(BY_NAME), pieces) == (text, [], "stop")


@pytest.mark.parametrize(
    "text",
    ["clock(open('x'))", "clock(1)", "clock(**{})", "clock(a=b)", "clock(a=1e999)", "clock(a={1: 2})", "clock(a={**{}})", "clock(a=f'{1}')",
     "clock(a=1+1)", "clock(a=-True)", "(lambda: clock)()", "clock", "clock()()", "clock(a=b'x')", "clock(a=...)", "clock(a=1j)", "x = clock()",
     "(" * 5000, "clock(a=" + "[" * 5000, "clock(a=" + "9" * 5000 + ")", "\0", "clock(a='" + "x" * LONGEST + "')"],
)  # fmt: skip
def test_python_is_read_and_never_run(text: str) -> None:
    assert python_calls(text, NAMES) == []


def test_a_served_model_tells_which_forms_its_template_teaches(server: LiveServer) -> None:
    assert {name: info.tool_forms for name, info in server.engine.models.items()} == {"tiny": (), "tooled": ("hermes",), "encoder": ()}
