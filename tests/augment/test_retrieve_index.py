"""An index holds what its documents say, finds it again whatever is asked, and survives kills, damage and company."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.augment.retrieve import building, documents, query
from steelyard.augment.retrieve.building import build
from steelyard.augment.retrieve.index import PassageIndex, Surroundings
from steelyard.augment.retrieve.opening import open_index
from steelyard.augment.retrieve.passages import PASSAGE_TOKENS, estimated_tokens, passages, sentences
from steelyard.core.errors import DataError, SteelyardError

RIVERS = """# Rivers

The rivers of the plain.

## Marn

The Marn is a river in Orvia. It rises in the Tellin Hills. The largest town on the Marn is Quessel.

## Dalwe

The Dalwe is a river in Berrin. It was bridged in 1874 by the engineer Ida Halvorsen.
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A few documents; the home folder is a temporary one."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    folder = tmp_path / "documents"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "rivers.md").write_text(RIVERS, encoding="utf-8")
    (folder / "deep" / "orvia.txt").write_text("Orvia is a country. The capital of Orvia is Tanstad.\n", encoding="utf-8")
    rows = [{"title": "Berrin", "text": "Berrin is a country whose capital is Ulm Harbour."}, {"text": "A stone is a stone."}]
    (folder / "deep" / "deeper" / "more.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "summaries.json").write_text(json.dumps({"Pellan": {"extract": "Pellan lies on an island.", "description": "Town"}}))
    return folder


def test_a_question_finds_the_document_that_answers_it(folder):
    index = open_index(folder)
    found = {
        asked: index.search(asked, 1)[0].source
        for asked in ("What is the capital of Orvia?", "capital of BERRIN", "Who bridged the Dalwe?")
    }
    assert found == {
        "What is the capital of Orvia?": "deep/orvia.txt",
        "capital of BERRIN": "deep/deeper/more.jsonl#1",
        "Who bridged the Dalwe?": "rivers.md#Dalwe",
    }


def test_titles_come_from_headings_records_and_file_names(folder):
    index = open_index(folder)
    titles = {p.source: p.title for q in ("Marn", "Orvia country", "Berrin", "Pellan", "stone") for p in index.search(q, 9)}
    assert titles["rivers.md#Marn"] == "Rivers · Marn" and titles["deep/orvia.txt"] == "orvia"
    assert titles["summaries.json#Pellan"] == "Pellan" and titles["deep/deeper/more.jsonl#2"] == ""


def test_scores_fall_and_lie_between_0_and_1(folder):
    scores = [passage.score for passage in open_index(folder).search("In which country is the river Marn?", 9)]
    assert scores and all(0 <= score <= 1 for score in scores) and scores[0] == max(scores)


def test_a_name_that_the_documents_do_not_hold_is_not_relevant(folder):
    assert all(passage.score < 0.5 for passage in open_index(folder).search("What is the capital of Zembla?", 9))


HOSTILE = [
    "", " ", "\0", "\n\t", '"', "'", "''", '"unclosed', "NEAR(a b)", "a AND", "OR", "NOT", "title:x", "title : Marn", "*", "Mar*", "^Marn",
    "-Marn", "(", ")))", "{title}: x", "a + b", "Marn; DROP TABLE passages; --", "' OR 1=1 --", "%_%", "\\", "\ud800", "🏞️ Marn?", "🙂" * 500,
    "مرحبا بالعالم", "Ünï¢ôdé", "e\u0301" * 90, "\u202eMarn", "?" * 5000, "Marn " * 20_000, "x" * 100_000, "A. " * 30_000, "What is " * 15_000,
    "<|im_start|>system", "{{question}}", "1" * 5000, "What is the capital of Orvia?\0\0 \"' OR",
]  # fmt: skip


@pytest.mark.parametrize("asked", HOSTILE, ids=[ascii(text[:12]) + f" x{len(text)}" for text in HOSTILE])
def test_no_query_is_syntax(folder, asked):
    index = open_index(folder)
    assert len(index.search(asked, 3)) <= 3
    assert index.search("capital of Orvia", 1)[0].source == "deep/orvia.txt"


@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_may_be_asked(tiny_index, asked):
    assert len(tiny_index.search(asked, 2)) <= 2


@pytest.fixture(scope="module")
def tiny_index(tmp_path_factory) -> PassageIndex:
    place = tmp_path_factory.mktemp("tiny")
    (place / "a.txt").write_text("Some words stand here: title, NEAR, AND, OR, not.", encoding="utf-8")
    return PassageIndex(build(place / "a.txt", place / "a.sqlite"))


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=600), st.sampled_from(["", "A title"]))
@settings(deadline=None)
def test_cutting_loses_nothing_but_white_space_and_keeps_to_the_limit(text, title):
    pieces = list(passages(title, text, 40))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(estimated_tokens(title) + estimated_tokens(piece) <= 40 for piece in pieces)


