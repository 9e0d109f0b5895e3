"""The forms in which models write calls of tools: what opens one, what closes it, and how its inside is read.

A model writes calls as its chat template taught it, so the template says which forms its answers are read for: those whose marks stand
in it. Where a call names a function that was offered and then begins its arguments, it is a call, and the arguments are passed on while
they are written (`reading.py`), JSON or not. All else between the marks must be nothing but calls of functions that were offered,
or it stays the text it was. No code is ever run: where a model writes calls as Python does, names and literals are read and everything
else is refused.

    hermes      <tool_call>{"name": ..., "arguments": {...}}</tool_call>        Hermes, Qwen 2.5 and 3, SmolLM3
    python tag  <|python_tag|>{"name": ..., "parameters": {...}}; {...}         Llama 3.1 to 3.3; also NAME.call(key="value"); the tag
                                                                                may be missing where calls are the whole answer
    mistral     [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]           Mistral 7B v0.3, Nemo
                [TOOL_CALLS]NAME[ARGS]{...}                                     Mistral Small and later
    function    <function=NAME>{...}</function>                                 Functionary 3.1
    recipient   >>>NAME, a line end, {...}; text after >>>all                   Functionary 3.2, whose prompt ends with the first >>>
    elements    <tool_call><function=NAME><parameter=KEY>VALUE</parameter>      Qwen3-Coder
                </function></tool_call>
    deepseek    <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME, a fenced block   DeepSeek V3, R1
                of JSON, <｜tool▁call▁end｜>
                <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>    DeepSeek V3.1
    pythonic    [NAME(key="value"), NAME()] as the whole answer                 ToolACE, Llama 4
    lfm         <|tool_call_start|>[NAME(key="value")]<|tool_call_end|>         LFM2
    phi         <|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>  Phi-4-mini

An answer that is nothing but the JSON of a call, or of a list of them (Llama 3, xLAM), is one whatever the template. A template without
any of these marks is read for the first form.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from steelyard.model.tools.arguments import ElementArguments, JsonArguments

Calls = list[tuple[str, str]]
"""Names, each with the JSON text of its arguments."""

LONGEST = 50_000
"""Characters of a call; more is text."""
WORDS = {"true": True, "false": False, "null": None}
_NAME = r"(?P<name>[A-Za-z0-9_.-]{1,64})"
_QUOTED = r'"name"\s*:\s*(?P<quoted>"(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
_MORE_KEYS = r'(?:\s*,\s*"[^"\\]*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[-\w.]+))*'
JSON_HEAD = re.compile(rf"\s*\[?\s*\{{\s*{_QUOTED}")
JSON_NEXT = re.compile(rf"{_MORE_KEYS}\s*\}}[\s,;]*\{{\s*{_QUOTED}")
JSON_TAIL = re.compile(rf"{_MORE_KEYS}\s*\}}[\s\]]*")
BLANK = re.compile(r"\s*")


def json_calls(text: str, names: Collection[str]) -> Calls:
    """The calls in a JSON text; none where it holds anything else, or asks for a function that was not offered."""
    value = _json(text)
    found = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, dict) or call.get("name") not in names:
            return []
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):  # some models write the JSON of the arguments as a text; it is passed on as it is
            found.append((call["name"], arguments))
        elif isinstance(arguments, dict):
            found.append((call["name"], json.dumps(arguments, ensure_ascii=False)))
        else:
            return []
    return found


def python_calls(text: str, names: Collection[str]) -> Calls:
    """The calls in a text that is a call as Python writes them, with keywords and literals, or a list of calls."""
    if len(text) > LONGEST:
        return []
    try:
        body = ast.parse(text.strip(), mode="eval").body
        calls = body.elts if isinstance(body, ast.List | ast.Tuple) else [body]
        return [_python_call(call, names) for call in calls]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a model wrote it: it may be anything
        return []


def tagged_python_calls(text: str, names: Collection[str]) -> Calls:
    """What Llama writes after its tag: JSON objects with semicolons between them, or calls as Python writes them."""
    found: Calls = []
    decoder, place, stripped = json.JSONDecoder(parse_constant=_no_constant), 0, text.strip()
    if not stripped.startswith("{"):
        return json_calls(stripped, names) or python_calls(stripped, names)
    try:
        while place < len(stripped):
            value, end = decoder.raw_decode(stripped, place)
            calls = json_calls(json.dumps(value), names)
            if not calls:
                return []
            found += calls
            place = end + len(stripped[end:]) - len(stripped[end:].lstrip("; \n\t\r"))
    except (ValueError, RecursionError):
        return []
    return found


def no_calls(text: str, names: Collection[str]) -> Calls:
    """None: where a form's calls all begin with a name, what does not is text."""
    del text, names
    return []


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        name: as above.
        mark: what stands in the chat templates of models that write it.
        opening: what begins a call; empty where the whole answer is one.
        closing: what ends it; empty where the next opening or the end of the answer does.
        read: gives the calls between them where `head` found none.
        bare: whether the marks may be missing where calls are the whole answer.
        head: what stands from the opening to the arguments, with the function's `name`, or the JSON of it (`quoted`). None where calls
            can be read only when they are whole.
        next: the same for a further call right after the arguments.
        tail: what may stand between the arguments and the closing, where the name does not stand in JSON.
        arguments: how they are written.
        around: marks around one call or several, that belong to them.
        silent: what may follow the opening and makes it none: text follows.
        begun: whether answers begin within a call, because the prompt ends with the opening.
        instead: names of forms whose marks stand in the same templates, but do not mean them there.
    """

    name: str
    mark: str
    opening: str
    closing: str
    read: Callable[[str, Collection[str]], Calls] = no_calls
    bare: bool = False
    head: re.Pattern[str] | None = None
    next: re.Pattern[str] | None = None
    tail: re.Pattern[str] = BLANK
    arguments: Callable[[Any], JsonArguments | ElementArguments] = JsonArguments
    around: tuple[str, str] = ("", "")
    silent: str = ""
    begun: bool = False
    instead: tuple[str, ...] = ()


_MISTRAL = re.compile(rf"{JSON_HEAD.pattern}|\s*{_NAME}(?:\[CALL_ID\][A-Za-z0-9]{{1,64}})?\s*(?:\[ARGS\])?\s*(?=\{{)")
_DEEPSEEK = re.compile(
    rf"\s*(?:function<｜tool▁sep｜>{_NAME}\s*|{_NAME.replace('name', 'other')}<｜tool▁sep｜>\s*)(?:```(?:json)?\s*)?(?=\{{)"
)
FORMS = (
    Form("hermes", "<tool_call>", "<tool_call>", "</tool_call>", json_calls, head=JSON_HEAD, next=JSON_NEXT),
    Form("python tag", "<|python_tag|>", "<|python_tag|>", "", tagged_python_calls, bare=True, head=JSON_HEAD, next=JSON_NEXT),
    Form("mistral", "[TOOL_CALLS]", "[TOOL_CALLS]", "", json_calls, head=_MISTRAL, next=JSON_NEXT),
    Form("function", "<function=", "<function=", "</function>", head=re.compile(rf"{_NAME}>\s*(?=\{{)")),
    Form("recipient", ">>>all", ">>>", "", head=re.compile(rf"{_NAME}\n\s*(?=\{{)"), silent="all\n", begun=True),
    Form(
        "elements", "<parameter=", "<function=", "</function>",
        head=re.compile(rf"{_NAME}>"), arguments=ElementArguments, around=("<tool_call>", "</tool_call>"), instead=("hermes", "function"),
    ),
    Form(
        "deepseek", "<｜tool▁call▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
        head=_DEEPSEEK, tail=re.compile(r"\s*(?:```)?\s*"), around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    Form("pythonic", "func_name1(", "", "", python_calls, bare=True),
    Form("lfm", "<|tool_call_start|>", "<|tool_call_start|>", "<|tool_call_end|>", python_calls),
    Form("phi", "<|tool_call|>", "<|tool_call|>", "<|/tool_call|>", json_calls, head=JSON_HEAD, next=JSON_NEXT),
)  # fmt: skip
BARE = Form("bare", "", "", "", json_calls, head=JSON_HEAD, next=JSON_NEXT)
"""An answer that is nothing but the JSON of calls, whatever the template."""
BY_NAME = {form.name: form for form in FORMS}
USUAL = ("hermes",)
"""What answers are read for where a template has none of the marks."""


def taught(template: str) -> tuple[str, ...]:
    """The names of the forms that a chat template teaches."""
    there = [form for form in FORMS if form.mark in template]
    other = {name for form in there for name in form.instead}
    return tuple(form.name for form in there if form.name not in other) or USUAL


@dataclass(frozen=True)
class Head:
    """The beginning of a call.

    Attributes:
        name: of an offered function.
        end: where its arguments begin.
        tail: what may follow them before the closing.
    """

    name: str
    end: int
    tail: re.Pattern[str]


def headed(form: Form, text: str, names: Collection[str], again: bool = False) -> Head | None:
    """The call of an offered function that a text begins with, once its arguments begin; `again` is for a further one in the same marks."""
    pattern = form.next if again else form.head
    found = pattern.match(text) if pattern is not None else None
    if found is None:
        return None
    told = found.groupdict()
    quoted = told.get("quoted")
    name = told.get("name") or told.get("other") or _json(quoted or "null")
    if not isinstance(name, str) or name not in names:
        return None
    return Head(name, found.end(), JSON_TAIL if quoted else form.tail)


def _json(text: str) -> Any:
    """The value of a JSON text; None where it is none."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # a model wrote it: it may be anything
        return None


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def _python_call(call: ast.expr, names: Collection[str]) -> tuple[str, str]:
    """A call's name and arguments.

    Raises:
        ValueError: it is no call of an offered function with literals by name.
    """
    if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("no call with keywords")
    name = ast.unparse(call.func) if isinstance(call.func, ast.Name | ast.Attribute) else ""
    name = name if name in names else name.removesuffix(".call")
    if name not in names:
        raise ValueError("not offered")
    arguments = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    return name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)


def _literal(node: ast.expr) -> Any:
    """The value of a literal that JSON has too.

    Raises:
        ValueError: it is none.
    """
    match node:
        case ast.Constant(str() | bool() | int() | float() | None as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)) if not isinstance(value, bool):
            return -value
        case ast.List(parts) | ast.Tuple(parts):
            return [_literal(part) for part in parts]
        case ast.Dict(keys, values):
            return {_key(key): _literal(value) for key, value in zip(keys, values, strict=True)}
        case ast.Name(word) if word in WORDS:
            return WORDS[word]
        case _:
            raise ValueError("no literal")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("a key that is no text")
