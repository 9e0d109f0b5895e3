"""Documents: the same ones in the same order whatever the machine, and every unusable file named before anything is learned."""

import builtins
import json

import pytest

from steelyard.core.errors import DataError
from steelyard.data.texts import document, files
from steelyard.data.texts.opening import open_texts


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("# Title\r\n\r\nBody\n", newline="")
    (tmp_path / "a.txt").write_text("\ufefffirst\n")
    (tmp_path / "deep" / "c.py").write_text("print('ä')\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n\n{"text": "two\\u0000"}\n')
    return tmp_path


def contents(source):
    return [document.text for document in source]


def test_a_folder_gives_its_texts_by_path_as_they_are(folder):
    found = open_texts(str(folder))
    assert contents(found) == ["first\n", "# Title\r\n\r\nBody\n", "one", "two\0", "print('ä')\n"]
    assert contents(found) == contents(found)
    assert [document.where.rpartition("/")[2] for document in found] == ["a.txt", "b.md", "rows.jsonl:1", "rows.jsonl:3", "c.py"]


def test_relative_names_start_from_the_base(folder):
    assert contents(open_texts("a.txt", base=folder)) == ["first\n"]
    assert contents(open_texts(str(folder / "a.txt"), base=folder / "deep")) == ["first\n"]


def test_a_file_named_by_itself_is_text_whatever_its_ending(folder):
    (folder / "notes.xyz").write_text("hello")
    assert contents(open_texts("notes.xyz", base=folder)) == ["hello"]


def test_the_fingerprint_is_of_the_content(folder, tmp_path_factory):
    before = open_texts(str(folder)).fingerprint
    moved = tmp_path_factory.mktemp("elsewhere") / "copy"
    folder.rename(moved)
    assert open_texts(str(moved)).fingerprint == before
    (moved / "a.txt").write_text("\ufeffFirst\n")
    assert open_texts(str(moved)).fingerprint != before
    assert len({open_texts(str(moved), limit=limit).fingerprint for limit in (None, 1, 2)}) == 3


def test_what_lies_beside_the_texts_is_named_in_a_note(folder):
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / "Makefile").write_text("all:\n")
    assert "1 .png, 1 no ending" in open_texts(str(folder)).notes[0]


BAD = {
    "empty.txt": (b"", "empty"),
    "blank.md": (b"\n  \n", "white space"),
    "nul.txt": (b"abc\0def", "binary (byte 4 is zero)"),
    "latin.txt": ("Stra\u00dfe".encode("latin-1"), "not UTF-8"),
    "cut.txt": ("ende mit ä".encode()[:-1], "not UTF-8"),
    "empty.jsonl": (b"\n", "empty"),
    "rows.jsonl": (b'{"text": 1}\n{"text": "good"}\nnot json\n{"other": "x"}\n{"text": "\\ud800"}\n{"text": ""}\n[]\n\xff\n', "7 rows"),
}


def test_every_unusable_file_is_named_in_one_error_and_left_out_only_when_told(folder):
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        open_texts(str(folder))
    message = str(error.value)
    assert f"{len(BAD)} files cannot be used" in message and "bad_files: skip" in message
    for name, (_, reason) in BAD.items():
        assert name in message and reason in message
    kept = open_texts(str(folder), bad_files="skip")
    assert contents(kept) == ["first\n", "# Title\r\n\r\nBody\n", "good", "print('ä')\n"]
    assert all(name in kept.notes[0] for name in BAD)


def test_a_character_cut_by_the_reading_is_no_error(folder, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 3)
    text = "aäöü日本😀" * 5
    (folder / "a.txt").write_text(text, encoding="utf-8")
    assert contents(open_texts("a.txt", base=folder)) == [text]


def test_a_bad_byte_is_found_however_far_in_the_file_it_stands(folder, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 8)
    (folder / "a.txt").write_bytes(b"good text " * 5 + b"\xff" + b" and more" * 3)
    with pytest.raises(DataError, match="a.txt: not UTF-8 .*near byte 51"):
        open_texts("a.txt", base=folder)
    (folder / "a.txt").write_bytes(b"good text " * 5 + b"\0")
    with pytest.raises(DataError, match="byte 51 is zero"):
        open_texts("a.txt", base=folder)


def test_nothing_usable_is_an_error_even_when_told_to_skip(tmp_path):
    with pytest.raises(DataError, match="no file to learn from"):
        open_texts(str(tmp_path))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no text to learn from"):
        open_texts(str(tmp_path), bad_files="skip")
    with pytest.raises(DataError, match="no such file"):
        open_texts("nowhere", base=tmp_path)
    with pytest.raises(DataError, match="limit"):
        open_texts("empty.txt", base=tmp_path, limit=0)


