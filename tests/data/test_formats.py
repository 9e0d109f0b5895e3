"""Training rows: four kinds read into one form, and every bad row named."""

import codecs
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import DataError
from steelyard.data.formats import BadRow, describe, read_jsonl, settle
from steelyard.data.sources import open_source

GOOD = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
ROWS = {
    "messages": GOOD,
    "prompt_completion": {"prompt": "2+2?", "completion": "4"},
    "alpaca": {"instruction": "2+2?", "input": "", "output": "4"},
    "sharegpt": {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
}


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


def said(example):
    return [(turn.message.role, turn.message.content, turn.learned) for turn in example.turns]


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("declared", [True, False])
def test_the_four_kinds_read_as_the_same_conversation(write, kind, declared):
    rows = read_jsonl(write(ROWS[kind]), kind if declared else "auto")
    assert rows.bad == []
    assert said(rows.examples[0]) == [("user", "2+2?", False), ("assistant", "4", True)]
    assert rows.examples[0].where.endswith("rows.jsonl:1")


def test_alpaca_input_system_and_history_are_read(write):
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief.", "history": [["hi", "hello"]]}
    (example,) = read_jsonl(write(row)).examples
    assert said(example) == [
        ("system", "Be brief.", False),
        ("user", "hi", False),
        ("assistant", "hello", False),
        ("user", "Add.\n\n1 2", False),
        ("assistant", "3", True),
    ]


def test_answers_with_weight_zero_are_shown_but_not_learned(write):
    row = {"messages": [*GOOD["messages"], {"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "7", "weight": 0}]}
    (example,) = read_jsonl(write(row)).examples
    assert [learned for *_, learned in said(example)] == [False, True, False, False]


def test_only_the_completion_of_a_conversational_prompt_is_learned(write):
    row = {"prompt": GOOD["messages"] + [{"role": "user", "content": "more"}], "completion": [{"role": "assistant", "content": "5"}]}
    (example,) = read_jsonl(write(row)).examples
    assert [turn.learned for turn in example.turns] == [False, False, False, True]


def test_content_in_text_parts_and_other_peoples_keys_are_read(write):
    row = {
        "id": 7,
        "source": "x",
        "messages": [GOOD["messages"][0], {"role": "assistant", "content": [{"type": "text", "text": "4"}, {"type": "text", "text": "!"}]}],
    }
    (example,) = read_jsonl(write(row)).examples
    assert example.turns[1].message.content == "4!"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        (b'{"messages": "\xff"}', "not UTF-8 (byte 15"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "number too long"),
        ('"text"', "text, not an object"),
        ({"question": "?"}, "it has `question`"),
        ({}, "no keys"),
        ({"messages": []}, "empty"),
        ({"messages": {"role": "user"}}, "an object, not a list"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant turn"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "'robot'"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "known: system"),
        ({"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "a"}]}, "`content` of turn 1 is null"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " \n"}]}, "empty answer"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": 4}]}, "a number, not text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, GOOD["messages"][1]]}, "only text"),
        ({"messages": [*GOOD["messages"], {"role": "system", "content": "late"}]}, "only the first"),
        ({"messages": [GOOD["messages"][0], GOOD["messages"][1] | {"weight": 0.5}]}, "`weight`"),
        ({"messages": [GOOD["messages"][0], GOOD["messages"][1] | {"tool_calls": [{"x": 1}]}]}, "OpenAI"),
        ({"prompt": "a", "completion": "b", "instruction": "c", "output": "d"}, "declare it with `format`"),
        (ROWS["alpaca"], "of the kind alpaca, but this file is messages"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_reason(write, row, reason):
    path = write(GOOD, GOOD, row, GOOD)
    with pytest.raises(DataError) as error:
        open_source(str(path))
    assert "1 of 4 rows" in str(error.value)
    assert "line 3:" in str(error.value)
    assert reason in str(error.value)
    assert "bad_rows: skip" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("prompt_completion", '{"prompt": "\\ud800", "completion": "b"}', "surrogate"),
        ("prompt_completion", {"prompt": 1, "completion": "b"}, "`prompt` is a number"),
        ("alpaca", {"instruction": "a", "output": "b", "history": "x"}, "`history`"),
        ("alpaca", {"instruction": "a", "input": 3, "output": "b"}, "`input`"),
        ("sharegpt", {"conversations": [{"from": "alien", "value": "a"}]}, "'alien'"),
    ],
)
def test_bad_rows_of_each_kind_are_named(write, kind, row, reason):
    with pytest.raises(DataError) as error:
        open_source(str(write(ROWS[kind], row)))
    assert "line 2:" in str(error.value)
    assert reason in str(error.value)


def test_all_bad_rows_are_named_and_quarantined_whether_or_not_one_goes_on(write, tmp_path):
    path = write(GOOD, "{", "", GOOD, "{", "[1]", "{", GOOD)
    aside = tmp_path / "run" / "quarantine.jsonl"
    with pytest.raises(DataError, match=r"lines 2, 5, 7: not JSON[\s\S]*line 6: a list"):
        open_source(str(path), quarantine=aside)
    quarantined = [json.loads(line) for line in aside.read_text().splitlines()]
    assert [row["line"] for row in quarantined] == [2, 5, 6, 7]
    assert quarantined[2]["row"] == "[1]"
    source = open_source(str(path), bad_rows="skip", quarantine=aside)
    assert len(source.examples) == 3
    assert "lines 2, 5, 7" in source.notes[0]


def test_skipping_every_row_is_an_error(write):
    with pytest.raises(DataError, match="No usable row"):
        open_source(str(write("{", "{")), bad_rows="skip")


@pytest.mark.parametrize("content", [b"", b"  \n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError):
        open_source(str(path))


def test_a_json_array_is_told_how_to_become_jsonl(write):
    with pytest.raises(DataError, match="jq -c"):
        open_source(str(write(json.dumps([GOOD]), name="rows.json")))


@pytest.mark.parametrize(("name", "words"), [("absent.jsonl", "no such file"), ("generated:jsonforms", "json_forms")])
def test_an_unknown_source_is_refused_with_a_remedy(name, words):
    with pytest.raises(DataError, match=words):
        open_source(name)


def test_generated_rows_are_the_seeds_and_more_of_them_begin_with_the_same():
    few, many = (open_source("generated:json_forms", count=count, seed=1).examples for count in (5, 12))
    assert [example.fingerprint for example in few] == [example.fingerprint for example in many[:5]]
    assert len({example.fingerprint for example in many}) == 12
    assert not {example.fingerprint for example in few} & {x.fingerprint for x in open_source("generated:json_forms", seed=2).examples}
    assert all(json.loads(example.turns[-1].message.content) for example in many)


def test_at_most_so_many_rows_are_taken_but_all_are_looked_at(write):
    path = write(GOOD, GOOD, GOOD)
    assert len(open_source(str(path), count=2).examples) == 2
    with pytest.raises(DataError, match="line 4"):
        open_source(str(write(GOOD, GOOD, GOOD, "{")), count=2)


def test_windows_line_ends_and_byte_order_marks_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode())
    assert len(open_source(str(path)).examples) == 2


def test_a_folder_is_read_file_by_file_and_names_bad_rows_of_all(write, tmp_path):
    write(GOOD, name="a.jsonl")
    write(ROWS["alpaca"], name="b.jsonl")
    assert len(open_source(str(tmp_path)).examples) == 2
    write("{", name="c.jsonl")
    write(GOOD, "{", name="d.jsonl")
    with pytest.raises(DataError, match=r"c\.jsonl[\s\S]*d\.jsonl"):
        open_source(str(tmp_path))


def test_the_fingerprint_is_of_the_content_and_its_order(write):
    one = open_source(str(write(GOOD, ROWS["messages"] | {"id": 1}, name="a.jsonl")))
    other = open_source(str(write(ROWS["sharegpt"], ROWS["sharegpt"], name="b.jsonl")))
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != open_source(str(write(GOOD, name="c.jsonl"))).fingerprint


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), unique=True, min_size=1))
def test_line_ranges_name_every_line(lines):
    text = describe([BadRow(line, "r") for line in lines]).split(":")[0].removeprefix("    line").removeprefix("s").strip()
    named = []
    for part in text.split(", "):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(lines)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text", "weight"]), inner, max_size=4)
    ),
    max_leaves=8,
)
keys = st.sampled_from(
    ["messages", "prompt", "completion", "instruction", "input", "output", "conversations", "system", "history", "tools"]
)


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(keys, json_values, max_size=4).map(json.dumps) | st.text(max_size=20).filter(lambda text: "\n" not in text),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_stands_in_a_file_is_read_or_named(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        rows = read_jsonl(path)
    except DataError:
        return
    filled = sum(bool(line.strip()) for line in path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"))
    assert len(rows.examples) + len(rows.bad) == filled
    try:
        settle(rows, "skip")
    except DataError:
        assert not rows.examples
