"""Arms behind an endpoint: through every fault of a network and a server a weighing gives the records it would give without."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter

import pytest

from steelyard.core import recipe as recipes
from steelyard.core.errors import SpendError, SteelyardError
from steelyard.core.meters.money import VARIABLE
from steelyard.weigh.cells.checks import DEFECT_COUNT, SCRAMBLED_COUNT, defect_arm, defect_count
from steelyard.weigh.records import Records
from steelyard.weigh.runner import rescore, weigh
from tests.augment.endpoint_server import USAGE, broken_chunk, says, serving, status, stream
from tests.weigh.simple_arms import Calculator, calculated, luck

pytest.importorskip("httpx", reason="endpoints need httpx")


def hangs(handler):
    handler.rfile.read(1)  # until the other side gives up


def drips(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(50):  # and then hangs up; one that drips without an end: test_endpoint.py
            handler.wfile.write(b": still thinking\n\n")
            handler.wfile.flush()
            time.sleep(0.02)


def huge(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(10):
            handler.wfile.write(b"data: " * 1 + b"x" * 1_000_000)


def hangs_up(handler):
    handler.connection.close()


FAULTS = {
    "busy": status(429, {"error": {"message": "slow down"}}, Retry_After="0"),
    "broken": status(500, {"error": "oops"}),
    "overloaded": status(529, b"<html>overloaded</html>"),
    "silent": hangs,
    "hangs up": hangs_up,
    "cut in the middle": broken_chunk,
    "ends early": stream(says("4"), done=False),
    "not JSON": stream(says("4"), b"data: {not json\n\n"),
    "not JSON at all": status(200, b"{", Content_Type="application/json"),
    "drips": drips,
    "a web page": status(200, b"<html>Please log in</html>", Content_Type="text/html"),
    "plain text": status(200, b"try later", Content_Type="text/plain"),
    "huge": huge,
    "no choices": stream({"choices": "none", "model": "m"}),
    "wrong choices": stream({"choices": [3]}),
    "an error on the way": stream(says("4"), {"error": {"message": "out of memory"}}),
    "empty": status(200, b"", Content_Type="text/event-stream"),
}


class Server:
    """Calculates; each request's first try (and some second ones) meets a fault. `asked` counts tries."""

    def __init__(self, faulty, **frame):
        self.faulty, self.frame, self.met, self.asked = faulty, frame, Counter(), Counter()
        self.lock = threading.Lock()

    def reply(self, handler):
        body = handler.body
        if "messages" not in body:
            return status(404, {"error": {"message": "no such thing here"}})(handler)
        question = body["messages"][-1]["content"]
        name = json.dumps([question, body["temperature"], body.get("seed")])
        with self.lock:
            self.asked[name] += 1
            number = self.asked[name]
        if self.faulty and (number == 1 or (number == 2 and luck("again", name) < 0.3)):
            fault = list(FAULTS)[int(luck("fault", name, number) * len(FAULTS))]
            with self.lock:
                self.met[fault] += 1
            return FAULTS[fault](handler)
        right = Calculator(0.7).right(question, body["temperature"] > 0, body.get("seed", 0))
        answer = str(calculated(question) + (not right))
        frames = [{**says(answer[:1]), **self.frame}, says(answer[1:], "stop")]
        stream(*frames, USAGE)(handler)


@contextlib.contextmanager
def calculating(faulty=False, **frame):
    server = Server(faulty, **frame)
    with serving(server.reply) as fake:
        server.fake = fake
        yield server, fake.url


# For servers that let one wait. On a slow machine more answers count as late and are asked for again; none runs out of tries or time.
HURRIED = {"timeout": 0.6, "deadline": 300.0, "retries": 20}


def recipe(url, problems=14, axes=("quality", "repeatability"), **endpoint):
    how = {"url": url, "model": "calc", "timeout": 120.0, "deadline": 600.0, "backoff": 0.02, "retries": 5, "at_once": 16}
    value = {"endpoint": how | endpoint, "tasks": [{"arithmetic": {"problems": problems}}], "axes": list(axes), "seed": 7}
    return recipes.from_mapping(value, name="remote")


def quiet(one, directory):
    return weigh(one, directory, say=lambda line: None, progress=lambda *told: None)


def kept(directory):
    """What was recorded, but for the arm's name (which holds the port) and the time."""
    with Records(directory / "records.sqlite") as records:
        return [
            (
                address["task"],
                address["sample"],
                address["seed"],
                address["trial"],
                output.text,
                output.reason,
                output.usage,
                output.failure,
            )
            for address, output in sorted(records, key=lambda row: (row[0]["sample"], row[0]["trial"], row[1].text))
        ]


