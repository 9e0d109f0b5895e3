"""Which tokens are learned: the answers and their end, read as the engine reads the question."""

import dataclasses
import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_talker import CHATML, tiny_tokenizer

from steelyard.core.errors import DataError
from steelyard.core.protocols import Message
from steelyard.data.encoding import Encoder, encode_all
from steelyard.data.formats import Example, Turn
from steelyard.model.template import ChatTemplate

TOKENIZER = tiny_tokenizer()


def encoder(template: str | None = CHATML, tokenizer=TOKENIZER, **settings):
    return Encoder(tokenizer, ChatTemplate(template) if template else None, **settings)


def conversation(*said, learned=None):
    """Turns by turns of user and assistant."""
    roles = ("user", "assistant")
    learned = learned if learned is not None else [index % 2 == 1 for index in range(len(said))]
    return Example(tuple(Turn(Message(roles[i % 2], text), learned[i]) for i, text in enumerate(said)), "rows.jsonl:1")


def parts(row, tokenizer=TOKENIZER):
    """(shown or learned, text) runs of a row."""
    out: list[tuple[bool, list[int]]] = []
    for token, learned in zip(row.ids.tolist(), row.learned.tolist(), strict=True):
        if not out or out[-1][0] != learned:
            out.append((learned, []))
        out[-1][1].append(token)
    return [(learned, tokenizer.decode(ids)) for learned, ids in out]


def test_the_answer_and_its_end_are_learned_and_nothing_else():
    assert parts(encoder().encode(conversation("2+2?", "4"))) == [
        (False, "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"),
        (True, "4<|im_end|>"),
    ]


def test_every_answer_of_a_conversation_is_learned_or_only_the_last():
    example = conversation("a", "b", "c", "d")
    assert [text for learned, text in parts(encoder().encode(example)) if learned] == ["b<|im_end|>", "d<|im_end|>"]
    assert [text for learned, text in parts(encoder(learn="last").encode(example)) if learned] == ["d<|im_end|>"]
    shown = conversation("a", "b", "c", "d", learned=[False, False, False, True])
    assert [text for learned, text in parts(encoder().encode(shown)) if learned] == ["d<|im_end|>"]


def test_what_follows_the_last_learned_answer_is_left_out():
    assert parts(encoder().encode(conversation("a", "b", "more?")))[-1] == (True, "b<|im_end|>")


texts = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=12).filter(str.strip)


@settings(deadline=None)
@given(st.lists(texts, min_size=2, max_size=6).filter(lambda said: len(said) % 2 == 0))
def test_the_tokens_before_an_answer_are_those_the_engine_would_read(said):
    row = encoder().encode(conversation(*said))
    template = ChatTemplate(CHATML)
    for turn in range(1, len(said), 2):
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said[:turn])]
        prompt = TOKENIZER.encode(template.render(messages))
        answer = [*TOKENIZER.encode(said[turn]), *TOKENIZER.eos_ids]
        assert row.ids[: len(prompt)].tolist() == prompt
        assert row.ids[len(prompt) : len(prompt) + len(answer)].tolist() == answer
        assert row.learned[len(prompt) : len(prompt) + len(answer)].all() and not row.learned[len(prompt) - 1]
    assert row.learned.sum() == sum(len(TOKENIZER.encode(text)) + 1 for text in said[1::2])


def test_a_template_that_drops_earlier_thoughts_is_refused_unless_only_the_last_answer_is_learned():
    forgetful = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1] }}")
    example = conversation("a", "<think>hm</think>b", "c", "<think>so</think>d")
    with pytest.raises(DataError, match="learn: last"):
        encoder(forgetful).encode(example)
    assert parts(encoder(forgetful, learn="last").encode(example))[-1] == (True, "<think>so</think>d<|im_end|>")


def test_a_template_whose_generation_prompt_is_not_how_answers_begin_is_refused():
    forced = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}")
    with pytest.raises(DataError, match="generation prompt"):
        encoder(forced).encode(conversation("a", "b"))