@pytest.mark.parametrize("text", ["x" * 5000, "a line\n" * 700, "\n" * 10 + "é" * 3000 + "\n tail"])
def test_a_gigantic_text_comes_in_pieces_that_join_to_it(tmp_path, monkeypatch, text):
    monkeypatch.setattr(document, "PIECE", 1000)
    monkeypatch.setattr(files, "PIECE", 1000)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text}) + "\n")
    for name in ("a.txt", "b.jsonl"):
        found = list(open_texts(name, base=tmp_path))
        assert "".join(document.text for document in found) == text
        assert [document.continues for document in found] == [True] * (len(found) - 1) + [False]
        assert max(len(document.text) for document in found) <= 1000
        assert list(open_texts(name, base=tmp_path, limit=1)) == found


def test_a_row_that_is_too_long_is_named_and_its_neighbours_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_ROW", 2**20)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "' + "x" * 2**21 + '"}\n{"text": "two"}')
    with pytest.raises(DataError, match="line 2: longer than 1 MiB"):
        open_texts("a.jsonl", base=tmp_path)
    assert contents(open_texts("a.jsonl", base=tmp_path, bad_files="skip")) == ["one", "two"]


def test_a_file_that_changes_after_it_was_checked_stops_the_reading(folder):
    found = open_texts(str(folder))
    (folder / "b.md").write_text("longer than before, and not checked by anybody")
    with pytest.raises(DataError, match="changed"):
        list(found)


def test_hidden_files_links_to_folders_and_pipes_are_no_texts(folder, tmp_path_factory):
    import os

    (folder / ".git").mkdir()
    (folder / ".git" / "config.txt").write_text("secret")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    assert len(contents(open_texts(str(folder)))) == 5
    os.mkfifo(folder / "pipe.txt")
    with pytest.raises(DataError, match="pipe.txt: cannot be read"):
        open_texts(str(folder))


def test_another_column_can_hold_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x", "text": 3}\n')
    assert contents(open_texts("a.jsonl", base=tmp_path, column="content")) == ["x"]
    with pytest.raises(DataError, match="no key `body`"):
        open_texts("a.jsonl", base=tmp_path, column="body")


def test_the_standard_library_is_there_without_what_was_installed_beside_it():
    found = open_texts("python", limit=40)
    documents = list(found)
    assert len(documents) == 40
    assert all(document.where.endswith(".py") and "site-packages" not in document.where for document in documents)
    assert [document.where for document in found] == [document.where for document in documents]


def test_the_encyclopedia_keeps_back_what_is_measured(encyclopedia):
    from steelyard.data.encyclopedia import held_out, read

    titles = [document.text.partition("\n\n")[0] for document in open_texts("encyclopedia")]
    assert len(titles) == len([title for title in read() if not held_out(title)]) > 8000
    assert not any(held_out(title) for title in titles)


def test_parquet_rows_are_documents(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = ["one", "zwei ä", None, ""]
    parquet.write_table(pyarrow.table({"text": rows, "number": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="lines? 3: `text` is null"):
        open_texts(str(tmp_path))
    assert contents(open_texts(str(tmp_path), bad_files="skip")) == ["one", "zwei ä"]
    with pytest.raises(DataError, match="no column `words`"):
        open_texts(str(tmp_path), column="words")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match="not readable as Parquet"):
        open_texts(str(tmp_path / "b.parquet"))


def test_a_data_set_is_read_by_name(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tmp_path / "set"
    data.mkdir()
    (data / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (data / "test.jsonl").write_text('{"text": "three"}\n')
    assert contents(open_texts(f"datasets:{data}")) == ["one", "two"]
    assert contents(open_texts(f"datasets:{data}:test")) == ["three"]
    with pytest.raises(DataError, match="no column `body`"):
        open_texts(f"datasets:{data}", column="body")
    with pytest.raises(DataError, match="cannot be had"):
        open_texts(f"datasets:{data}:nosplit")
    with pytest.raises(DataError, match="not the name of a data set"):
        open_texts("datasets:a:b:c:d")


@pytest.mark.parametrize(("package", "name"), [("pyarrow", "a.parquet"), ("datasets", "datasets:some/set")])
def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch, package, name):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    real = builtins.__import__

    def without(wanted, *rest, **more):
        if wanted.partition(".")[0] == package:
            raise ImportError(wanted)
        return real(wanted, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match="pip install"):
        open_texts(name, base=tmp_path)