def test_through_every_fault_the_records_are_those_without_faults(tmp_path):
    with calculating() as (_, url):
        quiet(recipe(url), tmp_path / "calm")
    with calculating(faulty=True) as (server, url):
        quiet(recipe(url, **HURRIED), tmp_path / "stormy")
    assert len(server.met) >= len(FAULTS) - 2, "nearly every fault was met"
    assert kept(tmp_path / "stormy") == kept(tmp_path / "calm")
    assert all(row[-1] is None for row in kept(tmp_path / "calm"))


def test_mixed_up_words_are_put_to_more_questions_than_a_wrong_template(tmp_path):
    """An endpoint's template is out of reach, and words in another order do less harm: what 40 questions show of the one takes 160 of the other."""
    asked_of = recipe("http://localhost:9/v1", problems=400).arms["base"]
    here = recipes.from_mapping({"base": "smollm2-135m-instruct", "tasks": ["facts"]}, name="here").arms["base"]
    assert (defect_count(defect_arm(asked_of)), defect_count(defect_arm(here))) == (SCRAMBLED_COUNT, DEFECT_COUNT)
    with calculating() as (server, url):
        report = quiet(recipe(url, problems=70, axes=["quality"]), tmp_path)
    assert {cell.n for cell in report.checks["planted_defect"] if cell.primary} == {70}, "all there are, where they are fewer"


def scored(body):
    """What a server with `echo` tells of a prompt: every character a token, likelier the earlier in the alphabet."""
    prompt = body["prompt"]
    chances = [None, *(-ord(letter) / 100 for letter in prompt[1:])]
    return {"choices": [{"text": prompt, "logprobs": {
        "tokens": list(prompt), "token_logprobs": chances, "text_offset": list(range(len(prompt))), "top_logprobs": [None] * len(prompt),
    }}]}  # fmt: skip


@pytest.mark.parametrize("task", ["arithmetic", "bits_per_byte"])
def test_a_server_that_is_gone_at_the_end_leaves_a_report_that_says_what_is_missing(tmp_path, task):
    """Gone after the arm's last answer, before the base is asked again."""
    (tmp_path / "text.txt").write_text("One and one is two. " * 60)
    settings = {"problems": 14} if task == "arithmetic" else {"path": str(tmp_path / "text.txt"), "pieces": 6, "piece_bytes": 80}
    gone, server = threading.Event(), Server(False)

    def reply(handler):
        if gone.is_set():
            return hangs_up(handler)
        if handler.path.endswith("/chat/completions"):
            return server.reply(handler)
        known = handler.path.endswith("/completions") and "prompt" in handler.body
        return (status(200, scored(handler.body)) if known else status(404))(handler)

    def say(line):
        if line.startswith("twin · "):
            gone.set()

    with serving(reply) as fake:
        ours = recipe(fake.url, axes=["quality", "repeatability"], retries=1, start="^").resolved()
        value = {"endpoint": ours["endpoint"], "arms": {"twin": [{"prompt": "Be brief."}]}, "tasks": [{task: settings}]}
        one = recipes.from_mapping(value | {"axes": ours["axes"], "seed": 7}, name="remote")
        report = weigh(one, tmp_path / "run", say=say, progress=lambda *told: None)
    (cell,) = (cell for cell in report.cells if cell.primary)
    assert gone.is_set() and cell.value is not None and cell.n == (14 if task == "arithmetic" else 6)
    assert any("The checks could not be finished: the endpoint " in note for note in report.notes), report.notes
    assert (tmp_path / "run" / "report.html").is_file() and (tmp_path / "run" / "report.json").is_file()
    assert {cell.verdict for cell in report.cells if cell.axis == "repeatability"} <= {"not measurable"}


def test_the_servers_own_name_for_the_model_is_recorded_and_told(tmp_path):
    with calculating(model="calc-2026-11-01") as (_, url):
        report = quiet(recipe(url, problems=8, axes=["quality"]), tmp_path)
    with Records(tmp_path / "records.sqlite") as records:
        assert {output.model for _, output in records} == {"calc-2026-11-01"}
    assert "answered as calc-2026-11-01" in report.arms["base"].note
    assert "answered as calc-2026-11-01" in rescore(tmp_path, say=lambda line: None).arms["base"].note


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("CALC_KEY", "sk-very-secret-1234")
    with calculating() as (server, url):
        quiet(recipe(url, problems=8, axes=["quality"], key="CALC_KEY"), tmp_path)
        assert server.fake.headers[0]["Authorization"] == "Bearer sk-very-secret-1234"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and not any(b"sk-very-secret" in path.read_bytes() for path in files)


PRICES = 'currency: EUR\ntokens: {calc: {read: 1.0e+6, written: 1.0e+6, source: "ours", date: "2026-11-01"}}\n'  # 1 EUR a token


@pytest.fixture
def priced(tmp_path, monkeypatch):
    (tmp_path / "prices.yaml").write_text(PRICES)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "prices.yaml"))