def test_passages_of_real_articles_keep_to_256_tokens_of_the_models_tokenizer(encyclopedia, smollm_tokenizer):
    from steelyard.data.encyclopedia import read

    encode = smollm_tokenizer.encode
    for article in list(read(encyclopedia / "summaries_en-us.json").values())[::200]:
        assert all(len(encode(f"{article.title}\n{piece}")) <= PASSAGE_TOKENS for piece in passages(article.title, article.extract))


@pytest.mark.parametrize("text", ["x" * 5000, "🙂" * 3000, "漢字" * 2000, "aB" * 2000, "1" * 4000, "ñ " * 3000, ". " * 3000])
def test_text_that_is_not_words_keeps_to_256_tokens_of_a_real_tokenizer(smollm_tokenizer, text):
    assert all(len(smollm_tokenizer.encode(piece)) <= PASSAGE_TOKENS for piece in passages("", text))


@pytest.fixture(scope="module")
def smollm_tokenizer(smollm):
    from steelyard.model.files.gguf_file import GgufFile
    from steelyard.model.tokenizer import Tokenizer

    with contextlib.closing(GgufFile(smollm)) as file:
        return Tokenizer.from_gguf(file.metadata)


def test_sentences_end_where_a_reader_ends_them():
    text = 'Dr. A. Smith met J. R. Roe at 3 p.m. in St. Ives. "Why?" he asked. It cost 3.50. 漢字。次。'
    assert sentences(text) == ["Dr. A. Smith met J. R. Roe at 3 p.m. in St. Ives.", '"Why?" he asked.', "It cost 3.50.", "漢字。", "次。"]


def test_names_and_words_of_a_question_are_told_apart():
    terms = {
        term.text: term.name for term in query.parse("Who painted The Night Watch in the Democratic Republic of the Congo? Answer briefly.")
    }
    assert (
        terms == {"painted": False, "Night Watch": True, "Democratic Republic of the Congo": True}
        or terms["Democratic Republic of the Congo"]
    )
    assert "Answer" not in terms and "briefly" not in terms


# Documents


def faults(folder: Path) -> str:
    with pytest.raises(DataError) as told:
        open_index(folder)
    return str(told.value)


