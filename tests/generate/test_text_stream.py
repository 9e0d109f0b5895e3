"""Text as it streams: whole characters only, nothing of a stop string ever shown, and all of it in the end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_engines import Heard, Script, talker

from steelyard.core.protocols import AnswerSettings, Text
from steelyard.generate.engine import Engine
from steelyard.generate.sequences import TextStream
from steelyard.model.model import Model

STRANGE = "naïve 東京 🚲👩‍👩‍👧 é\n"


class Pieces:
    """A decoder whose tokens are pieces of a given text; of the last one bytes may be left that are no character."""

    def __init__(self, pieces: list[str], rest: str = ""):
        self.pieces, self.rest = pieces, rest

    def push(self, token: int) -> str:
        return self.pieces[token]

    def flush(self) -> str:
        return self.rest


def streamed(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], bool]:
    """What is shown after each piece and at the end, and whether a stop string was met."""
    stream, shown = TextStream(Pieces(pieces), stops), []
    for token in range(len(pieces)):
        text, stopped = stream.push(token)
        shown.append(text)
        if stopped:
            return shown, True
    text, stopped = stream.flush()
    return [*shown, text], stopped


words = st.text("abé", max_size=4)


@settings(max_examples=400, deadline=None)
@given(st.lists(words, max_size=12), st.lists(words.filter(bool), max_size=3).map(tuple))
def test_a_stream_shows_all_text_before_the_first_stop_string_and_nothing_after(pieces, stops):
    shown, stopped = streamed(pieces, stops)
    so_far = ["".join(pieces[: count + 1]) for count in range(len(pieces))]
    met = next((text for text in so_far if any(stop in text for stop in stops)), None)
    assert stopped == (met is not None)
    if met is None:
        assert "".join(shown) == "".join(pieces)
    else:
        assert "".join(shown) == met[: min(met.find(stop) for stop in stops if stop in met)]
    for count in range(1, len(shown)):
        text = "".join(shown[:count])
        assert so_far[count - 1].startswith(text)
        held = so_far[count - 1][len(text) :]
        assert stopped or any(stop.startswith(held) for stop in stops) or not held, "text is held back without need"


def test_what_a_token_goes_on_with_after_a_stop_string_is_no_text():
    stream = TextStream(Pieces(["Caf", "é", " "], rest="\ufffd"), ("é ",))  # the last token is a space and half of a picture
    assert [stream.push(token) for token in range(3)] == [("Caf", False), ("", False), ("", True)]
    assert stream.flush() == ("", True)


@pytest.fixture(scope="module")
def model() -> Model:
    return talker()


def said(model: Model, text: str, stop: tuple[str, ...] = (), most: int = 200) -> Heard:
    """The answer of a model that says the given text, one byte a token, and then ends."""
    heard = Heard()
    with Engine(model, processors=[Script(model.tokenizer.encode(text), model.tokenizer.eos_ids[0])]) as engine:
        engine.submit("abc", AnswerSettings(max_tokens=most, stop=stop, token_events=True), heard)
        return heard.wait()


@pytest.mark.parametrize(
    ("text", "stop", "expected", "read"),
    [
        ("Hello END there", ("END",), "Hello ", "Hello END"),
        ("END there", ("END",), "", "END"),
        ("at the END", ("END",), "at the ", "at the END"),
        ("EENEND", ("END",), "EEN", "EENEND"),
        ("aaab", ("aab",), "a", "aaab"),
        ("abababc", ("ababc",), "ab", "abababc"),
        ("one\n\ntwo", ("\n\n",), "one", "one\n\n"),
        ("日本語。はい", ("。",), "日本語", "日本語。"),
        ("go 🚲🚲!", ("🚲!",), "go 🚲", "go 🚲🚲!"),
        ("xyz abc", ("abc", "z a"), "xy", "xyz a"),
        ("abcd", ("abcd", "c"), "ab", "abc"),
        ("abcd", ("bcd", "abcd"), "", "abcd"),
        ("Q: yes", ["Q: ", "Q:"], "", "Q:"),
    ],
)
def test_a_stop_string_ends_the_answer_before_itself(model, text, stop, expected, read):
    heard = said(model, text, stop)
    assert (heard.text, heard.reason) == (expected, "stop")
    assert heard.usage.completion_tokens == len(heard.tokens) == len(read.encode())


@pytest.mark.parametrize("text", ["nearly EN", "EN", "E", "ENEN", "", STRANGE, "日本"])
def test_the_beginning_of_a_stop_string_at_the_end_is_text(model, text):
    heard = said(model, text, ("END", "本語", "\n\n"))
    assert (heard.text, heard.reason) == (text, "stop")
    assert heard.usage.completion_tokens == len(text.encode())


def test_a_stop_string_met_at_max_tokens_is_a_stop(model):
    assert (said(model, "ab END", ("END",), most=6).reason, said(model, "ab END", ("END",), most=5).reason) == ("stop", "length")
    assert said(model, "ab END", ("END",), most=5).text == "ab EN"


def test_characters_of_many_bytes_are_never_split(model):
    heard = said(model, STRANGE)
    pieces = [event.text for event in heard.events if isinstance(event, Text)]
    assert "".join(pieces) == STRANGE
    assert pieces == list(STRANGE)
    assert [token.text for token in heard.tokens if token.text] == pieces


@pytest.mark.parametrize("most", range(1, 9))
def test_an_answer_cut_inside_a_character_says_so_with_one_replacement(model, most):
    cut = "é東🚲".encode()[:most].decode(errors="replace")
    assert said(model, "é東🚲", most=most).text == cut


def test_text_is_what_the_tokenizer_decodes_from_the_tokens(model):
    with Engine(model, slots=4) as engine:
        for done in engine.generate(["abc"] * 3 + ["é"], max_tokens=60, temperature=2.0, ignore_eos=True):
            ids = [token.id for token in done.tokens]
            assert done.text == model.tokenizer.decode(ids)
