"""Tokens on disk: made once, whole or not at all, and nothing in a text can pass for a special token."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import DataError
from steelyard.data import token_file
from steelyard.data.texts.document import Document
from steelyard.data.texts.opening import open_texts
from steelyard.data.token_file import TokenFile, write_tokens
from steelyard.data.tokenizer_training import train_tokenizer

BYTES = train_tokenizer("bytes", [], special=["<|fim_prefix|>"])
END = BYTES.eos_ids[0]


def written(documents, folder, **more):
    return write_tokens(documents, BYTES, folder, **more)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.booleans()), min_size=1, max_size=8))
def test_every_document_comes_back_from_its_tokens(tmp_path_factory, rows):
    documents = [Document(text, continues=continues) for text, continues in rows]
    tokens = written(documents, tmp_path_factory.mktemp("tokens"))
    texts = ["".join(run).encode() for run in joined(documents)]
    ids = tokens.ids.tolist()
    ends = [*tokens.starts.tolist()[1:], len(ids)]
    assert [bytes(ids[start : end - 1]) for start, end in zip(tokens.starts, ends, strict=True)] == texts
    assert all(ids[end - 1] == END for end in ends)


def joined(documents):
    runs, within = [], False
    for document in documents:
        if not within:
            runs.append([])
        runs[-1].append(document.text)
        within = document.continues
    return runs


def test_strings_of_special_tokens_are_ordinary_text_unless_marked(tmp_path):
    text = "<|endoftext|>x<|fim_prefix|>y"
    plain = written([Document(text)], tmp_path)
    assert bytes(plain.ids[:-1].tolist()).decode() == text
    marked = written([Document(text, special=((0, 13), (14, 28)))], tmp_path)
    assert marked.ids.tolist() == [END, ord("x"), END + 1, ord("y"), END]
    assert marked.bytes_per_token == 2 / 5
    with pytest.raises(DataError, match="no special token '<|endof'"):
        written([Document(text, "here", special=((0, 7),))], tmp_path)


def test_a_second_writing_takes_the_first_ones_file_and_a_changed_text_does_not(tmp_path):
    documents = [Document("one"), Document("two")]
    first = written(documents, tmp_path)
    changed = first.path.stat().st_mtime_ns
    assert written(documents, tmp_path).path.stat().st_mtime_ns == changed
    others = [written(documents, tmp_path, end=False), written([Document("one"), Document("two!")], tmp_path)]
    others.append(write_tokens(documents, train_tokenizer("bytes", []), tmp_path))
    others.append(written([Document("one", continues=True), Document("two")], tmp_path))
    assert len({file.path for file in (first, *others)}) == 5


def test_a_corpus_on_disk_that_changes_gets_a_file_of_its_own(tmp_path):
    (tmp_path / "a.txt").write_text("old text")
    before = written(open_texts("a.txt", base=tmp_path), tmp_path / "tokens")
    (tmp_path / "a.txt").write_text("new text")
    after = written(open_texts("a.txt", base=tmp_path), tmp_path / "tokens")
    assert before.path != after.path and bytes(after.ids[:3].tolist()) == b"new"


def test_other_tools_can_open_the_file(tmp_path):
    tokens = written([Document("abc"), Document("d")], tmp_path)
    tensors = safetensors.numpy.load_file(tokens.path)
    assert tensors["ids"].tolist() == [97, 98, 99, END, 100, END] and tensors["starts"].tolist() == [0, 4]
    assert tokens.ids.dtype == np.uint16 and tokens.documents == 2


def test_large_vocabularies_have_wider_ids(tmp_path, monkeypatch):
    tokenizer = train_tokenizer("bytes", [])
    tokenizer.__dict__["vocabulary_size"] = 2**16 + 1  # the property is computed once
    tokens = write_tokens([Document("abc")], tokenizer, tmp_path)
    assert tokens.ids.dtype == np.uint32 and tokens.ids.tolist() == [97, 98, 99, END]


@pytest.mark.parametrize("cut", [0, 3, 4000, 4096, -1])
def test_a_damaged_file_is_refused_when_opened_and_made_again_when_written(tmp_path, cut):
    tokens = written([Document("abc")], tmp_path)
    whole = tokens.path.read_bytes()
    tokens.path.write_bytes(whole[:cut])
    with pytest.raises(DataError, match="damaged"):
        TokenFile.open(tokens.path)
    assert written([Document("abc")], tmp_path).path.read_bytes() == whole
    with pytest.raises(DataError, match="cannot be read"):
        TokenFile.open(tmp_path / "absent")


def test_a_killed_writing_leaves_nothing_half_and_the_next_one_cleans_up(tmp_path):
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from steelyard.data import token_file
        from steelyard.data.texts.document import Document
        from steelyard.data.tokenizer_training import train_tokenizer

        class Killed(list):
            fingerprint = "fixed"
            def __iter__(self):
                for number in range(50):
                    if number == 40 and sys.argv[2] == "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield Document(f"text {number}")

        token_file.BATCH_DOCUMENTS = 4
        print(len(token_file.write_tokens(Killed(), train_tokenizer("bytes", []), Path(sys.argv[1]))))
        """
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path), "kill"], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*.safetensors")) and list(tmp_path.glob(".*.part"))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "live"], env=os.environ, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) == sum(len(f"text {number}") + 1 for number in range(50))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 and not list(tmp_path.glob(".*.part"))


def test_unknown_characters_are_named_or_kept_when_told(tmp_path):
    tokenizer = train_tokenizer("characters", ["abc<unk>"])
    with pytest.raises(DataError, match=r"'é' \(U\+00E9\), '\\x00' \(U\+0000\)"):
        write_tokens([Document("abc"), Document("aéb\0é", "b.txt")], tokenizer, tmp_path)
    kept = write_tokens([Document("aéb")], tokenizer, tmp_path, unknown="keep")
    assert kept.ids.tolist()[1] == tokenizer.id_of("<unk>")
    assert tokenizer.id_of("<unk>") not in write_tokens([Document("<unk>")], tokenizer, tmp_path).ids


def test_batches_do_not_change_what_is_written(tmp_path, monkeypatch):
    documents = [Document("word " * number) for number in range(1, 60)]
    whole = written(documents, tmp_path / "a")
    monkeypatch.setattr(token_file, "BATCH", 50)
    assert written(documents, tmp_path / "b").path.read_bytes() == whole.path.read_bytes()


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to write"):
        written([Document("")], tmp_path, end=False)
    with pytest.raises(DataError, match="only once"):
        written(iter([Document("a")]), tmp_path)
    with pytest.raises(DataError, match="half of a surrogate"):
        written([Document("a\ud800")], tmp_path)
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob(".*.part"))
