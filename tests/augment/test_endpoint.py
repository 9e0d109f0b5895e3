"""What the person at an endpoint's other end sees: the same events as from a local model, or what is wrong and what to do."""

from __future__ import annotations

import asyncio
import json
import math
import threading

import pytest
from endpoint_server import USAGE, FakeEndpoint, broken_chunk, free_url, says, serving, status, stream
from hypothesis import given
from hypothesis import strategies as st

from steelyard.augment.endpoint import EndpointAnswerer
from steelyard.augment.endpoint_requests import UnreachedError
from steelyard.augment.server_sent_events import EventParser
from steelyard.core.answer_form import AnswerForm
from steelyard.core.errors import ContextLengthError, SteelyardError, UnsupportedError
from steelyard.core.protocols import Answer, Answerer, AnswerSettings, Done, Failure, Message, Text, ToolCall, Usage, collect

pytest.importorskip("httpx", reason="endpoints need httpx")

ASKED = (Message("system", "Be kind."), Message("user", "Hello?"))


def asked(fake: FakeEndpoint | str, settings: AnswerSettings | None = None, key: str | None = None, **options) -> Answer:
    url = fake if isinstance(fake, str) else fake.url
    answerer = EndpointAnswerer(url, "some-model", key, **({"backoff": 0.01, "timeout": 5.0} | options))
    return asyncio.run(collect(answerer.answer(ASKED, settings or AnswerSettings(max_tokens=5))))


def test_a_streamed_answer_arrives_piece_by_piece_with_its_usage():
    with serving(stream(says("Hel"), says("lo"), says("", "stop"), USAGE)) as fake:
        answer = asked(fake)
    assert (answer.text, answer.reason, answer.usage) == ("Hello", "stop", Usage(9, 2))
    body = fake.bodies[0]
    assert body["path"] == "/v1/chat/completions"
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some-model", 5, 0.0)


def test_events_are_those_every_answerer_gives():
    answerer = EndpointAnswerer("http://localhost/v1", "m")
    assert isinstance(answerer, Answerer) and answerer.capabilities == {"remote"}


