"""Questions in other words: what may change and what never does, and what a report makes of it."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import RecipeError, SteelyardError
from steelyard.core.protocols import Message, Score
from steelyard.data.words import words
from steelyard.weigh.asking.subjects import primaries, questions
from steelyard.weigh.cells.cells import draft_cells, finish
from steelyard.weigh.cells.scoring import score
from steelyard.weigh.runner import weigh
from steelyard.weigh.tasks.arithmetic import Arithmetic
from steelyard.weigh.tasks.perturbations import PERTURBATIONS, PLACEBO, RAW_PERTURBATIONS
from steelyard.weigh.tasks.perturbed import TAG, USUAL, Perturbed, protected_words, question_in, variations
from steelyard.weigh.tasks.right_answers import RightAnswers, other_numbers, some_of
from steelyard.weigh.tasks.task import Ask, Choose, Continue, Output, Sample
from tests.weigh.simple_arms import Bench, recipe

texts = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from("what is the capital of France and why not 7 or 3.5 Zorvath Mills? three \"two words\" US ß İ ǅ 水 1,000 don't\n\n".split(" ")))
    .map(" ".join),
)  # fmt: skip
names = st.sampled_from(sorted(PERTURBATIONS))
DIGITS = re.compile(r"\d+")


@settings(deadline=None)
@given(names, texts, st.integers(0, 2**32))
def test_a_perturbation_repeats_itself_keeps_every_digit_and_tells_when_nothing_changes(name, text, seed):
    perturb = PERTURBATIONS[name]
    made = perturb(text, random.Random(seed), ())
    assert made == perturb(text, random.Random(seed), ())
    if made is not None:
        assert made != text
        assert DIGITS.findall(made) == DIGITS.findall(text)


@settings(deadline=None)
@given(texts, st.integers(0, 2**32))
def test_the_placebo_keeps_words_and_their_spelling(text, seed):
    for perturb in (PERTURBATIONS[PLACEBO], RAW_PERTURBATIONS[PLACEBO]):
        made = perturb(text, random.Random(seed), ())
        assert made is not None and made.split() == text.split() and made != text


@settings(deadline=None)
@given(st.sampled_from(["typos", "word_order", "punctuation", "paraphrase"]), texts, st.integers(0, 2**32))
def test_protected_words_keep_their_spelling_and_their_order(name, text, seed):
    protected = {"capital", "why", "france"}
    made = PERTURBATIONS[name](text, random.Random(seed), protected)
    if made is not None:
        assert [word for word in words(made) if word in protected] == [word for word in words(text) if word in protected]


@settings(deadline=None)
@given(texts, st.integers(0, 2**32))
def test_words_out_of_order_are_the_same_words_and_case_is_all_that_case_changes(text, seed):
    if moved := PERTURBATIONS["word_order"](text, random.Random(seed), ()):
        assert sorted(moved) == sorted(text)
    if cased := PERTURBATIONS["case"](text, random.Random(seed), ()):
        assert cased.casefold() == text.casefold()
    if pointed := PERTURBATIONS["punctuation"](text, random.Random(seed), ()):
        assert re.sub(r"[^\w\s]", "", pointed) == re.sub(r"[^\w\s]", "", text)


@pytest.mark.parametrize("seed", range(40))
def test_what_the_truth_hangs_on_stays(seed):
    text = (
        'How many of the three towns are not older than Zorvath Mills, founded in 1850, if "red square" costs 3,5 crowns and US law holds?'
    )
    rng = random.Random(seed)
    typo = PERTURBATIONS["typos"](text, rng, ())
    order = PERTURBATIONS["word_order"](text, rng, ())
    for made in (typo, order):
        for kept in ("three", "not older than Zorvath Mills", "1850", '"red square"', "3,5", "US"):
            assert kept in made
    assert typo != text and [w for w in typo.split()] != text.split() and len(typo.split()) == len(text.split())
    cased = PERTURBATIONS["case"](text, rng, ())
    assert '"red square"' in cased and "US" in cased


def test_a_typo_needs_an_alphabet_with_case_and_a_word_long_enough():
    for text in ("三只鸭子每天下十六个蛋", "a of it", "12345 678", "", "?!", "Zorvath Mills"):
        assert PERTURBATIONS["typos"]("x " + text if text == "Zorvath Mills" else text, random.Random(0), ()) is None


def asked(text, reference=None, **more):
    return Sample("s", Ask((Message("system", "Be brief."), Message("user", text))), reference=reference, **more)


def test_a_passage_that_answers_is_not_touched():
    passage = "The founder of Zorvath was Ada Kell. It makes paper kites and sells them."
    sample = asked(
        f"{passage}\n\nWho founded the firm, please tell? Answer briefly.",
        {"question": "Who founded the firm, please tell?", "answers": ["Ada Kell"]},
    )
    found = variations(sample, 0)
    assert set(found) == set(PERTURBATIONS)
    for request in found.values():
        assert request.conversation[-1].content.startswith(passage) and "Answer briefly." in request.conversation[-1].content
        assert request.conversation[0] == sample.request.conversation[0]


def test_the_cue_of_raw_text_and_the_choices_words_stay():
    sample = Sample(
        "s",
        Continue("An example.\n\nWhich animal barks loudly tonight?\nAnswer:", (" the dog", " the quiet cat")),
        reference={"right": [0]},
    )
    assert question_in(sample) == ("An example.\n\n", "Which animal barks loudly tonight?", "\nAnswer:")
    found = variations(sample, 3)
    assert "paraphrase" not in found and {"case", "typos", PLACEBO} <= set(found)
    assert all(request.text.endswith("\nAnswer:") and request.continuations == sample.request.continuations for request in found.values())
    assert {"dog", "quiet", "cat"} <= set(protected_words(sample))


@pytest.mark.parametrize(
    "request_", [Ask(()), Ask((Message("assistant", "Hello?"),)), Ask((Message("user", " \n "),)), Continue("", ("a", "b"), ("x", "y"))]
)
def test_where_there_is_no_question_nothing_is_perturbed(request_):
    assert variations(Sample("s", request_), 0) == {}


def test_what_judges_is_the_same_object_before_and_after():
    inner = Arithmetic(problems=6)
    task = Perturbed(of=inner, called="arithmetic", items=4)
    samples = task.samples(5)
    usual = {sample.id: sample for sample in samples if sample.tags[TAG] == USUAL}
    assert len(usual) == 4 and [s.id for s in samples] == [s.id for s in task.samples(5)]
    for sample in samples:
        origin = usual[sample.id.partition("~")[0]]
        assert sample.reference is origin.reference and sample.cluster == origin.cluster != ""
        if sample.tags[TAG] != USUAL:
            assert sample.request != origin.request and DIGITS.findall(last(sample)) == DIGITS.findall(last(origin))
    assert samples[0].request == inner.samples(5)[0].request


def last(sample):
    return sample.request.conversation[-1].content


def cells_of(breaks, skill=1.0, items=30, noise=frozenset()):
    """Cells of an arm that is wrong under some perturbations, against a base that is right on `skill` of the items whatever the wording."""
    task = Perturbed(of=Arithmetic(problems=items), called="arithmetic", items=items)
    samples = task.samples(0)
    able = {sample.id for number, sample in enumerate(s for s in samples if s.tags[TAG] == USUAL) if number < skill * items}

    def outputs(broken):
        return [
            Output(text=s.reference["expected"] if s.id.partition("~")[0] in able and s.tags[TAG] not in broken else "none")
            for s in samples
        ]

    base, arm = (score(task, samples, [outputs(broken)]) for broken in (noise, breaks))
    return {draft.metric.name: finish(draft) for draft in draft_cells("arm", task, base, [arm])}


def test_an_arm_that_breaks_on_typos_is_caught_and_the_placebo_shows_none():
    cells = cells_of({"typos"})
    assert {cell.axis for cell in cells.values()} == {"robustness"}
    assert next(iter(cells)) == "right_perturbed" and cells["right_perturbed"].verdict == "worse"
    assert cells["right_worst_case"].value == 0.0 and cells["right_drop_under_typos"].value == 1.0
    assert cells["right_drop_under_typos"].verdict == "worse" and cells["right_under_typos"].verdict == "worse"
    assert cells["right_flipped"].value == pytest.approx(
        1 / len([n for n in cells if n.startswith("right_drop_under_") and PLACEBO not in n])
    )
    for name in ("right_drop_under_case", f"right_drop_under_{PLACEBO}", f"right_flipped_under_{PLACEBO}", "right_unperturbed"):
        assert cells[name].difference == 0.0, name


def test_what_white_space_does_shows_in_the_placebos_rows():
    cells = cells_of({PLACEBO})
    assert cells[f"right_drop_under_{PLACEBO}"].verdict == "worse" and cells["right_perturbed"].difference == 0.0
    assert cells["right_worst_case"].difference == 0.0 and cells["right_flipped"].value == 0.0


def test_who_cannot_do_the_task_is_not_called_robust():
    cells = cells_of(frozenset(), skill=0.0)
    assert {cell.verdict for cell in cells.values()} == {"floor"}
    assert "cannot do the task" in cells["right_drop"].note


def test_an_item_of_which_a_version_failed_is_left_out_of_what_compares_versions():
    task = Perturbed(of=Arithmetic(problems=5), called="arithmetic", items=5)
    samples = task.samples(0)
    outputs = [
        Output(text=s.reference["expected"], failure="away" if s.tags[TAG] == "typos" and s.id.startswith(samples[0].id) else None)
        for s in samples
    ]
    drops = score(task, samples, [outputs]).values["right_drop"]
    assert sum(value is not None for value in drops) == 4


def test_robustness_is_weighed_for_questions_and_for_choices_and_may_be_primary(tmp_path):
    rows = "".join(f'{{"question": "Which is larger, {i} or {i + 1}?", "choices": ["{i}", "{i + 1}"], "answer": 1}}\n' for i in range(5))
    (tmp_path / "c.jsonl").write_text(rows)
    one = recipe(arms={"good": "skill-90"}, problems=30)
    both = one.model_copy(update={"tasks": (*one.tasks, *choices(tmp_path / "c.jsonl")), "axes": ("quality", "robustness"), "perturbed": 3})
    asked_ = {question.name: question for question in questions(both)}
    assert list(asked_) == ["arithmetic", "choices", "arithmetic, perturbed", "arithmetic, right answers", "choices, perturbed"]
    assert sum(sample.tags[TAG] == USUAL for sample in asked_["arithmetic, perturbed"].samples) == 3
    assert all(isinstance(sample.request, Choose) for sample in asked_["choices, perturbed"].samples)
    chosen = both.model_copy(update={"primary": {"good": ("choices", "robustness")}})
    assert primaries(chosen, list(asked_.values())) == {"good": ("choices, perturbed", "acc_perturbed")}
    alone = both.model_copy(update={"axes": ("robustness",)})
    assert [question.name for question in questions(alone)] == ["arithmetic, perturbed", "choices, perturbed"]


def choices(path):
    from steelyard.core.recipe_parts import TaskSpec

    return (TaskSpec(name="choices", settings={"path": str(path)}),)


def test_a_report_has_the_axis_and_an_arm_without_probabilities_is_told_of(tmp_path):
    one = recipe(arms={"good": "skill-100", "silent": "silent-70"}, problems=40)
    report = weigh(
        one.model_copy(update={"axes": ("quality", "robustness"), "perturbed": 20}), tmp_path, say=lambda line: None, opener=Bench()
    )
    cell = report.cell("good", "right_perturbed")
    assert cell.task == "arithmetic, perturbed" and cell.n > 60 and cell.verdict == "better"
    logprob = report.cell("silent", "answer_logprob")
    assert logprob.verdict == "not measurable" and "log-probabilities" in logprob.note
    assert report.cell("good", "answer_logprob").axis == "quality" and report.cell("good", "answer_logprob").n == 40


@pytest.mark.parametrize("count", [0, -1, "many", 2.5])
def test_a_number_of_perturbed_questions_that_is_none_is_refused(count):
    from steelyard.core import recipe as recipes

    with pytest.raises((RecipeError, SteelyardError)):
        recipes.from_mapping({"base": "x", "tasks": ["facts"], "perturbed": count})


@settings(deadline=None)
@given(st.from_regex(r"-?[1-9][0-9]{0,8}", fullmatch=True), st.text(max_size=5))
def test_wrong_numbers_are_other_numbers_written_alike(right, key):
    wrong = other_numbers(right, key)
    assert wrong == other_numbers(right, key) and len(set(wrong)) == len(wrong) >= 1
    assert all(int(one) != int(right) and len(one) == len(right) for one in wrong)


def test_right_answers_are_told_from_wrong_ones_whatever_the_wording_costs():
    task = RightAnswers(of=Arithmetic(problems=5), called="arithmetic")
    for sample in task.samples(0):
        assert len(sample.request.continuations) == 4 and len({text.rpartition(" ")[0] for text in sample.request.continuations}) == 1
        dear, cheap = ([Score(level - gap, False, 1, 1) for gap in (0.0, 2.0, 2.0, 2.0)] for level in (-50.0, -1.0))
        found = [task.score(sample, Output(scores=tuple(scores)))["answer_logprob"] for scores in (dear, cheap)]
        assert found[0] == pytest.approx(found[1]) and -0.4 < found[0] < 0
        assert task.score(sample, Output())["answer_logprob"] is None


def test_a_rival_that_is_right_under_another_spelling_is_no_wrong_answer():
    assert set(some_of(["The Hague", "Paris", "Oslo"], ["hague"], "k")) == {"Paris", "Oslo"}
    assert some_of([], ["x"], "k") == () and other_numbers("none", "k") == ()


def test_items_of_as_many_clusters_as_there_are_come_first():
    inner = Arithmetic(problems=6)
    samples = [dataclasses.replace(sample, cluster="one" if i < 3 else "") for i, sample in enumerate(inner.samples(0))]
    found = Perturbed(of=inner, called="arithmetic", items=4).vary(samples, 0)
    chosen = [sample.id for sample in found if sample.tags[TAG] == USUAL]
    assert chosen == [samples[i].id for i in (0, 3, 4, 5)]
