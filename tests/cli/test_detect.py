"""`steelyard detect`: the verdict on a text, from a tokenizer and a key alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tiny_talker import tiny_tokenizer
from typer.testing import CliRunner, Result

from steelyard.cli.main import app
from steelyard.core.errors import SteelyardError
from steelyard.generate.processors.green_lists import GreenLists
from steelyard.model.load import load, load_tokenizer

LETTERS = b"abcdefghijklmnopqrstuvwxyz ,."


def run(*arguments: object, **options) -> Result:
    return CliRunner().invoke(app, ["detect", *map(str, arguments)], **options)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """A folder that holds a tokenizer and no model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save(folder)
    assert not list(folder.glob("*.safetensors")) and not (folder / "config.json").exists()
    return folder


def text_of(lists: GreenLists, letters: int = 120, green: bool = True) -> str:
    """Letters chosen so that each is green where there is a choice, or else chosen blindly."""
    dice, tokenizer = random.Random(1), tiny_tokenizer()
    ids = tokenizer.encode("".join(map(chr, LETTERS)))
    text = ids[: lists.width]
    for _ in range(letters):
        good = [token for token in ids if lists.holds(text[len(text) - lists.width :], token)] if green else []
        text.append(dice.choice(good or ids))
    return tokenizer.decode(text)


@pytest.fixture
def marked(tmp_path) -> Path:
    path = tmp_path / "answer.txt"
    path.write_text(text_of(GreenLists("our secret")), encoding="utf-8")
    return path


def test_a_marked_text_is_found_and_told_with_its_figures(tokenizer, marked):
    result = run(tokenizer, marked, "--key", "our secret")
    assert result.exit_code == 0 and result.stdout.splitlines()[0] == "marked"
    for word in ("z-score", "p-value", "scored", "121 tokens", "repeated n-grams counted once"):
        assert word in result.stdout
    facts = json.loads(run(tokenizer, marked, "--key", "our secret", "--json").stdout.splitlines()[-1])
    assert facts["marked"] is True and facts["verdict"] == "marked" and facts["z_score"] > 10 and 0 < facts["p_value"] < 1e-20
    assert facts["tokens"] == 121 and facts["green"] <= facts["scored"] <= 120 and facts["expected"] == facts["scored"] / 4
    assert facts["file"] == str(marked) and (facts["gamma"], facts["width"], facts["false_positives"]) == (0.25, 1, 3e-5)


def test_the_key_may_come_from_the_environment_and_is_never_told(tokenizer, marked):
    result = run(tokenizer, marked, "--json", env={"STEELYARD_WATERMARK_KEY": "our secret"})
    assert json.loads(result.stdout)["marked"] and "our secret" not in result.output


@pytest.mark.parametrize("other", [[], ["--key", "other"], ["--key", "our secret", "--width", "2"]])
def test_another_key_or_width_finds_no_mark(tokenizer, marked, other):
    result = run(tokenizer, marked, *other)
    assert result.exit_code == 0 and result.stdout.splitlines()[0] == "no mark found"


def test_an_unmarked_text_bears_no_mark(tokenizer, tmp_path):
    path = tmp_path / "plain.txt"
    path.write_text(text_of(GreenLists("our secret"), green=False), encoding="utf-8")
    assert run(tokenizer, path, "--key", "our secret").stdout.splitlines()[0] == "no mark found"


def test_a_wider_context_and_another_share_are_found_by_their_own_settings(tokenizer, tmp_path):
    path = tmp_path / "wide.txt"
    path.write_text(text_of(GreenLists("k", 0.5, 3)), encoding="utf-8")
    assert run(tokenizer, path, "--key", "k", "--gamma", 0.5, "--width", 3).stdout.splitlines()[0] == "marked"


def test_standard_input_is_read_and_line_ends_and_byte_order_marks_of_others_do_not_matter(tokenizer):
    text = text_of(GreenLists("k")).replace(" ", "\n")
    plain = json.loads(run(tokenizer, "-", "--key", "k", "--json", input=text.encode()).stdout)
    foreign = "\ufeff" + text.replace("\n", "\r\n")
    assert plain["file"] == "standard input"
    assert json.loads(run(tokenizer, "-", "--key", "k", "--json", input=foreign.encode()).stdout) == plain


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the text is empty"),
        (b" \n\n", "the text is empty"),
        (b"Yes.", "4 tokens with 3 different 2-grams are too few to tell"),
        (b"ha" * 500, "1000 tokens with 2 different 2-grams are too few to tell"),
        (b"first line\nsecond \xff line", "not UTF-8 from byte 18 on"),
        ("sixteen".encode("utf-16"), "not UTF-8 from byte 0 on"),
    ],
)
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_text_that_cannot_be_judged_is_a_message_and_status_2(tokenizer, tmp_path, content, said, as_json):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    result = run(tokenizer, path, *as_json)
    assert result.exit_code == 2 and result.stdout == ""
    assert said in result.stderr and "text.txt" in result.stderr
    assert ":2" in result.stderr or b"\n" not in content.strip()


def test_files_and_models_that_are_not_there_are_messages(tokenizer, marked, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in (
        ((tokenizer, tmp_path / "absent.txt"), "absent.txt: cannot be read: no such file or directory"),
        ((tokenizer, tmp_path), "cannot be read: is a directory"),
        ((empty, marked), "no tokenizer is here"),
        (("no-such-model", marked), "nothing is called `no-such-model`"),
        ((marked, marked), "neither a directory nor a .gguf file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and said in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("option", "said"), [(["--gamma", "1"], "gamma is 1"), (["--width", "0"], "width is 0"), (["--key", ""], "key is empty"),
                         (["--false-positives", "0"], "false_positives is 0"), (["--gamma", "nan"], "gamma is nan")]
)  # fmt: skip
def test_options_that_mean_nothing_are_messages(tokenizer, marked, option, said):
    result = run(tokenizer, marked, *option)
    assert result.exit_code == 2 and said in result.stderr


def test_a_tokenizers_own_file_will_do(tokenizer, marked):
    assert run(tokenizer / "tokenizer.json", marked, "--key", "our secret").stdout.splitlines()[0] == "marked"


def test_the_tokenizer_of_a_gguf_file_is_read_without_its_weights(smollm):
    text = "Wer misst, misst Mist? <|im_start|>user\n"
    tokenizer = load(smollm, dtype="stored").tokenizer
    assert tokenizer is not None and load_tokenizer(smollm).encode(text) == tokenizer.encode(text)
    with pytest.raises(SteelyardError):
        load_tokenizer(Path(smollm).parent / "absent" / "tokenizer.json")
