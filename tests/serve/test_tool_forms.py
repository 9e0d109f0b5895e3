"""Calls of tools in the forms of the families, chosen by the chat template, found however the text is cut; and text that is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steelyard.core.protocols import Done, Event, Text
from steelyard.model.tools.arguments import ElementArguments
from steelyard.model.tools.forms import BY_NAME, FORMS, LONGEST, python_calls, taught
from steelyard.model.tools.reading import CallPart
from steelyard.serve.api.tool_calls import chosen, replayed
from steelyard.serve.arrivals import each
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
    "recipient": f"clock\n{AS_JSON}",
    "elements": (
        "<tool_call>\n<function=clock>\n<parameter=zone>\nutc\n</parameter>\n<parameter=at>\n[1, -2.5, null]\n</parameter>\n"
        '<parameter=deep>\n{"a": true}\n</parameter>\n</function>\n</tool_call>'
    ),
    "deepseek": (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>clock\n```json\n{AS_JSON}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
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
    ("hermes", '<tool_call>{"name": "clock", "arguments": {}, "id": "a", "n": 1}</tool_call> Done.', ["clock"]),
    ("hermes", '<tool_call>{"arguments": {"zone": "</tool>"}, "name": "clock"}</tool_call>', ["clock"]),
    ("hermes", '<tool_call>[{"name": "clock", "arguments": {}}, {"name": "stop", "arguments": {}}]</tool_call>', ["clock", "stop"]),
    ("phi", '<|tool_call|>[{"name": "clock", "arguments": {}}, {"name": "stop", "arguments": {}}]<|/tool_call|>', ["clock", "stop"]),
    ("recipient", "all\nWait.>>>clock\n{}>>>stop\n{}", ["clock", "stop"]),
    ("recipient", '>>>clock\n{"zone": ">>>"}\n>>>all\n Done.', ["clock"]),
    ("recipient", '{"name": "clock", "arguments": {}}', ["clock"]),
    (
        "elements",
        "Wait.<tool_call>\n<function=clock>\n</function>\n</tool_call>\n<tool_call><function=stop></function></tool_call>\n",
        ["clock", "stop"],
    ),
    ("elements", "<function=clock>\n<parameter=zone>\nutc\n</parameter>\n</function> Done.", ["clock"]),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>clock<｜tool▁sep｜>{}<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ["clock", "stop"],
    ),
    ("deepseek", "Wait.<｜tool▁call▁begin｜>function<｜tool▁sep｜>stop\n```json\n{}\n```<｜tool▁call▁end｜>", ["stop"]),
    ("pythonic", 'clock(zone="utc")', []),  # a form says that there are brackets around it
]


def test_every_form_is_written_here_and_chosen_by_its_mark() -> None:
    assert set(WRITTEN) == set(BY_NAME)
    for form in FORMS:
        assert taught(f"{{% if tools %}}{form.mark}{{% endif %}}") == (form.name,)
    assert taught("{{ tools }}") == ("hermes",)
    assert taught("<tool_call>\n<function=example>\n<parameter=one>") == ("elements",), "its marks mean something else there"
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
    assert text == ("Wait." if "Wait." in written else " Done." if written.endswith("Done.") else "" if names else written)


@pytest.mark.parametrize("form", sorted(WRITTEN))
def test_what_merely_looks_like_a_call_stays_text(form: str) -> None:
    for written in (
        WRITTEN[form].replace("clock", "rm"),  # not offered
        f"For example: {WRITTEN[form].replace(BY_NAME[form].opening, BY_NAME[form].opening[1:]) if BY_NAME[form].opening else WRITTEN[form]}",
        f"For example: {WRITTEN[form].partition('clock')[0]}clock is how one asks for the time. {WRITTEN[form].partition('utc')[2][-20:]}",
    ):
        text, calls, reason = read_in([form], [written])
        assert (text, calls, reason) == (written, [], "stop"), written
    other = "phi" if form != "phi" else "lfm"
    if form not in ("python tag", "recipient"):
        assert read_in([other], [WRITTEN[form]])[1] == [], "a form that the template does not teach is text"


HEADED = sorted(form.name for form in FORMS if form.head is not None and form.name != "elements")


@pytest.mark.parametrize("form", HEADED)
@pytest.mark.parametrize(
    "broken", ['{"zone": "utc" or not}', "{'zone': 'utc'}", '{"zone": NaN}', '{"say": "he said "no"."}', "{zone: utc}", '{"a": [1, 2}}']
)
def test_arguments_that_are_no_json_are_kept_as_they_were_written(form: str, broken: str) -> None:
    whole = WRITTEN[form].replace(AS_JSON, broken)
    text, calls, reason = read_in([form], [whole])
    assert (text, reason) == ("", "tool_calls") and [name for name, _ in calls] == ["clock"]
    assert calls[0][1].startswith(broken[:8]) and (calls[0][1] == broken or "[" in broken), "as far as its end can be known"
    assert read_in([form], list(whole)) == (text, calls, reason)
    assert isinstance(json.loads(replayed(calls[0][1])), dict)


@pytest.mark.parametrize("form", [*HEADED, "elements"])
def test_a_call_that_was_cut_off_is_the_same_as_far_as_it_goes(form: str) -> None:
    whole = WRITTEN[form]
    begun = next(size for size in range(len(whole)) if read_in([form], [whole[:size]], reason="length")[1])
    for size in range(begun, len(whole)):
        text, [(name, arguments)], reason = read_in([form], [whole[:size]], reason="length")
        assert (text, name, reason) == ("", "clock", "length") and AS_JSON.startswith(arguments), whole[:size]


@pytest.mark.parametrize("form", [*HEADED, "elements", "pythonic"])
def test_a_calls_name_comes_first_and_its_arguments_while_they_are_written(form: str) -> None:
    async def parts() -> list[tuple[int, CallPart]]:
        fed: list[str] = []

        async def letters() -> AsyncIterator[Sequence[Event]]:
            for letter in WRITTEN[form]:
                fed.append(letter)
                yield (Text(letter),)
            yield (Done("stop"),)

        return [(len(fed), piece) async for piece in each(chosen(letters(), NAMES, None, [form])) if isinstance(piece, CallPart)]

    (_, first), *rest = asyncio.run(parts())
    assert first.id and first.name == "clock" and first.arguments == "" and not any(piece.id or piece.name for _, piece in rest)
    assert json.loads("".join(piece.arguments for _, piece in rest)) == ZONE
    if form != "pythonic":
        assert rest[0][0] < len(WRITTEN[form]) / 2 + 40 and len(rest) >= 3, "not all at the end"


ELEMENT = {
    "type": "object",
    "properties": {
        "text": {"type": "string"}, "count": {"type": "integer"}, "share": {"type": "number"}, "yes": {"type": "boolean"},
        "list": {"type": "array"}, "maybe": {"type": ["integer", "null"]}, "either": {"anyOf": [{"type": "string"}, {"type": "object"}]},
        "one": {"enum": [1, 2]}, "kind": {"$ref": "#/$defs/kind"}, "odd": {"type": 3}, "loop": {"$ref": "#/$defs/loop"},
    },
    "$defs": {"kind": {"const": True}, "loop": {"allOf": [{"$ref": "#/$defs/loop"}]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("text", "007", "007"), ("text", '{"a": 1}', '{"a": 1}'), ("text", " a\n\nb ", " a\n\nb "), ("text", '"', '"'), ("text", "", ""),
        ("count", "7", 7), ("count", "7.5", "7.5"), ("count", "true", "true"), ("count", "9" * 5000, "9" * 5000), ("count", "NaN", "NaN"),
        ("share", "7.5", 7.5), ("yes", "True", True), ("yes", "false", False), ("yes", "1", "1"), ("list", "[1]", [1]), ("list", "{", "{"),
        ("maybe", "None", None), ("maybe", "x", "x"), ("either", "7", "7"), ("either", '{"a": 1}', {"a": 1}), ("one", "2", 2),
        ("kind", "true", True), ("odd", "1", "1"), ("loop", "1", "1"), ("unknown", "1", "1"), ("<b>\"ü", "1", "1"),
        ("text", "if a </function> b", "if a </function> b"), ("text", "[" * 3000, "[" * 3000), ("list", "[" * 3000, "[" * 3000),
    ],
)  # fmt: skip
def test_elements_become_json_as_the_schema_has_them(key: str, written: str, value: Any) -> None:
    for inside in (f"<parameter={key}>\n{written}\n</parameter>\n", f"<parameter={key}>{written}</parameter>"):
        if inside.startswith("<parameter=<b>"):
            continue
        made = ElementArguments(ELEMENT)
        taken, out = made.feed(f"{inside}</function>")
        assert json.loads(out) == {key: value} and made.state == "whole"
        assert f"{inside}</function>"[taken:].strip() == "</function>"


def test_elements_without_their_ends_are_read_as_far_as_they_go() -> None:
    def read(text: str, cut: bool = False) -> tuple[str, str]:
        made = ElementArguments(None)
        taken, out = made.feed(text)
        more, other = made.finish(text[taken:], cut)
        return out + more, other

    assert read("<parameter=a>\n1\n<parameter=b>\n2\n</parameter>") == ('{"a": "1", "b": "2"}', "")
    assert read("<parameter=a>\n1") == ('{"a": "1"}', "")
    assert read("<parameter=a>\n1", cut=True) == ("", "")
    assert read("<parameter=a>1</parameter><parameter=b>", cut=True) == ('{"a": "1"', "")
    assert read("<parameter=" + "k" * 300 + ">1</parameter>") == ("{}", "<parameter=" + "k" * 300 + ">1</parameter>"), "no text is lost"
    assert read("") == ("{}", "")
    text, calls, _ = read_in(["elements"], ["<function=clock><parameter=a>1</parameter> and so on</function>."])
    assert (text, calls) == (" and so on.", [("clock", '{"a": "1"}')])


@given(st.text("ab [{(\"'=<|>tool_calTOOL_CALLSpython_tag/functio\n", max_size=80), st.integers(1, 7))
def test_no_text_is_lost_changed_or_taken_for_a_call(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert read_in(sorted(set(BY_NAME) - {"recipient"}), pieces) == (text, [], "stop")


@given(st.text('abl.\n >{}"', max_size=60), st.integers(1, 7))
def test_text_after_the_mark_for_everybody_is_text_without_it(text: str, size: int) -> None:
    for before, after in ((f"all\n{text}", text), (f">>>all\n{text}", text)):
        pieces = [before[start : start + size] for start in range(0, len(before), size)]
        assert read_in(["recipient"], pieces) == (after.replace(">>>all\n", ""), [], "stop")


SHREDS = [
    "<tool_call>", "</tool_call>", "<function=", "clock", "stop", ">", "</function>", "<parameter=", "zone>", "</parameter>", ">>>", "all\n",
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "function", "<｜tool▁sep｜>", "\n```json\n", "```", "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>", '{"name": "clock", "arguments": ', '{"name": "rm", "arguments": ', "{}", "}", '{"a": "}\\""}', "{", "[", "]", '"',
    "\n", " ", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "; ", ", ", "x", *WRITTEN.values(), *(written for _, written, _ in MORE),
]  # fmt: skip
CUTS = st.lists(st.integers(0, 160), max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(SHREDS), max_size=14).map("".join), CUTS, st.sampled_from(["stop", "length"]))
@example("<tool_call>", [2], "stop")
def test_whatever_is_written_is_read_the_same_wherever_it_is_cut(text: str, cuts: list[int], reason: str) -> None:
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    cut = [text[start:end] for start, end in zip(places, places[1:], strict=False)]
    for forms in (["elements"], ["deepseek"], ["hermes", "function"], ["recipient"], ["mistral", "python tag"]):
        assert read_in(forms, cut, None, reason) == read_in(forms, [text], None, reason), forms


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
