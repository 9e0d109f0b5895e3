"""Trainings from nothing that cannot be: each is refused when its recipe is read, before a text is opened."""

from __future__ import annotations

import pytest

from steelyard.core import recipe
from steelyard.core.errors import SteelyardError

RECIPE = """\
new: {width: 32, depth: 2, context: 16}
steps:
  - pretrain: {data: nowhere, steps: 2}
"""
WRONG = {
    "the window of 17 tokens is longer than the context of 16": ["new.mixer={attention: {window: 17}}"],
    "longer than the context of 16": ["new.mixer={sparse_attention: {window: 17}}"],
    "no token stands 16 tokens before another": ["new.mixer={sparse_attention: {window: 4, stride: 16}}"],
    "kind bytes learns nothing": ["new.tokenizer={kind: bytes, data: nowhere}"],
    "words of their own, not ''": ["new.tokenizer={kind: bytes, special: ['']}"],
    "must differ from each other": ["new.tokenizer={kind: bytes, special: [<|a|>, <|a|>]}"],
    "segment of 17 tokens is longer": ["new.mixer={transformer_xl: {segment: 17}}"],
    "patch of 17 bytes is longer": ["new.inputs={patches: {size: 17}}"],
    "17 tokens ahead are more than the context of 16": ["new.head={multi_token: {tokens: 17}}"],
    "9 tokens ahead cannot be learned in windows of 8": ["new.head={multi_token: {tokens: 9}}", "steps.pretrain.time=8"],
    "`time` is 17, but the new model reads at most 16": ["steps.pretrain.time=17"],
    "experts": ["new.channel={moe: {experts: 2, active: 3}}"],
    "the tokenizer has 257 tokens": ["new.vocabulary=256"],
    "the tokenizer has 400 tokens": ["new.vocabulary=399", "new.tokenizer={kind: bpe, data: nowhere, vocabulary: 400}"],
    "are 258 already": ["new.tokenizer={kind: bpe, data: nowhere, vocabulary: 258, special: [<|a|>]}"],
    "leave `vocabulary` out": ["new.tokenizer={kind: characters, data: nowhere, vocabulary: 300}"],
    "counted in bytes": [
        "new.inputs={patches: {size: 4, mean: 2, data: nowhere}}",
        "new.tokenizer={kind: bpe, data: nowhere, vocabulary: 400}",
    ],
    "a decoder cannot use it": ["new.mixer=[attention, linformer]"],
    "leave none of 2 to loop": ["new.stack={recurrent_depth: {prelude: 2}}"],
    "more than the whole budget": ["steps.pretrain.schedule=wsd", "steps.pretrain.warmup=0.6", "steps.pretrain.decay=0.5"],
    "needs a `validation` share": ["steps.pretrain.validation=0", "steps.pretrain.validate_every=5"],
    "an encoder-decoder learns from pairs": ["new={kind: encoder_decoder, width: 32, depth: 2}"],
    "one budget": ["steps.pretrain.seconds=5"],
}


@pytest.mark.parametrize("told", WRONG)
def test_a_training_that_cannot_be_is_refused_when_its_recipe_is_read(told, tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(RECIPE)
    with pytest.raises(SteelyardError) as found:
        recipe.read(file, WRONG[told])
    assert told in str(found.value)


def test_a_vocabulary_larger_than_the_tokenizers_and_one_word_more_than_bytes_are_read(tmp_path):
    file = tmp_path / "right.yaml"
    file.write_text(RECIPE)
    assert recipe.read(file, ["new.vocabulary=300", "steps.pretrain.time=16", "new.head={multi_token: {tokens: 16}}"])
    assert recipe.read(file, ["new.tokenizer={kind: bpe, data: nowhere, vocabulary: 258}"])
