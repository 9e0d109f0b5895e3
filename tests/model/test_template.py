"""Chat templates: the same text as transformers, and nothing else, whatever the template tries."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import DataError, ModelFileError, SteelyardError
from steelyard.core.protocols import Message, ToolCall
from steelyard.model import template_budget
from steelyard.model.template import ChatTemplate

CHATML = """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if message.role in ["user", "assistant"] %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" and message.content is defined %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}{{- ', "id": "' + tool_call.id + '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- endif %}
{%- endfor %}"""

QWEN = """{%- macro render_item(item, indent=0) -%}
{{- ' ' * indent ~ item.function.name ~ ': ' ~ (item.function.description | default('-', true)) }}
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}{{- tool | tojson }}{{- render_item(tool, indent=2) }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- set text = message.content if message.content is string else '' %}
    {%- set response = text.startswith('<tool_response>') and text.endswith('</tool_response>') %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not response %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- generation %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and reasoning_content %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- endgeneration %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}{%- continue %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

ODDS = """{%- for role, group in messages|groupby('role') %}{{ role }}={{ group|map(attribute='content')|map('upper')|join('|') }};
{%- endfor %}{{ messages|map(attribute='role')|unique|sort|list }} {{ missing }}{{ missing is defined }} {{ 'x'.join(['a', 'b']) }}
{{ '%s-%05.1f' % ('p', 2.5) }} {{ '{:>6}|{}'.format('ab', 3) }} {{ [1, 2, 3]|sum }} {{ range(3)|list }} {{ dict(a=1) }} {{ (1, 'é') }}
{% set c = cycler('odd', 'even') %}{{ c.next() }}{{ c.next() }} {{ {'b': 1, 'a': [none, true, 1.5]}|tojson }} {{ 'a\\tb'|tojson(indent=2) }}
{% filter upper %}quiet{% endfilter %}{% set block %}captured {{ 1 + 1 }}{% endset %}{{ block|title|replace('C', 'K')|indent(2, true) }}
{% for i in range(10) if i is odd %}{% if i == 7 %}{% break %}{% endif %}
{{ loop.index }}/{{ loop.length }}:{{ i }} {% else %}none{% endfor %}
{%- for node in [{'n': 1, 'c': [{'n': 2, 'c': []}]}] recursive %}<{{ node.n }}{{ loop(node.c) }}>{% endfor %}
{% if messages|selectattr('nothing') %}lazy is true{% endif %} {{ messages[0].content[::-1][:3] }}
{{ 7 // 2 ** 2 }} {{ '3'|int + 0.5|round }}
{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller else '' }}{% endmacro %}{% call m(1) %}body{% endcall %}
{{ '<b>'|e }} {{ 'a b'|urlencode }}
"""

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "qwen": QWEN, "odds": ODDS}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a <place> & 'time'",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string", "enum": ["Zürich", "東京"]}},
                "required": ["place"],
            },
        },
    }
]
CALL = {"role": "assistant", "tool_calls": [{"id": "call12345", "type": "function", "function": {"name": "f", "arguments": {"a": "ü<>"}}}]}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "Hi"}],
    "padded": [{"role": "user", "content": "  Hi \n\n"}, {"role": "assistant", "content": "\tYo "}, {"role": "user", "content": "🌍 <b>"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "none": [{"role": "user", "content": "Hi", "name": None}, {"role": "assistant", "content": "x", "tool_calls": None}],
    "reasoned": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4", "reasoning": "two and two"}],
    "thought": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"}],
    "called": [{"role": "user", "content": "Weather?"}, CALL, {"role": "tool", "content": "sunny", "tool_call_id": "call12345"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}]}],
}
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def reference() -> Any:
    """A transformers tokenizer whose only use here is `apply_chat_template`."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), **VARIABLES)


def ours(source: str, messages: list[dict[str, Any]], **more: Any) -> str:
    return ChatTemplate(source, VARIABLES).render(messages, **more)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_renders_what_transformers_renders(reference: Any, name: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    for prompt in (True, False):
        for tools in (None, TOOLS):
            try:
                expected = reference.apply_chat_template(
                    messages,
                    chat_template=TEMPLATES[name],
                    tools=tools,
                    tokenize=False,
                    add_generation_prompt=prompt,
                    enable_thinking=False,
                )
            except Exception as refusal:  # whatever transformers cannot render, we must not either
                with pytest.raises(SteelyardError) as caught:
                    ours(TEMPLATES[name], messages, add_generation_prompt=prompt, tools=tools, enable_thinking=False)
                assert str(refusal)[:40] in str(caught.value)
            else:
                assert ours(TEMPLATES[name], messages, add_generation_prompt=prompt, tools=tools, enable_thinking=False) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=40)), min_size=1, max_size=6))
def test_any_text_is_rendered_as_transformers_does(reference: Any, turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    for source in (CHATML, QWEN, ODDS):
        assert ours(source, messages) == reference.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=True
        )


def test_messages_and_objects_render_alike() -> None:
    messages = [Message("user", "Hi"), Message("assistant", "", tool_calls=(ToolCall("1", "f", '{"a": 1}'),))]
    assert ours(QWEN, [message.as_dict() for message in messages]) == ChatTemplate(QWEN).render(messages)


def test_a_refusing_template_says_why_and_at_which_line() -> None:
    with pytest.raises(DataError, match=r"line 1: the chat template refuses this conversation: System role not supported"):
        ours(GEMMA, CONVERSATIONS["system"])
    with pytest.raises(DataError, match="line 4: .*must alternate"):
        ours(GEMMA, [{"role": "assistant", "content": "x"}])


@pytest.mark.parametrize(
    ("source", "line", "why"),
    [
        ("a\n{% if %}", 2, "Expected an expression"),
        ("a\n\n{% for x in y %}", 3, "Unexpected end"),
        ("a\n{{ 1|nothing }}", 2, "No filter named 'nothing'"),
        ("a\n{{ none.x.y }}\n", 2, "has no attribute"),
        ("{% set x = 3 %}\n\n{{ 'a' + x }}", 3, "can only concatenate|must be str"),
        ("\n{{ missing.x.y }}", 2, "undefined"),
        ("\n{{ messages|tojson(indent=messages) }}\n", 2, "chat template fails"),
        ("\n\n{% macro m() %}\n{{ 1 / 0 }}{% endmacro %}{{ m() }}", 4, "division by zero"),
    ],
)
def test_a_failing_template_says_at_which_line(source: str, line: int, why: str) -> None:
    with pytest.raises(ModelFileError, match=f"(?s)chat template, line {line}: .*({why})"):
        ours(source, CONVERSATIONS["one"])


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(DataError, match="the conversation is empty"):
        ours(CHATML, [])


ATTACKS = {
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "exponential recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that keeps nothing": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
    "a wide range": "{% for a in range(10 ** 12) %}{% endfor %}",
    "long text": "{{ 'a' * 10 ** 9 }}",
    "long list": "{{ ([0] * 10 ** 9)|length }}",
    "doubled text": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubled by plus": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubled list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "laughing list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "laughing dict": "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}{{ n.x|tojson }}",
    "laughing tuple as key": "{% set n = namespace(x=(1,)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ {n.x: 1} }}",
    "laughing through dict()": "{% set n = namespace(x=1) %}"
    "{% for i in range(60) %}{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x }}",
    "laughing through a filter": "{% set n = namespace(x=1) %}{% for i in range(60) %}"
    "{% set n.x = 'ab'|map('replace', 'a', 'b')|list + [n.x] %}{% set n.x = [n.x, n.x]|batch(2)|list %}{% endfor %}{{ n.x }}",
    "deep list": "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "power tower": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "padding by format": "{{ '%1000000000d' % 1 }}",
    "padding by star": "{{ '%*d' % (10 ** 9, 1) }}",
    "padding by filter": "{{ '%1000000000d'|format(1) }}",
    "padding by str.format": "{{ '{:>1000000000}'.format(1) }}",
    "padding by nested format": "{{ '{:>{}}'.format(1, 10 ** 9) }}",
    "padding by format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "repeated by format": "{{ ('{0}' * 100000).format('a' * 100000) }}",
    "repeated by percent": "{{ ('%(a)s' * 100000) % {'a': 'a' * 100000} }}",
    "center": "{{ 'a'|center(10 ** 9) }}",
    "ljust": "{{ 'a'.ljust(10 ** 9) }}",
    "zfill": "{{ 'a'.zfill(10 ** 9) }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(9999) }}",
    "indent": "{{ ('a\n' * 100000)|indent(9999) }}",
    "indent by text": "{{ ('a\n' * 100000)|indent('b' * 9999) }}",
    "replace": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "replace method": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "join": "{{ range(99999)|join('b' * 100000) }}",
    "join method": "{{ ('b' * 100000).join('a' * 100000) }}",
    "join of big items": "{{ (['b' * 100000] * 100000)|join }}",
    "json indent": "{{ ([[[1]]] * 60000)|tojson(indent=9999) }}",
    "json separators": "{{ ([[[1]]] * 60000)|tojson(separators=('a' * 9999, 'b')) }}",
    "batch": "{{ [1]|batch(10 ** 9, 'x')|list }}",
    "slice": "{{ [1]|slice(10 ** 9)|list }}",
    "round": "{{ 1.5|round(10 ** 9, 'ceil') }}",
    "sum of lists": "{% set n = namespace(x=[[1] * 1000] * 1000) %}{{ n.x|sum(start=[])|length }}",
    "list of text": "{{ ('a' * 7000000)|list|length }}",
    "slices kept": "{% set n = namespace(x=[], t='a' * 4000000) %}{% for i in range(9999) %}{% set n.x = n.x + [n.t[i:]] %}{% endfor %}",
    "captured text": "{% macro f() %}"
    + "a" * 5000
    + "{% endmacro %}{% set n = namespace(x='') %}{% for i in range(99999) %}{% set n.x = f() %}{% endfor %}",
    "text in a loop": "{% for i in range(99999) %}" + "a" * 5000 + "{% endfor %}",
    "captured loop": "{% set x %}{% for i in range(99999) %}" + "a" * 5000 + "{% endfor %}{% endset %}",
    "called loop": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}{% for i in range(99999) %}{% call f() %}"
    + "a" * 5000
    + "{% endcall %}{% endfor %}",
    "blocks calling themselves": "{% block a %}{{ self.a() }}{% endblock %}",
    "generators in generators": "{% set n = namespace(x=[1]) %}"
    "{% for i in range(90000) %}{% set n.x = n.x|map('string') %}{% endfor %}{{ n.x|list }}"
    "{% for i in range(9999999) %}{% endfor %}",
    "slow comparisons": "{% set a = [['a' * 9] * 9999] * 99 %}{% set b = [['a' * 9] * 9999 ] * 99 %}"
    "{% for i in range(99999) %}{% if a == b %}{% endif %}"
    "{% for j in range(99) %}{% endfor %}{% endfor %}",
    "deep source": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "deep loops": "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
    "long source": "a" * 300_000,
    "a number too long to read": "{{ " + "9" * 10_000 + " }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "from import": "{% from 'os' import system %}",
    "extends": "{% extends '/etc/passwd' %}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by item": "{{ ''['__class__'].x }}",
    "globals of a global": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "environment": "{{ self._TemplateReference__context.environment }}",
    "namespace dunder": "{{ namespace(__class__=1) }}",
    "mutation": "{{ messages.append(1) }}",
    "mutation of a dict": "{{ messages[0].update({'a': 1}) }}",
    "method of a number": "{{ (1).to_bytes(10 ** 9, 'big') }}",
    "encoding": "{{ ('a' * 100).encode('punycode') }}",
    "hidden filter": "{{ 1|pprint }}",
    "date": "{{ strftime_now('%Y' * 1000000) }}",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_stopped_with_an_address(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MOST_STEPS", 200_000)  # a tenth: the same code stops sooner
    started = time.thread_time()
    with pytest.raises(ModelFileError, match="(?s)^chat template.*the chat template (was stopped|fails)"):
        print(len(ours(ATTACKS[attack], CONVERSATIONS["one"])))
    assert time.thread_time() - started < 30  # a bound on harm, not on speed: each ends in a second or two


PEEKS = {
    "class by filter": "{{ ''|attr('__class__') }}",
    "class by format": "{{ '{0.__class__}'.format(1) }}",
    "class by map": "{{ ['']|map(attribute='__class__')|list }}",
    "class by format filter": "{{ ['{0.__class__}']|map('attr', 'format')|first()(1) }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "macro's environment": "{% macro m() %}{% endmacro %}{{ m._environment }}",
}


@pytest.mark.parametrize("peek", PEEKS)
def test_a_look_at_internals_shows_nothing(peek: str) -> None:
    try:
        assert ours(PEEKS[peek], CONVERSATIONS["one"]) in ("", "[Undefined]")
    except ModelFileError as error:
        assert "unsafe" in error.what or "undefined" in error.what


def test_a_rendering_leaves_nothing_behind_for_the_next() -> None:
    template = ChatTemplate("{% for i in range(n) %}{% for j in range(1000) %}{% endfor %}{% endfor %}{{ n }}")
    for _ in range(4):
        assert template.render(CONVERSATIONS["one"], n=600) == "600"
    with pytest.raises(ModelFileError, match="steps"):
        template.render(CONVERSATIONS["one"], n=10_000)
    assert template.render(CONVERSATIONS["one"], n=1) == "1"


def test_a_thousand_long_turns_are_no_attack() -> None:
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": "word " * 500} for i in range(1000)]
    text = ours(QWEN, messages)
    assert text.count("<|im_start|>") == 1001
    assert len(text) > 2_500_000
    inner = "{% for n in messages[loop.index0:] %}{% if n.role == 'x' %}x{% endif %}{% endfor %}"
    quadratic = "{% for m in messages %}" + inner + "{{ m.content[0] }}{% endfor %}"
    assert ours(quadratic, messages[:400]) == "w" * 400


def test_rich_objects_reach_a_template_only_as_plain_ones() -> None:
    class Image:
        def save(self, path: str) -> None:
            raise AssertionError("a template wrote a file")

    content = [{"type": "image", "image": Image()}, {"type": "text", "text": "x"}]
    source = "{% for part in messages[0].content %}{{ part.image if 'image' in part else part.text }}{% endfor %}"
    assert ours(source, [{"role": "user", "content": content}]) == "<Image>x"
    with pytest.raises(ModelFileError):
        ours("{{ messages[0].content[0].image.save('x') }}", [{"role": "user", "content": content}])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(DataError, match="nests objects"):
        ours(CHATML, [{"role": "user", "content": endless}])
    with pytest.raises(DataError, match="not an object"):
        ChatTemplate(CHATML).render(["hi"])  # type: ignore[list-item]


def test_the_clock_can_be_pinned() -> None:
    now = datetime.datetime(2024, 7, 26)
    assert ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: now).render(CONVERSATIONS["one"]) == "26 Jul 2024"


def test_templates_are_found_where_models_keep_them(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    assert ChatTemplate.from_directory(tmp_path) is None
    config.write_text(json.dumps({"bos_token": {"content": "<s>", "special": True}, "eos_token": None}))
    assert ChatTemplate.from_directory(tmp_path) is None
    config.write_text(json.dumps({"bos_token": "<s>", "chat_template": "{{ bos_token }}plain"}))
    found = ChatTemplate.from_directory(tmp_path)
    assert found is not None and found.render(CONVERSATIONS["one"]) == "<s>plain"
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}]
    config.write_text(json.dumps({"bos_token": "<s>", "chat_template": named}))
    found = ChatTemplate.from_directory(tmp_path)
    assert found is not None
    assert found.render(CONVERSATIONS["one"]) == "D"
    assert found.render(CONVERSATIONS["one"], tools=TOOLS) == "T"
    (tmp_path / "chat_template.jinja").write_text("file\n")
    found = ChatTemplate.from_directory(tmp_path)
    assert found is not None and found.render(CONVERSATIONS["one"], tools=TOOLS) == "file"


def test_a_saved_template_is_the_one_transformers_opens(reference: Any, tmp_path: Path) -> None:
    import transformers

    reference.save_pretrained(tmp_path)
    ChatTemplate(QWEN, VARIABLES, {"tool_use": "T{{ bos_token }}"}).save(tmp_path)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = CONVERSATIONS["padded"]
    expected = opened.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    found = ChatTemplate.from_directory(tmp_path)
    assert found is not None
    assert found.render(messages) == expected == ours(QWEN, messages)
    assert found.render(messages, tools=TOOLS) == opened.apply_chat_template(messages, tools=TOOLS, tokenize=False) == "T<s>"


@pytest.mark.parametrize("value", [3, [], [{"name": "x"}], ["a"], {"default": 3}, [{"name": "other", "template": "x"}]])
def test_a_template_that_is_none_is_an_error(tmp_path: Path, value: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ModelFileError, match="tokenizer_config.json"):
        ChatTemplate.from_directory(tmp_path)


def test_a_template_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(ModelFileError, match="not UTF-8"):
        ChatTemplate.from_directory(tmp_path)


def test_gguf_metadata_gives_template_and_tokens() -> None:
    metadata = {
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 99,
    }
    template = ChatTemplate.from_gguf(metadata)
    assert template is not None
    assert template.render(CONVERSATIONS["one"]) == "<s>Hi</s>"
    assert template.render(CONVERSATIONS["one"], tools=TOOLS) == "tools"
    assert ChatTemplate.from_gguf({}) is None
    assert ChatTemplate.from_gguf({"tokenizer.chat_template": ""}) is None
    with pytest.raises(ModelFileError, match="not a text"):
        ChatTemplate.from_gguf({"tokenizer.chat_template": 3})


def test_check_compiles_without_running() -> None:
    ChatTemplate("{{ raise_exception('x') }}").check()
    with pytest.raises(ModelFileError, match="line 2"):
        ChatTemplate("ok", {}, {"tool_use": "\n{% broken"}).check()