def test_invalid_bytes_broken_records_and_huge_lines_are_all_named(folder, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST_LINE", 1000)
    monkeypatch.setattr(documents, "LARGEST_FILE", 5000)
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "binary.txt").write_bytes(b"a\0b")
    (folder / "large.txt").write_text("x" * 6000)
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{broken\n[]\n{"text": 5}\n{"text": "' + "y" * 3000 + '"}\n{"text": "fine"}\n')
    (folder / "bad.json").write_text("{" * 100_000)
    (folder / "number.json").write_text("5")
    told = faults(folder)
    for name in (
        "latin.txt",
        "binary.txt",
        "large.txt",
        "bad.jsonl:2",
        "bad.jsonl:3",
        "bad.jsonl:4",
        "bad.jsonl:5",
        "bad.json",
        "number.json",
    ):
        assert name in told
    assert "tolerate=True" in told


def test_faults_are_left_out_only_where_that_is_asked_for(folder, tmp_path):
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    file = build(folder, tmp_path / "mine.sqlite", tolerate=True)
    index = open_index(file)
    assert index.search("capital of Orvia", 1) and [item.where for item in index.left_out if item.bad] == ["latin.txt"]


def test_mending_a_fault_is_enough(folder):
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    faults(folder)
    (folder / "latin.txt").write_text("café", encoding="utf-8")
    assert open_index(folder).search("café", 1)[0].source == "latin.txt"


def test_empty_files_are_no_fault_but_nothing_at_all_is(folder, tmp_path):
    (folder / "empty.txt").touch()
    (folder / "empty.jsonl").touch()
    (folder / "blank.md").write_text("\n\n")
    assert open_index(folder).count == 7
    for name in ("nothing", "blank"):
        (tmp_path / name).mkdir()
    (tmp_path / "blank" / "empty.txt").touch()
    assert "nothing to index" in faults(tmp_path / "nothing")
    assert "no text" in faults(tmp_path / "blank")


def test_links_in_a_circle_end_and_hidden_files_stay_hidden(folder):
    (folder / "deep" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / ".secret.txt").write_text("The password is swordfish.")
    assert "self.txt" in faults(folder)
    (folder / "self.txt").unlink()
    index = open_index(folder)
    assert index.count == 7 and not any("swordfish" in passage.text for passage in index.search("password swordfish", 9))


def test_files_of_other_kinds_are_listed_as_left_out(folder):
    (folder / "paper.pdf").write_bytes(b"%PDF-1.7")
    assert [(item.where, item.bad) for item in open_index(folder).left_out] == [("paper.pdf", False)]


def test_a_title_without_end_still_leaves_room_for_text(folder):
    (folder / "t.jsonl").write_text(json.dumps({"title": "Endless " * 5000, "text": "The gate of Marn is blue."}))
    (passage,) = [p for p in open_index(folder).search("gate blue", 5) if p.source == "t.jsonl#1"]
    assert passage.title.endswith("…") and estimated_tokens(f"{passage.title} {passage.text}") <= PASSAGE_TOKENS


# Names


def test_unknown_names_say_what_may_be_named(folder, tmp_path):
    with pytest.raises(SteelyardError, match="Did you mean `encyclopedia`"):
        open_index("encyclopaedia")
    with pytest.raises(SteelyardError, match="a model, not documents"):
        open_index("smollm2-135m-instruct")
    (tmp_path / "picture.png").write_bytes(b"png")
    with pytest.raises(DataError, match="neither a folder"):
        open_index(tmp_path / "picture.png")


def test_one_file_may_be_named_and_is_cited_by_its_name(folder):
    assert open_index(folder / "deep" / "orvia.txt").search("Orvia", 1)[0].source == "orvia.txt"


def test_the_same_text_under_another_name_is_cited_by_that_name(folder):
    open_index(folder / "deep" / "orvia.txt")
    (folder / "deep" / "orvia.txt").rename(folder / "deep" / "other.txt")
    assert open_index(folder / "deep" / "other.txt").search("Orvia", 1)[0].source == "other.txt"


# The cache


def kept() -> list[Path]:
    return sorted((Path(os.environ["STEELYARD_HOME"]) / "indexes").iterdir())


def test_an_index_is_built_once_and_again_when_a_document_changes(folder):
    said: list[str] = []
    first = open_index(folder, said.append)
    assert open_index(folder, said.append).fingerprint == first.fingerprint and len(said) == 2
    (folder / "deep" / "orvia.txt").write_text("The capital of Orvia is now Pellan.")
    second = open_index(folder, said.append)
    assert second.fingerprint != first.fingerprint and "Pellan" in second.search("capital of Orvia", 1)[0].text
    assert len(said) == 4 and len(kept()) == 2 and all(file.suffix == ".sqlite" for file in kept())


def test_a_moved_folder_needs_no_new_index(folder):
    open_index(folder)
    open_index(folder.rename(folder.with_name("moved")))
    assert len(kept()) == 1


@pytest.mark.parametrize("harm", ["cut", "zeroed", "emptied", "text", "other version", "unfinished", "trigger"])
def test_a_damaged_index_is_built_again_with_a_notice(folder, harm):
    open_index(folder).close()
    (file,) = kept()
    data = file.read_bytes()
    match harm:
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "zeroed":
            file.write_bytes(data[:100] + bytes(len(data) - 100))
        case "emptied":
            file.write_bytes(b"")
        case "text":
            file.write_text("not a database")
        case _:
            change = {
                "other version": "PRAGMA user_version = 999",
                "unfinished": "DELETE FROM meta WHERE key = 'complete'",
                "trigger": "CREATE TRIGGER t AFTER INSERT ON files BEGIN DELETE FROM passages; END",
            }[harm]
            with sqlite3.connect(file) as connection:
                connection.execute(change)
            connection.close()
    said: list[str] = []
    assert open_index(folder, said.append).search("capital of Orvia", 1)[0].source == "deep/orvia.txt"
    assert "damaged" in said[0] and "building it again" in said[0]


def test_a_damaged_index_file_that_the_user_named_is_refused_not_replaced(folder, tmp_path):
    file = build(folder, tmp_path / "mine.sqlite")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a usable index"):
        open_index(file)
    assert file.stat().st_size == len(data) // 2


def test_processes_that_need_the_same_index_at_once_all_get_it(folder, tmp_path):
    """They start at the same instant, again and again: two that wait for each other, or read a file on its way, are seen here."""
    program = (
        "import os, sys\nfrom steelyard.augment.retrieve.opening import open_index\nprint('ready', flush=True)\n"
        "for home in sys.stdin:\n    os.environ['STEELYARD_HOME'] = home.strip()\n    print(open_index(sys.argv[1]).count, flush=True)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    openers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)]
    patience = threading.Timer(240, lambda: [opener.kill() for opener in openers])
    patience.start()
    try:
        assert [opener.stdout.readline() for opener in openers] == ["ready\n"] * 4
        for number in range(20):
            home = tmp_path / f"home {number}"
            for opener in openers:
                opener.stdin.write(f"{home}\n")
            assert [opener.stdout.readline() for opener in openers] == ["7\n"] * 4
            assert [file.suffix for file in (home / "indexes").iterdir()] == [".sqlite"]
    finally:
        patience.cancel()
        for opener in openers:
            opener.kill()
            opener.communicate()


def test_an_index_of_the_same_content_is_not_built_again_unless_it_left_out_what_is_not_tolerated(folder, tmp_path, monkeypatch):
    (folder / "broken.txt").write_bytes(b"\xff\xfe\xff not text")
    index = build(folder, tmp_path / "a.sqlite", tolerate=True)
    before = index.read_bytes()
    monkeypatch.setattr(building, "documents", lambda file, root: pytest.fail("read again"))
    assert build(folder, index, tolerate=True).read_bytes() == before
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"broken\.txt"):
        build(folder, index)
    assert index.read_bytes() == before


def test_building_goes_on_where_a_kill_stopped_it(folder, monkeypatch):
    read, wanted = [], documents.documents

    def killed(file, root):
        read.append(file.name)
        if file.name == "rivers.md" and read.count("rivers.md") == 1:
            raise KeyboardInterrupt
        return wanted(file, root)

    monkeypatch.setattr(building, "documents", killed)
    with pytest.raises(KeyboardInterrupt):
        open_index(folder)
    assert open_index(folder).count == 7
    assert read.count("orvia.txt") == 1 and read.count("rivers.md") == 2


def test_a_home_that_cannot_be_written_says_so(folder, monkeypatch):
    place = folder.parent / "a file"
    place.write_text("in the way")
    monkeypatch.setenv("STEELYARD_HOME", str(place))
    with pytest.raises(SteelyardError, match="cannot be written|writable"):
        open_index(folder)


def test_the_encyclopedia_is_indexed_in_its_language(encyclopedia):
    index = open_index("encyclopedia")
    assert index.count > 9000
    assert index.search("What is the capital of Peru?", 2)[0].source.startswith("summaries_en-us.json#")


def test_a_passage_is_told_with_what_stands_around_it_in_its_document_and_nothing_else(folder):
    long = "\n\n".join(f"Paragraph {number} 🐟 of the long text. " + "It goes on and on. " * 30 for number in range(30))
    (folder / "deep" / "long.txt").write_text(f"{long}\n\nThe Zvarna ends here. 🐟\n\nAnd so does the text.")
    (folder / "twice.txt").write_text("\n\n".join(["The same words.   " + "Again. " * 150] * 3 + ["Its end."]))
    index = open_index(folder)
    rivers = index.search("Who bridged the Dalwe?", 1)[0]
    around = index.around(rivers.source, rivers.text, 1000)
    assert around is not None and not around.cut and around.after == ""
    assert around.before.startswith("Rivers\nThe rivers of the plain.") and "largest town on the Marn is Quessel." in around.before
    record = index.search("capital of BERRIN", 1)[0]
    assert index.around(record.source, record.text, 1000) == Surroundings("", "", False)  # another record is another document
    long_one = index.search("Where does the Zvarna end?", 1)[0]
    around = index.around(long_one.source, long_one.text, 500)
    assert around is not None and around.cut and len(around.before) == 500 and "Paragraph 28" not in around.after
    whole = index.around(long_one.source, long_one.text, 1_000_000)
    assert whole is not None and not whole.cut and whole.before.startswith("Paragraph 0 🐟") and whole.before.endswith(around.before)
    same = next(one for one in index.search("the same words", 5) if one.source == "twice.txt" and "Its end" not in one.text)
    around = index.around(same.source, same.text, 10_000)
    assert around is not None and around.after.rstrip().endswith("Its end.")
    assert index.around(same.source, "Words that stand nowhere.", 9) is None and index.around("\ud800", "\ud800", 9) is None
