"""Encoders: BERT equals its class in transformers, MiniLM's vectors equal those of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import change_config, random_ids
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, BertConfig, BertForMaskedLM, BertModel

import steelyard
from steelyard.core.errors import ContextLengthError, ModelFileError, SteelyardError, UnsupportedError
from steelyard.model.step import Step

TEXTS = [
    "A man is eating food.",
    "",
    " ",
    "word " * 300,
    "Καλημέρα κόσμε, 你好，世界! 🌍 naïve Ångström ﬁ ½",
    "don't; e-mail: a@b.c (1,234.5%)",
    "\x00\x07\ufffd control \u200b\u202e",
    "[CLS] [SEP] [MASK] in the text",
    "ünïcödé " * 80,
    "x" * 250,
    "A man is eating food.",
]
FEW = [TEXTS[0], *TEXTS[4:6]]
SMALL = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "max_position_embeddings": 40,
}


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> Any:
    return steelyard.load(minilm)


@pytest.fixture(scope="module")
def sentences(minilm: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm), device="cpu")


def difference(ours: torch.Tensor, theirs: Any) -> float:
    assert tuple(ours.shape) == tuple(theirs.shape)
    return float((ours - torch.as_tensor(theirs)).abs().max())


def random_bert(**changes: Any) -> BertModel:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SMALL | changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def states(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return steelyard.load(folder).trunk(ids, Step.whole(*ids.shape, ids.device))


# ---- BERT --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "relu", "type_vocab_size": 1}, {"layer_norm_eps": 0.1, "hidden_act": "gelu_new"}])
def test_hidden_states_equal_those_of_transformers_both_ways(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_bert(**changes)
    theirs.save_pretrained(tmp_path / "theirs")
    ids = random_ids()
    with torch.inference_mode():
        expected = theirs(ids).last_hidden_state
    assert difference(states(tmp_path / "theirs", ids), expected) < 1e-5
    steelyard.load(tmp_path / "theirs").save(tmp_path / "ours")
    again, report = AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["unexpected_keys"] and all(name.startswith("pooler.") for name in report["missing_keys"])
    with torch.inference_mode():
        assert torch.equal(again.eval()(ids).last_hidden_state, expected)


def test_the_body_of_a_masked_language_model_is_an_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = BertForMaskedLM(BertConfig(**SMALL)).eval()
    theirs.save_pretrained(tmp_path)
    ids = random_ids()
    with torch.inference_mode():
        expected = theirs.bert(ids).last_hidden_state
    assert difference(states(tmp_path, ids), expected) < 1e-5


def test_an_encoder_says_that_it_has_no_logits(minilm: Path, encoder: Any) -> None:
    with pytest.raises(UnsupportedError, match="no language-model head"):
        encoder.logits([[1, 2]])


# ---- MiniLM ------------------------------------------------------------------------------------------------------------------


def test_vectors_equal_those_of_sentence_transformers(encoder: Any, sentences: SentenceTransformer) -> None:
    expected = sentences.encode(TEXTS)
    for batch in (3, 32):
        assert difference(encoder.embed(TEXTS, batch=batch, truncate=True), expected) < 1e-5


def test_a_long_text_is_refused_unless_cutting_is_asked_for(encoder: Any, sentences: SentenceTransformer) -> None:
    assert encoder.context_length == sentences.max_seq_length == 256
    fits, too_long = "word " * 254, "word " * 255
    assert difference(encoder.embed([fits]), sentences.encode([fits])) < 1e-5
    with pytest.raises(ContextLengthError, match=r"257 tokens"):
        encoder.embed([fits, too_long])


def test_no_texts_give_no_vectors(encoder: Any) -> None:
    assert encoder.embed([]).shape == (0, 384)
    with pytest.raises(SteelyardError, match="one text, not a list"):
        encoder.embed("one text")


def test_a_saved_encoder_is_the_same_to_sentence_transformers(encoder: Any, sentences: SentenceTransformer, tmp_path: Path) -> None:
    encoder.save(tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert again.max_seq_length == 256
    assert difference(torch.as_tensor(again.encode(FEW)), sentences.encode(FEW)) < 1e-6
    assert torch.equal(steelyard.load(tmp_path / "ours").embed(FEW), encoder.embed(FEW))


def test_what_the_newest_library_saves_is_read(encoder: Any, sentences: SentenceTransformer, tmp_path: Path) -> None:
    sentences.save(str(tmp_path / "theirs"))
    model = steelyard.load(tmp_path / "theirs")
    assert model.context_length == 256
    assert torch.equal(model.embed(FEW), encoder.embed(FEW))


@pytest.fixture(scope="module")
def tiny(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of one small layer with MiniLM's tokenizer and modules."""
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copytree(minilm, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    shutil.copy(minilm / "1_Pooling" / "config.json", folder / "1_Pooling" / "config.json")
    random_bert(vocab_size=30522, max_position_embeddings=300).save_pretrained(folder)
    change_pooling(folder, word_embedding_dimension=24)
    return folder


def change_pooling(folder: Path, **changes: Any) -> None:
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("mode", ["cls_token", "lasttoken", "mean_tokens"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_kind_of_pooling_equals_sentence_transformers(tiny: Path, tmp_path: Path, mode: str, normalize: bool) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    change_pooling(
        folder,
        **{"pooling_mode_mean_tokens": False, f"pooling_mode_{mode}": True}
        | ({"pooling_mode_mean_tokens": True} if mode == "mean_tokens" else {}),
    )
    if not normalize:
        (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:2]))
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert difference(steelyard.load(folder).embed(TEXTS, truncate=True), expected) < 1e-5


@pytest.mark.parametrize(
    ("file", "text", "error", "message"),
    [
        ("modules.json", "[", ModelFileError, "not valid JSON"),
        ("modules.json", "{}", ModelFileError, "not a list of steps"),
        ("modules.json", '[{"type": "a.Transformer"}, {"type": "b.Dense"}]', UnsupportedError, "`Dense`"),
        ("modules.json", "[]", UnsupportedError, "are not built here"),
        ("modules.json", '[], "more": []', ModelFileError, "not a list of steps"),
        ("modules.json", '[{"type": "a.Transformer", "path": "../x"}]', UnsupportedError, "`../x`"),
        ("modules.json", " " * 2**21, ModelFileError, "too many"),
        ("1_Pooling/config.json", '{"pooling_mode": "weightedmean"}', UnsupportedError, "pooling `weightedmean`"),
        ("1_Pooling/config.json", '{"pooling_mode": ["mean", "cls"]}', UnsupportedError, "is not built here"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', UnsupportedError, "pooling_mode_max_tokens"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true}', UnsupportedError, " and "),
        ("sentence_bert_config.json", '{"max_seq_length": -1}', ModelFileError, "not a number of tokens"),
        ("sentence_bert_config.json", '{"max_seq_length": 128, "do_lower_case": true}', UnsupportedError, "do_lower_case"),
    ],
)
def test_steps_that_are_damaged_or_not_built_are_named(
    tiny: Path, tmp_path: Path, file: str, text: str, error: type[Exception], message: str
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / file).write_text(text)
    with pytest.raises(error, match=message):
        steelyard.load(folder)


def test_an_encoder_without_a_pooling_description_gives_the_unit_mean(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / "modules.json").unlink()
    model = steelyard.load(folder)
    assert model.context_length == 300
    assert torch.allclose(model.embed(TEXTS[:3]), steelyard.load(tiny).embed(TEXTS[:3]), atol=1e-6)


def test_a_token_without_a_row_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    random_bert(vocab_size=5000, max_position_embeddings=300).save_pretrained(folder)
    with pytest.raises(SteelyardError, match="do not exist: the model has 5000"):
        steelyard.load(folder).embed(["antidisestablishmentarianism"])


def test_a_decoder_among_encoders_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    change_config(folder, is_decoder=True)
    with pytest.raises(ModelFileError, match="is_decoder"):
        steelyard.load(folder)
