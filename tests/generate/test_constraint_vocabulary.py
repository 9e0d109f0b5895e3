"""Constraints know what every token writes, in byte-level and SentencePiece vocabularies, first in an answer or later."""

from __future__ import annotations

import dataclasses
import functools
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engines import talker
from tiny_talker import tiny_tokenizer

from steelyard.core.errors import UnsupportedError
from steelyard.core.protocols import AnswerSettings
from steelyard.generate.engine import Engine
from steelyard.generate.processor import View
from steelyard.generate.spec import EngineSpec
from steelyard.model.load import load
from steelyard.model.tokenizer import Tokenizer

pytest.importorskip("llguidance", reason="the extra `constraint` is not installed")

from steelyard.generate.constraints.constraint import Constraint
from steelyard.generate.constraints.vocabulary import token_bytes, vocabulary

PIECES = ["▁", "▁▁", "▁a", "a", "b", "ab", "▁yes", "no", "{", '"', "▁{", "1", "é", "b▁c", "▁\n", ":"]


@functools.cache
def sentencepiece(space_first: bool = True) -> Tokenizer:
    """Bytes, spaces and a few pieces, as GGUF files of the Llama family have them."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [-float(id) for id in range(len(tokens))],
            "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(PIECES)],
            "tokenizer.ggml.add_space_prefix": space_first,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )


def spec_of(tokenizer: Tokenizer) -> EngineSpec:
    model = talker(20.0, vocab_size=tokenizer.vocabulary_size + 7, num_hidden_layers=1)  # rows without a token, as padded tables have
    return EngineSpec(dataclasses.replace(model, tokenizer=tokenizer), deterministic=True, dtype="float32", slots=2, threads=1)


TOKENIZERS = {
    "byte level": tiny_tokenizer,
    "sentencepiece": sentencepiece,
    "sentencepiece without a first space": functools.partial(sentencepiece, space_first=False),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_tokens_write_what_decoding_writes(name, data):
    tokenizer = TOKENIZERS[name]()
    first, later = (token_bytes(tokenizer, tokenizer.vocabulary_size, start) for start in (True, False))
    known = [id for id, written in enumerate(later) if written is not None]
    ids = data.draw(st.lists(st.sampled_from(known), max_size=8))
    written = b"".join((later if place else first)[id] or b"" for place, id in enumerate(ids))
    try:
        text = written.decode("utf-8")
    except UnicodeDecodeError:
        return
    if not ids or first[ids[0]]:  # a first token that writes nothing is never offered
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("regex", ["(yes|no)", " ?ab c", "(é|日本)+ ok", r'\{"a": [1-3]\}'])
def test_every_answer_matches_to_the_letter_spaces_at_the_start_included(name, regex):
    """Random walks through the masks; what their tokens decode to is judged by Python's own `re`."""
    tokenizer = TOKENIZERS[name]()
    spec = spec_of(tokenizer)
    (processor,) = Constraint(regex=regex).decode(spec).processors
    rows, dice, texts = tokenizer.vocabulary_size + 7, random.Random(3), set()
    for _ in range(30):
        session, tokens = processor.start(AnswerSettings()), []
        assert session is not None
        while True:
            offered = torch.isfinite(session(torch.zeros(rows), View([], []))).nonzero()[:, 0].tolist()
            assert offered and not set(offered) & (tokenizer.special_ids - set(tokenizer.eos_ids)) and max(offered) < rows - 7
            token = dice.choice(offered)
            if token in tokenizer.eos_ids:
                break
            tokens.append(token)
            session.advance(token)
            if dice.random() < 0.2:  # going back over the first token, too
                count = dice.randint(1, len(tokens))
                session.rewind(count)
                del tokens[-count:]
        decoder = tokenizer.stream_decoder()
        text = "".join([decoder.push(token) for token in tokens] + [decoder.flush()])
        assert re.fullmatch(regex, text), (text, tokens)
        texts.add(text)
    assert len(texts) > 1


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "form",
    [
        {"regex": "[ab]{3}( [ab]{3})*!"},
        {"json_schema": {"type": "object", "properties": {"a": {"enum": ["no", "yes é"]}, "1": {"const": None}}, "required": ["a", "1"]}},
        {"grammar": 'start: "ab" %json {"const": true} tail\ntail: "." | "; " start'},
    ],
)
def test_engines_answer_in_form_with_every_vocabulary(name, form):
    with Engine.from_spec(Constraint(**form).decode(spec_of(TOKENIZERS[name]()))) as engine:
        (answer,) = engine.generate([[5, 6]], max_tokens=60, temperature=1.0)
    assert answer.finish_reason == "length" or Constraint(**form).form().accepts(answer.text)


def test_all_of_several_end_tokens_end_an_answer():
    tokenizer = dataclasses.replace(tiny_tokenizer(), eos_ids=(256, 258))
    (processor,) = Constraint(regex="a?").decode(spec_of(tokenizer)).processors
    session = processor.start(AnswerSettings())
    assert session is not None
    offered = torch.isfinite(session(torch.zeros(267), View([], []))).nonzero()[:, 0].tolist()
    assert {256, 258} < set(offered) and len(offered) == 3


def test_a_vocabulary_is_read_once():
    tokenizer = tiny_tokenizer()
    assert vocabulary(tokenizer, 260) is vocabulary(tokenizer, 260)


def test_a_tokenizer_whose_tokens_have_no_bytes_is_refused():
    from tokenizers import decoders

    tokenizer = tiny_tokenizer()
    tokenizer.backend.decoder = decoders.WordPiece()  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match="decoder: WordPiece"):
        Constraint(regex="a").decode(spec_of(tokenizer))


def test_a_real_model_writes_its_texts_token_by_token(smollm):
    model = load(str(smollm))
    tokenizer = model.tokenizer
    assert tokenizer is not None
    (processor,) = Constraint(regex="(?s:.*)").decode(EngineSpec(model)).processors
    for text in ("Hello, world!\n", "日本語 🌍 é\t{}", "def f(x):\n    return x  # 1234"):
        session = processor.start(AnswerSettings())
        assert session is not None
        for token in tokenizer.encode(text, special=False):
            logits = session(torch.zeros(tokenizer.vocabulary_size), View([], []))
            assert (
                torch.isfinite(logits[token]) and not torch.isfinite(logits[sorted(tokenizer.special_ids - set(tokenizer.eos_ids))]).any()
            )
            session.advance(token)