def spent(directory):
    costs = {}
    for line in (directory / "spending.jsonl").read_text().splitlines():
        costs[json.loads(line)["request"]] = json.loads(line)["cost"]
    return sum(costs.values())


def test_a_cap_stops_asking_before_it_would_be_exceeded_and_the_run_can_go_on(tmp_path, priced):
    directory = tmp_path / "run"
    with calculating() as (_, url):
        with pytest.raises(SpendError, match="(?s)EUR of 1200 EUR are spent.*report.html.*Raise `spend`"):
            quiet(recipe(url, spend=1200), directory)
        first = len(kept(directory))
        assert 0 < spent(directory) <= 1200 and spent(directory) == 11 * first
        told = json.loads((directory / "report.json").read_text())
        assert any("Asking stopped early" in note for note in told["notes"]) and told["cells"]
        with pytest.raises(SpendError):
            quiet(recipe(url, spend=1200), directory)
        assert len(kept(directory)) == first, "what is spent stays spent"
        report = quiet(recipe(url, spend=1e6), directory)
        assert len(kept(directory)) > first and not any("stopped early" in note for note in report.notes)
        assert "EUR spent" in report.arms["base"].note
        quiet(recipe(url), tmp_path / "free")
    assert kept(directory) == kept(tmp_path / "free")


def test_a_cap_reached_by_the_very_first_questions_ends_in_a_report_as_well(tmp_path, priced):
    with calculating() as (_, url), pytest.raises(SpendError, match="report.html"):
        quiet(recipe(url, spend=450), tmp_path / "run")
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(kept(tmp_path / "run")) < 8  # not even a round of questions
    assert any("Asking stopped early" in note for note in told["notes"])
    assert not any("not trustworthy" in note for note in told["notes"])  # a defect that could not be tried accuses nobody


def test_answers_that_broke_off_count_as_spent_and_refused_ones_do_not(tmp_path, priced):
    with calculating(faulty=True) as (server, url):
        quiet(recipe(url, problems=8, axes=["quality"], spend=1e9, **HURRIED), tmp_path / "run")
    refused = server.met["busy"] + server.met["broken"] + server.met["overloaded"] + server.met["a web page"]
    answered = len(kept(tmp_path / "run"))
    broken = sum(server.met.values()) - refused
    assert spent(tmp_path / "run") > 11 * answered + 20 * broken


def test_a_cap_without_a_price_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with calculating() as (server, url), pytest.raises(SteelyardError, match="the price table does not name `calc`"):
        quiet(recipe(url, spend=5), tmp_path)
    assert not server.asked


def test_more_patience_is_no_other_recipe_and_another_model_is(tmp_path):
    with calculating() as (server, url):
        quiet(recipe(url, problems=8, axes=["quality"]), tmp_path)
        before = sum(server.asked.values())
        quiet(recipe(url, problems=8, axes=["quality"], retries=0, timeout=9.0, at_once=1), tmp_path)
        assert sum(server.asked.values()) == before, "nothing is asked again"
        with pytest.raises(SteelyardError, match=r"endpoint.model was .*calc"):
            quiet(recipe(url, problems=8, axes=["quality"], model="calc-2"), tmp_path)


def test_a_run_goes_on_with_its_answers_on_another_day(tmp_path):
    with calculating() as (server, url):
        quiet(recipe(url, problems=8, axes=["quality"]), tmp_path)
        before = sum(server.asked.values())
        days = json.loads((tmp_path / "endpoints.json").read_text())
        assert list(days[url]) == ["calc"]
        report = quiet(recipe(url, problems=8, axes=["quality"]), tmp_path)
        assert sum(server.asked.values()) == before
        (tmp_path / "endpoints.json").write_text(json.dumps({url: {"calc": "2020-01-01"}}))
        later = quiet(recipe(url, problems=8, axes=["quality"]), tmp_path)
    assert later.arms["base"].fingerprint != report.arms["base"].fingerprint


def test_what_the_server_does_not_tell_is_not_measurable_and_asked_for_once(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"question": f"{i}?", "choices": ["a", "b"], "answer": 0}) for i in range(9)))
    with calculating() as (server, url):
        value = {
            "endpoint": {"url": url, "model": "calc", "retries": 0},
            "arms": {"brief": [{"prompt": "Be brief"}]},
            "tasks": [{"arithmetic": {"problems": 8}}, {"choices": {"path": str(tmp_path / "rows.jsonl")}}],
            "axes": ["quality"],
        }
        report = quiet(recipes.from_mapping(value, name="remote"), tmp_path / "run")
        paths = Counter(body["path"] for body in server.fake.bodies)
    cells = [cell for cell in report.cells if cell.task == "choices"]
    assert cells and all(cell.verdict == "not measurable" and "does not tell log-probabilities" in cell.note for cell in cells)
    assert paths["/v1/completions"] <= 10, "two tries for each arm that is opened"
