"""BERT out of GGUF: the vectors and the tokens of the directory it was made from; what a file does not say is refused or known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf_models import put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_minilm import SMALL, TEXTS, difference, random_bert
from test_tokenizer import hard_texts
from transformers import AutoModel, AutoTokenizer, BertModel

import steelyard
from steelyard.core.errors import ModelFileError, SteelyardError, UnsupportedError
from steelyard.model.inspect import inspect
from steelyard.model.tokenizer import Tokenizer
from steelyard.model.tokenizer_wordpiece import spelled_out

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *"0123.,[]▁", "##1", "##▁", "the", "food", "##ing", "man", "你", "é"]
IDS = {"unknown_token_id": "[UNK]", "padding_token_id": "[PAD]", "cls_token_id": "[CLS]", "seperator_token_id": "[SEP]"}


def phantom(token: str) -> str:
    """A token as llama.cpp's converter writes it."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else "▁" + token


def write(
    model: BertModel, tokens: list[str], path: Path, *, drop: tuple[str, ...] = (), blocks: str | None = None, **changes: Any
) -> Path:
    """One GGUF file the way llama.cpp's converter makes it; `drop` and `changes` are of metadata keys, with `__` for `.`."""
    config, table = model.config, gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, model.config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, "bert")
    values: dict[str, Any] = {
        "bert.block_count": config.num_hidden_layers,
        "bert.context_length": config.max_position_embeddings,
        "bert.embedding_length": config.hidden_size,
        "bert.feed_forward_length": config.intermediate_size,
        "bert.attention.head_count": config.num_attention_heads,
        "bert.attention.layer_norm_epsilon": config.layer_norm_eps,
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "tokenizer.ggml.token_type_count": config.type_vocab_size,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.tokens": [phantom(token) for token in tokens],
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        **{f"tokenizer.ggml.{key}": tokens.index(token) for key, token in IDS.items()},
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    for key, value in values.items():
        if key not in drop:
            put(writer, key, value)
    for name, tensor in model.state_dict().items():
        if name.startswith("pooler.") or name == "embeddings.position_ids":
            continue
        theirs = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        data = tensor.float().contiguous().numpy()
        if blocks is not None and data.ndim == 2 and data.shape[1] % 32 == 0 and theirs.startswith("blk."):
            kind = gguf.GGMLQuantizationType[blocks]
            writer.add_tensor(theirs, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def directory(model: BertModel, tokens: list[str], folder: Path) -> Path:
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return folder


def opened(path: Path) -> Any:
    return steelyard.load(path)


def tiny(**changes: Any) -> BertModel:
    return random_bert(**{"vocab_size": len(WORDS)} | changes)


@pytest.fixture(scope="module")
def converted(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM as a GGUF file in float32."""
    tokens = (minilm / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return write(BertModel.from_pretrained(minilm), tokens, tmp_path_factory.mktemp("gguf") / "minilm.gguf")


# ---- MiniLM ------------------------------------------------------------------------------------------------------------------


def test_vectors_equal_those_of_the_directory(minilm: Path, converted: Path) -> None:
    ours, theirs = steelyard.load(converted), steelyard.load(minilm)
    texts = [text for text in TEXTS if len(theirs.tokenizer.encode_for_model(text)) <= theirs.context_length]
    assert len(texts) > 5 and difference(ours.embed(texts), theirs.embed(texts)) < 1e-5
    assert ours.context_length == 512  # the position table's; where MiniLM cuts texts, the file does not say


def test_tokens_equal_those_of_the_directory(minilm: Path, converted: Path) -> None:
    ours, theirs = steelyard.load(converted).tokenizer, Tokenizer.from_directory(minilm)
    assert ours.backend.get_vocab() == theirs.backend.get_vocab()
    assert (ours.prefix_ids, ours.suffix_ids, ours.pad_id, ours.bos_id, ours.eos_ids) == ((101,), (102,), 0, None, ())
    for text in [*TEXTS, *hard_texts(300, seed=3), "[UNK][PAD] [MASK]", "▁phantom ▁", "##ing [unused5]", "x" * 101, "ǅ ẞ İstanbul"]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.encode(text, special=False) == theirs.encode(text, special=False), text


def test_a_saved_copy_opens_in_transformers_as_the_same_encoder(minilm: Path, converted: Path, tmp_path: Path) -> None:
    model = steelyard.load(converted)
    model.save(tmp_path / "saved")
    again, tokenizer = AutoModel.from_pretrained(tmp_path / "saved").eval(), AutoTokenizer.from_pretrained(tmp_path / "saved")
    original = AutoModel.from_pretrained(minilm).eval()
    batch = tokenizer(TEXTS[4:6], return_tensors="pt", padding=True)
    with torch.inference_mode():
        difference_of_states = (again(**batch).last_hidden_state - original(**batch).last_hidden_state).abs().max()
    assert float(difference_of_states) < 1e-5
    assert difference(steelyard.load(tmp_path / "saved").embed(TEXTS[:3]), model.embed(TEXTS[:3])) < 1e-6


def test_a_whole_file_checks_without_problems(converted: Path) -> None:
    found = inspect(converted, check=True)
    assert found["problems"] == [] and found["family"] == "bert" and found["heads"] == ["pool"] and found["parameters"] > 22e6


# ---- small random encoders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"type_vocab_size": 1, "num_hidden_layers": 1}, {"num_attention_heads": 4, "layer_norm_eps": 0.1}, {"hidden_size": 33}]
)
def test_random_encoders_equal_their_directories(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(**changes)
    theirs = steelyard.load(directory(model, WORDS, tmp_path / "theirs"))
    ours = steelyard.load(write(model, WORDS, tmp_path / "model.gguf"))
    texts = ["the man fooding 12", "", "éa ▁x 你好 [CLS]", "b." * 15]
    assert ours.context_length == 40 and difference(ours.embed(texts), theirs.embed(texts)) < 1e-5


@pytest.mark.parametrize(("number", "mode"), [(1, "mean"), (2, "first"), (3, "last")])
def test_the_files_pooling_is_used(number: int, mode: str, tmp_path: Path) -> None:
    model = steelyard.load(write(tiny(), WORDS, tmp_path / "model.gguf", bert__pooling_type=number))
    assert model.trunk.plan.heads["pool"].mode == mode


@pytest.mark.parametrize("number", [0, 4, 99, "1", 1.0])
def test_pooling_that_is_not_built_is_refused_by_its_number(number: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="pooling_type"):
        steelyard.load(write(tiny(), WORDS, tmp_path / "model.gguf", bert__pooling_type=number))


@pytest.mark.parametrize("blocks", ["Q8_0", "Q4_0"])
def test_weights_may_lie_in_blocks(blocks: str, tmp_path: Path) -> None:
    path = write(tiny(hidden_size=96, intermediate_size=64), WORDS, tmp_path / "model.gguf", blocks=blocks)
    read, kept = steelyard.load(path), steelyard.load(path, dtype="stored")
    texts = ["the man", "fooding"]
    assert float((read.embed(texts) * kept.embed(texts)).sum(1).min()) > 0.99  # activations are rounded to 8 bits beside blocks


def test_older_files_call_the_frame_bos_and_eos(tmp_path: Path) -> None:
    changes = {"tokenizer__ggml__bos_token_id": 2, "tokenizer__ggml__eos_token_id": 3}
    dropped = ("tokenizer.ggml.cls_token_id", "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.token_type", "bert.pooling_type")
    model = steelyard.load(write(tiny(), WORDS, tmp_path / "model.gguf", drop=dropped, **changes))
    assert model.tokenizer.encode_for_model("[CLS] the")[0] == 2 and model.tokenizer.suffix_ids == (3,)
    assert model.trunk.plan.heads["pool"].mode == "mean"


def test_a_vocabulary_with_capital_letters_keeps_case_and_accents(tmp_path: Path) -> None:
    words = [*WORDS, "The", "École"]
    model = steelyard.load(write(tiny(vocab_size=len(words)), words, tmp_path / "model.gguf"))
    cased = Tokenizer.from_directory(directory(tiny(vocab_size=len(words)), words, tmp_path / "theirs"))
    assert model.tokenizer.encode("The École the") == [words.index("The"), words.index("École"), words.index("the")]
    assert cased.encode("The") == [words.index("the")]  # vocab.txt alone says nothing, and BERT's own default is to lower-case
    assert steelyard.load(write(tiny(), WORDS, tmp_path / "small.gguf")).tokenizer.encode("THE") == [WORDS.index("the")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bert__attention__causal": True}, "attention.causal"),
        ({"bert__attention__head_count_kv": 1}, "head_count_kv"),
        ({"bert__attention__head_count": 5}, "multiple of"),
        ({"bert__context_length": 41}, "position_embd"),
        ({"bert__embedding_length": -1}, "embedding_length"),
        ({"bert__attention__layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"tokenizer__ggml__model": "t5"}, "'t5'"),
        ({"tokenizer__ggml__cls_token_id": 10**6}, "cls_token_id"),
        ({"tokenizer__ggml__tokens": [f"<{i}>" for i in range(len(WORDS))]}, "beginning of a word"),
        ({"tokenizer__ggml__tokens": [*map(phantom, WORDS[:-2]), "▁##q", "▁[zzz"]}, "are both '##q'"),
        ({"tokenizer__ggml__token_type": [1]}, "does not fit"),
    ],
)
def test_what_a_file_merely_claims_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SteelyardError, match=message):
        steelyard.load(write(tiny(), WORDS, tmp_path / "model.gguf", **change))


def test_a_missing_table_of_types_is_named(tmp_path: Path) -> None:
    model = tiny()
    path = write(model, WORDS, tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().replace(b"token_types.weight", b"token_typos.weight"))
    with pytest.raises(ModelFileError, match="token_ty[p]"):
        steelyard.load(path)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc"))).filter(bool), min_size=1, unique=True))
@settings(max_examples=100, deadline=None)
def test_bracketed_and_marked_tokens_are_spelled_as_they_were(words: list[str]) -> None:
    plain = [word for word in words if not word.startswith(("#", "▁", "["))]
    tokens = [*dict.fromkeys(["[CLS]", "a", *plain, *(f"##{word}" for word in plain)])]
    assert spelled_out([phantom(token) for token in tokens], (), "here") == tokens


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = write(tiny(), WORDS, tmp_path / "model.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for end in [*range(0, len(whole) - 32, len(whole) // 40)]:
        cut.write_bytes(whole[:end])
        with pytest.raises(SteelyardError):
            steelyard.load(cut)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_loads_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "whole.gguf"
    if not path.exists():
        write(tiny(), WORDS, path)
    content, start = bytearray(path.read_bytes()), path.read_bytes().rfind(b"layer_output_norm.bias") + 64
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, start))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    try:
        model = opened(damaged)
    except SteelyardError as error:
        assert error.do
    else:
        model.embed(["the man"])


KEYS = [
    *("bert.block_count", "bert.context_length", "bert.embedding_length", "bert.feed_forward_length", "bert.attention.head_count"),
    *("bert.attention.layer_norm_epsilon", "bert.attention.causal", "bert.pooling_type", "bert.attention.key_length"),
    *("tokenizer.ggml.cls_token_id", "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.token_type"),
    *("tokenizer.ggml.padding_token_id", "tokenizer.ggml.mask_token_id", "tokenizer.ggml.model", "tokenizer.ggml.tokens"),
]
VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 4, -1, 2**31, 2**32 - 1, float("nan"), float("inf"), -1.0, 1e-45, True, False, "", "bert", "\x00"]),
    st.lists(st.integers(-1, 9), min_size=1, max_size=3),
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
)


@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_metadata_loads_or_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write(tiny(), WORDS, tmp_path / "model.gguf", **{key.replace(".", "__"): value for key, value in changes.items()})
    try:
        model = opened(path)
    except SteelyardError as error:
        assert error.do
    else:
        try:
            assert model.embed(["the man"]).shape == (1, SMALL["hidden_size"])
        except SteelyardError as error:
            assert error.do


def test_the_terminal_names_the_encoder(tmp_path: Path) -> None:
    found = inspect(write(tiny(), WORDS, tmp_path / "model.gguf"), check=True)
    assert json.loads(json.dumps(found))["problems"] == [] and found["context"] == SMALL["max_position_embeddings"]