def test_an_answer_that_the_template_leaves_open_gets_an_end_token():
    plain = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    rows, notes = encode_all(encoder(plain), [conversation("a", "b", "c", "d")], max_length=99)
    assert parts(rows[0]) == [(False, "[user] a\n[assistant] "), (True, "b\n"), (False, "[user] c\n[assistant] "), (True, "d\n<|im_end|>")]
    assert "end token" in notes[0]
    with pytest.raises(DataError, match="eos_token"):
        encoder(plain, tiny_tokenizer(eos=None)).encode(conversation("a", "b"))


def test_plain_rows_are_joined_as_they_are():
    beginning = tiny_tokenizer(begins=True)
    row = encoder(None, beginning, plain=True).encode(conversation("2+2=", "4"))
    assert parts(row) == [(False, "<|begin|>2+2="), (True, "4<|im_end|>")]
    assert encoder(CHATML, beginning).encode(conversation("a", "b")).ids[0] != beginning.bos_id


def test_tokens_of_a_prompt_and_of_an_answer_never_merge():
    """Asked "hel", a model reads "h", "e", "l"; it never sees the token that "hel" + "lo" has across the border."""
    merging = tiny_tokenizer()
    model = json.loads(merging.backend.to_str())
    model["model"]["merges"] = [["l", "l"], ["l", "o"]]
    model["model"]["vocab"] |= {"ll": 300, "lo": 301}
    merging = dataclasses.replace(merging, backend=tokenizers.Tokenizer.from_str(json.dumps(model)))
    assert [merging.decode([token]) for token in merging.encode("hello")] == ["h", "e", "ll", "o"]
    row = encoder(None, merging, plain=True).encode(conversation("hel", "lo"))
    assert [merging.decode([token]) for token in row.ids[:-1]] == ["h", "e", "l", "lo"]
    assert row.learned.tolist() == [False, False, False, True, True]


def test_no_template_is_said_with_a_remedy():
    with pytest.raises(DataError, match="plain: true"):
        encode_all(encoder(None), [conversation("a", "b")], max_length=99)


def test_rows_that_are_too_long_are_refused_by_name_skipped_or_cut():
    short, long = conversation("a", "b"), conversation("a", "b" * 90)
    with pytest.raises(DataError, match=r"1 of 2 rows are longer than 60 tokens:\s+rows.jsonl:1: 111 tokens"):
        encode_all(encoder(), [short, long], max_length=60)
    rows, notes = encode_all(encoder(), [short, long], max_length=60, too_long="skip")
    assert len(rows) == 1 and "left out" in notes[0] and "111" in notes[0]
    rows, notes = encode_all(encoder(), [short, long], max_length=60, too_long="cut")
    assert [len(row) for row in rows] == [len(rows[0]), 60] and "cut to 60" in notes[0]
    with pytest.raises(DataError, match="nothing to learn"):
        encode_all(encoder(), [conversation("a" * 90, "b")], max_length=60, too_long="cut")
    with pytest.raises(DataError, match="no row is left"):
        encode_all(encoder(), [long], max_length=60, too_long="skip")


def test_rows_the_template_refuses_are_named_and_skipped_only_if_told(tmp_path):
    strict = "{% if messages[0].content == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}" + CHATML
    examples = [conversation("good", "b"), conversation("bad", "b")]
    aside = tmp_path / "aside.jsonl"
    with pytest.raises(DataError, match="no bad words"):
        encode_all(encoder(strict), examples, max_length=99, quarantine=aside)
    assert len(aside.read_text().splitlines()) == 1
    rows, notes = encode_all(encoder(strict), examples, max_length=99, bad_rows="skip")
    assert len(rows) == 1 and "rows.jsonl:1" in notes[0]


def test_tools_of_a_row_reach_the_template():
    showing = "{% if tools %}TOOLS {{ tools[0].name }}\n{% endif %}" + CHATML
    example = Example(conversation("a", "b").turns, "x", ({"name": "clock"},))
    assert parts(encoder(showing).encode(example))[0][1].startswith("TOOLS clock\n")