class Ticks:
    """A clock that moves by a second whenever somebody looks."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


def test_a_server_that_drips_without_an_end_is_left_at_half_the_deadline_and_asked_again(monkeypatch):
    ticks = Ticks()
    for module in ("endpoint", "endpoint_requests"):
        monkeypatch.setattr(f"steelyard.augment.{module}.time", ticks)
    enough = threading.Event()

    def drips(handler):
        stream(*[b": still thinking\n\n"] * 100_000, pause=0.001)(handler)
        enough.set()

    with serving(drips, stream(says("Hello"), says("", "stop"), USAGE)) as fake:
        answer = asked(fake, whole=True, deadline=100.0, timeout=60.0)
    assert (answer.text, answer.failure, len(fake.bodies)) == ("Hello", None, 2)
    assert not enough.is_set(), "it was not waited for to the end"


def test_a_server_that_does_not_stream_is_read_all_the_same():
    whole = {
        "choices": [{"message": {"content": "Hello"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2},
    }
    with serving(status(200, whole)) as fake:
        answer = asked(fake)
    assert (answer.text, answer.reason, answer.usage) == ("Hello", "length", Usage(9, 2))


def test_log_probabilities_come_as_tokens_where_the_server_tells_them():
    logprobs = {"content": [{"token": "Hi", "logprob": -0.25, "top_logprobs": [{"token": "Hi", "logprob": -0.25}]}]}
    with serving(stream(says("Hi", "stop", logprobs=logprobs))) as fake:
        answer = asked(fake, AnswerSettings(max_tokens=3, token_events=True, alternatives=1))
    (token,) = answer.tokens
    assert (token.text, token.logprob, token.alternatives) == ("Hi", -0.25, ((-1, -0.25),)) and math.isnan(token.entropy)
    assert fake.bodies[0]["logprobs"] is True and fake.bodies[0]["top_logprobs"] == 1


def test_tool_calls_are_put_together_from_their_pieces():
    first = {
        "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "7", "function": {"name": "find", "arguments": '{"a"'}}]}}]
    }
    rest = {
        "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}, "finish_reason": "tool_calls"}]
    }

    async def events(url: str) -> list:
        return [event async for event in EndpointAnswerer(url, "m").answer(ASKED, AnswerSettings())]

    with serving(stream(first, rest)) as fake:
        assert asyncio.run(events(fake.url)) == [ToolCall("7", "find", '{"a": 1}'), Done("tool_calls")]


def test_a_refused_connection_says_what_to_check():
    with pytest.raises(SteelyardError, match="could not be reached") as told:
        asked(free_url(), retries=1)
    assert "Check the URL" in str(told.value)


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (401, {"error": {"message": "bad key"}}, r"refused access \(401\): bad key"),
        (403, b"<html>Forbidden</html>", r"refused access \(403\)"),
        (404, {"error": {"message": "no such model"}}, "no such model"),
        (400, {"error": "temperature is too hot"}, "temperature is too hot"),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        (418, b"\xff\xfe\x00teapot", "418"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words_and_not_repeated(code, body, said):
    with serving(status(code, body)) as fake:
        with pytest.raises(SteelyardError, match=said):
            asked(fake)
        assert len(fake.bodies) == 1


def test_a_conversation_too_long_for_the_server_is_a_context_error():
    with serving(status(400, {"error": {"message": "maximum context length is 8192 tokens"}})) as fake, pytest.raises(ContextLengthError):
        asked(fake)


def learns(url: str, key: str | None = None) -> bool:
    return asyncio.run(EndpointAnswerer(url, "some-model", key, backoff=0.01, timeout=5.0, retries=1).learn())


@pytest.mark.parametrize("code", [401, 403, 429, 503, 529])
def test_of_a_server_that_lets_nobody_in_it_is_not_said_that_it_tells_no_probabilities(code):
    with serving(status(code, {"error": {"message": "not you"}}, Retry_After="0")) as fake, pytest.raises(UnreachedError, match="not you"):
        learns(fake.url)


def test_nor_of_one_that_is_not_there_breaks_off_or_gets_no_key(monkeypatch):
    with pytest.raises(UnreachedError, match="could not be reached"):
        learns(free_url())
    with serving(lambda handler: None) as fake, pytest.raises(UnreachedError, match="broke off"):
        learns(fake.url)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with serving(status(200, {})) as fake, pytest.raises(UnreachedError, match="is not set"):
        learns(fake.url, "NO_SUCH_KEY")
    assert fake.bodies == []


@pytest.mark.parametrize(
    "reply",
    [
        status(404, {"error": {"message": "the endpoint could not be reached: no connection, answered 429, no answer within 3 s"}}),
        status(400, {"error": {"message": "echo is not supported"}}),
        status(500, b""),
        status(200, {"choices": [{"text": "One and one is two", "logprobs": None}]}),
        status(200, {"choices": []}),
        status(200, [1, 2]),
    ],
)
def test_a_server_that_has_no_probabilities_of_given_texts_is_known_by_what_it_does_and_not_by_its_words(reply):
    with serving(reply) as fake:
        assert learns(fake.url) is False


def test_a_busy_server_is_asked_again_until_it_answers():
    with serving(status(500, {}), status(429, {}, Retry_After="0"), status(503, b""), stream(says("ok", "stop"))) as fake:
        assert asked(fake).text == "ok"
        assert len(fake.bodies) == 4


def test_a_server_that_stays_broken_ends_in_an_error_after_the_retries():
    with serving(status(502, b"<html>Bad gateway</html>")) as fake:
        with pytest.raises(SteelyardError, match="answered 502"):
            asked(fake, retries=2)
        assert len(fake.bodies) == 3


def test_a_server_that_asks_for_an_hour_is_not_waited_for():
    with serving(status(429, {"error": {"message": "slow down"}}, Retry_After="3600")) as fake:
        with pytest.raises(SteelyardError, match="slow down"):
            asked(fake)
        assert len(fake.bodies) == 1


def test_a_redirect_is_not_followed_with_the_key():
    with (
        serving(status(302, b"", Location="http://elsewhere.example/v1")) as fake,
        pytest.raises(SteelyardError, match="elsewhere.example"),
    ):
        asked(fake)


@pytest.mark.parametrize(
    "reply",
    [
        stream(says("Hel"), done=False),
        broken_chunk,
        stream(says("Hel"), b"data: {not json\n\n"),
        stream(says("Hel"), b'data: "text"\n\n'),
        stream(says("Hel"), {"error": {"message": "out of memory"}}),
        stream(says("Hel"), {"choices": ["?"]}),
        stream(says("Hel"), {"choices": [{"delta": {"content": 5}}]}),
        stream(says("Hel"), b"data: " + b"[" * 100_000 + b"\n\n"),
        stream(says("Hel"), says("", "content_filter")),
    ],
    ids=[
        "ends early",
        "breaks off",
        "bad JSON",
        "JSON of another kind",
        "error frame",
        "bad choice",
        "bad content",
        "deep JSON",
        "withheld",
    ],
)
def test_an_answer_that_goes_wrong_keeps_its_words_and_ends_in_a_failure(reply):
    with serving(reply) as fake:
        answer = asked(fake)
        assert len(fake.bodies) == 1, "words already given are never asked for twice"
    assert (answer.text, answer.reason) == ("Hel", "error")
    assert answer.failure and fake.url in answer.failure


def test_a_web_page_in_place_of_an_answer_is_called_one():
    def page(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html; charset=utf-8")
        handler.end_headers()
        handler.wfile.write(b"<html>Please log in</html>")

    with serving(page) as fake, pytest.raises(SteelyardError, match="(?s)a web page.*often ends in /v1"):
        asked(fake)
    assert len(fake.bodies) == 1, "a page is not asked for twice"


def test_a_server_that_falls_silent_is_given_up():
    with serving(stream(says("Hel"), says("lo"), pause=10.0)) as fake:
        answer = asked(fake, timeout=1.5)
    assert answer.text == "Hel" and "sent nothing for 1.5 s" in (answer.failure or "")


def test_a_server_that_never_answers_is_given_up():
    def silent(handler) -> None:
        handler.rfile.read(1)  # until the other side gives up

    with serving(silent) as fake, pytest.raises(SteelyardError, match="no answer within 0.3 s"):
        asked(fake, deadline=0.3)


def test_leaving_an_answer_closes_the_connection():
    async def first(fake: FakeEndpoint) -> None:
        events = EndpointAnswerer(fake.url, "m").answer(ASKED, AnswerSettings())
        assert await anext(events) == Text("word ")
        await events.aclose()
        assert await asyncio.to_thread(fake.hung_up.wait, 60)

    with serving(stream(*[says("word ")] * 400, pause=0.01)) as fake:
        asyncio.run(first(fake))


def test_names_a_server_does_not_know_are_left_out_the_next_time():
    refusal = status(400, {"error": {"message": "Unsupported parameter: use max_completion_tokens instead"}})
    with serving(refusal, stream(says("ok", "stop"))) as fake:
        assert asked(fake).text == "ok"
    assert "max_tokens" not in fake.bodies[1] and fake.bodies[1]["max_completion_tokens"] == 5


@pytest.mark.parametrize("setting", [{"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.2}, {"ignore_eos": True}])
def test_a_setting_the_protocol_lacks_is_refused_not_dropped(setting):
    with pytest.raises(UnsupportedError, match=next(iter(setting))):
        asked("http://127.0.0.1:9/v1", AnswerSettings(**setting))


def test_a_schema_is_sent_as_a_response_format_and_other_forms_are_refused():
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    with serving(stream(says("{}", "stop"))) as fake:
        asked(fake, AnswerSettings(constraint=AnswerForm.read({"json_schema": schema})))
    wanted = fake.bodies[0]["response_format"]
    assert wanted["type"] == "json_schema" and wanted["json_schema"]["strict"] and wanted["json_schema"]["name"]
    assert json.dumps(wanted["json_schema"]["schema"]) == json.dumps(schema)
    with pytest.raises(UnsupportedError, match="regex"):
        asked("http://127.0.0.1:9/v1", AnswerSettings(constraint=AnswerForm.read({"regex": "a"})))


def test_a_server_that_knows_no_response_format_is_not_asked_without_it():
    refusal = status(400, {"error": {"message": "Unrecognized request argument supplied: response_format"}})
    with serving(refusal, stream(says("ok", "stop"))) as fake, pytest.raises(SteelyardError, match="response_format"):
        asked(fake, AnswerSettings(constraint=AnswerForm.read({"json_schema": {}})))


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("ENDPOINT_KEY", "s3cret-key")
    with serving(status(401, {"error": {"message": "s3cret-key is wrong"}})) as fake, pytest.raises(SteelyardError) as told:
        asked(fake, key="ENDPOINT_KEY")
    assert fake.headers[0]["Authorization"] == "Bearer s3cret-key"
    assert "s3cret" not in str(told.value) and "ENDPOINT_KEY" in str(told.value)


def test_a_missing_key_says_how_to_set_it(monkeypatch):
    monkeypatch.delenv("ENDPOINT_KEY", raising=False)
    with pytest.raises(SteelyardError, match="export ENDPOINT_KEY"):
        asked("http://127.0.0.1:9/v1", key="ENDPOINT_KEY")


@pytest.mark.parametrize(
    "url", ["", "host/v1", "ftp://host/v1", "http://", "http://user:secret@host/v1", "http://host/v1?key=1", "http://[::1"]
)
def test_a_url_that_is_none_is_refused_without_repeating_a_password(url):
    with pytest.raises(SteelyardError) as told:
        EndpointAnswerer(url, "m")
    assert "secret" not in str(told.value)


def test_url_model_and_day_name_the_records():
    one = EndpointAnswerer("http://host/v1/", "m", date="2026-01-01")
    assert one.fingerprint == EndpointAnswerer("http://host/v1", "m", date="2026-01-01").fingerprint
    others = [("http://host/v2", "m", "2026-01-01"), ("http://host/v1", "n", "2026-01-01"), ("http://host/v1", "m", "2026-01-02")]
    assert len({one.fingerprint, *(EndpointAnswerer(url, model, date=date).fingerprint for url, model, date in others)}) == 4


FRAMES = "\ufeffevent: error\r\ndata: a\rdata:b\n\n: comment\ndata: \u00e9\U0001f600\r\n\r\nid: 3\ndata\n\ndata: cut off"


@given(st.lists(st.integers(0, len(FRAMES.encode())), max_size=12))
def test_events_are_the_same_however_the_network_cuts_the_stream(cuts):
    data = FRAMES.encode()
    edges = [0, *sorted(cuts), len(data)]
    parser = EventParser()
    events = [event for start, end in zip(edges, edges[1:], strict=False) for event in parser.feed(data[start:end])]
    assert [(event.type, event.data) for event in events] == [("error", "a\nb"), ("message", "\u00e9\U0001f600"), ("message", "")]


@given(st.binary(max_size=300))
def test_any_bytes_for_a_stream_end_the_answer_in_an_orderly_way(data):
    from steelyard.augment.chat_stream import ChatStream

    stream_of = ChatStream(AnswerSettings())
    try:
        events = [*stream_of.took(b"data: " + data + b"\n\n"), *stream_of.ended()]
    except SteelyardError:
        return
    assert isinstance(events[-1], Done)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "delta", "content", "index", "finish_reason", "usage", "error", "tool_calls", "function", "logprobs"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_for_a_frame_ends_the_answer_in_an_orderly_way(value):
    from steelyard.augment.chat_stream import ChatStream

    stream_of = ChatStream(AnswerSettings(token_events=True))
    try:
        events = [*stream_of.took(b"data: " + json.dumps(value).encode() + b"\n\n"), *stream_of.ended()]
    except SteelyardError:
        return
    assert isinstance(events[-1], Done) and not any(isinstance(event, Failure) for event in events)


def test_of_requests_sent_together_none_is_lost_to_a_server_that_refuses_log_probabilities():
    met = threading.Barrier(4)

    def refuses(handler):
        if "logprobs" not in handler.body:
            return stream(says("Hello", "stop"), USAGE)(handler)
        met.wait(30)  # all of them are refused before any is asked again
        return status(400, {"error": {"message": "logprobs are not supported with this model"}})(handler)

    async def together(answerer: EndpointAnswerer) -> list[Answer]:
        settings = AnswerSettings(max_tokens=5, token_events=True)
        return await asyncio.gather(*(collect(answerer.answer(ASKED, settings)) for _ in range(4)))

    with serving(refuses) as fake:
        answers = asyncio.run(together(EndpointAnswerer(fake.url, "some-model", backoff=0.01)))
    assert [answer.text for answer in answers] == ["Hello"] * 4
    assert [sum("logprobs" in body for body in half) for half in (fake.bodies[:4], fake.bodies[4:])] == [4, 0]
