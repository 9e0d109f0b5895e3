"""Position and languages: cells by what a task's samples are tagged with."""

from __future__ import annotations

import json

import pytest

from steelyard.core.errors import DataError
from steelyard.core.protocols import Message, Score
from steelyard.weigh.cells.breakdowns import breakdowns
from steelyard.weigh.cells.cells import base_cells, draft_cells, finish
from steelyard.weigh.cells.scoring import score, unable
from steelyard.weigh.tasks.needles import Needles
from steelyard.weigh.tasks.parallel_text import ParallelText
from steelyard.weigh.tasks.registry import make
from steelyard.weigh.tasks.sets.kv_retrieval import KvRetrieval
from steelyard.weigh.tasks.task import Ask, Metric, Output, Read, Sample, Task

RIGHT = Metric("right", "quality", "share", True, margin=0.03, floor=0.0, binary=True)


def tagged(tags):
    return [Sample(str(i), Ask((Message("user", "?"),)), tags=one) for i, one in enumerate(tags)]


def found(task, samples, texts):
    return score(task, samples, [[Output(text=text, reason="stop") for text in texts]])


def test_a_dip_in_the_middle_is_a_cell_and_the_contrast_with_the_edges_too():
    task = Needles(problems=20, lengths=(40,))
    samples = task.samples(3)
    good = [sample.reference["expected"] for sample in samples]
    dip = [text if sample.tags["depth"] in ("0", "1") else "7" for text, sample in zip(good, samples, strict=True)]
    cells = {d.metric.name: finish(d) for d in draft_cells("arm", task, found(task, samples, good), [found(task, samples, dip)])}
    assert cells["right_in_the_middle"].axis == "position" and cells["right_in_the_middle"].verdict == "worse"
    assert cells["right_in_the_middle"].value == 0.0 and cells["right_in_the_middle"].n == 60
    assert cells["right_edges_less_middle"].value == pytest.approx(1.0) and cells["right_edges_less_middle"].verdict == "worse"
    assert cells["right_at_depth_0"].difference == 0.0 and cells["right_at_depth_0"].n == 20
    assert cells["right_at_depth_0.5"].verdict == "worse"
    positions = [name for name, cell in cells.items() if cell.axis == "position"]
    assert positions[0] == "right_in_the_middle"  # what opens the axis
    alone = {cell.metric: cell for cell in base_cells(task, found(task, samples, dip))}
    assert alone["right_edges_less_middle"].value == pytest.approx(1.0)


def test_who_answers_nothing_rightly_has_no_dip_in_the_middle_to_compare():
    task = Needles(problems=8, lengths=(40,))
    samples = task.samples(3)
    wrong, other = (found(task, samples, [text] * len(samples)) for text in ("none", "nothing"))
    cells = {draft.metric.name: finish(draft) for draft in draft_cells("arm", task, wrong, [other])}
    contrast = cells["right_edges_less_middle"]
    assert contrast.verdict == "floor" and "`right` is not shown to be above 0" in contrast.note
    assert contrast.base_interval is None  # no width of nothing: other samples may well differ
    alone = {cell.metric: cell for cell in base_cells(task, wrong)}
    assert alone["right_edges_less_middle"].verdict == "floor"


def test_an_arm_that_could_not_be_asked_has_these_cells_too_with_the_reason():
    task = Needles(problems=2)
    samples = task.samples(0)
    base = found(task, samples, [sample.reference["expected"] for sample in samples])
    drafts = draft_cells("arm", task, base, [unable(task, samples, "it is away")])
    cell = finish(next(draft for draft in drafts if draft.metric.axis == "position"))
    assert cell.verdict == "not measurable" and cell.note == "it is away" and cell.base == 1.0


def test_many_depths_are_told_by_fifths_and_bad_tags_are_no_position():
    names = [one.metric.name for one in breakdowns([RIGHT], tagged([{"depth": str(i / 20)} for i in range(21)]))]
    assert names[2:] == [f"right_at_depth_{low}" for low in ("0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1")]
    assert breakdowns([RIGHT], tagged([{"depth": "nan"}, {"depth": "deep"}, {"depth": "7"}, {}, {"depth": "0.5"}])) == []
    assert breakdowns([Metric("valid", "format", "share", True, 0.03)], tagged([{"depth": "0"}, {"depth": "1"}])) == []


def test_other_languages_are_held_against_english():
    task = make("needles", {"problems": 1})
    samples = tagged([{"language": language} for language in ("en", "de", "sw")] * 4)
    names = [one.metric.name for one in breakdowns(task.metrics, samples)]
    assert names == ["right_in_other_languages", "right_english_less_others", "right_in_de", "right_in_en", "right_in_sw"]
    assert [one.metric.name for one in breakdowns([RIGHT], tagged([{"language": "de"}, {"language": "sw"}]))] == [
        "right_in_de",
        "right_in_sw",
    ]


def test_one_problem_is_asked_at_every_depth_with_the_same_words():
    task = Needles(problems=3, lengths=(60, 120), depths=(0.0, 0.5, 1.0), needles=3)
    samples = task.samples(1)
    assert [s.id for s in samples] == [s.id for s in task.samples(1)] != [s.id for s in task.samples(2)]
    assert len({sample.id for sample in samples}) == 18 and len({sample.cluster for sample in samples}) == 6
    for cluster in {sample.cluster for sample in samples}:
        mine = [sample for sample in samples if sample.cluster == cluster]
        texts = [sample.request.conversation[0].content for sample in mine]
        assert len({tuple(sorted(text.split())) for text in texts}) == 1 and len(set(texts)) == 3
        told = f"is {mine[0].reference['expected']}."
        places = [text.index(told) / len(text) for text in texts]
        assert places == sorted(places) and all(text.count("The secret number of") == 3 for text in texts)


def test_a_needle_is_found_where_the_first_number_is_it():
    task = Needles(problems=1)
    sample = task.samples(0)[0]
    right = sample.reference["expected"]
    said = {text: task.score(sample, Output(text=text))["right"] for text in (right, f"It is {right}.", f"7, not {right}", "none")}
    assert list(said.values()) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("settings", [{"lengths": [0]}, {"depths": [1.5]}, {"depths": [0.5, 0.5]}, {"needles": 0}])
def test_impossible_needles_are_refused(settings):
    from steelyard.core.errors import RecipeError

    with pytest.raises(RecipeError):
        make("needles", settings)


def test_key_value_retrieval_is_asked_at_several_places_and_lengths(tmp_path):
    rows = [{"ordered_kv_records": [[f"k{i}-{row}", f"v{i}"] for i in range(9)], "key": f"k4-{row}", "value": "v4"} for row in range(2)]
    (tmp_path / "kv.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = KvRetrieval(path=tmp_path / "kv.jsonl", records=(3, 9), position=(0.0, 0.5, 1.0))
    samples = task.samples(0)
    assert len({sample.id for sample in samples}) == 12 and len({sample.cluster for sample in samples}) == 2
    assert {(sample.tags["length"], sample.tags["depth"]) for sample in samples} == {(n, d) for n in ("3", "9") for d in ("0", "0.5", "1")}
    names = [one.metric.name for one in breakdowns(task.metrics, samples)]
    assert {"right_in_the_middle", "right_at_length_3", "right_at_length_9", "right_at_depth_1"} <= set(names)


def parallel(tmp_path, rows, **settings) -> Task:
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return ParallelText(path=tmp_path / "p.jsonl", **settings)


def read(bits, tokens, text):
    import math

    return Output(scores=(Score(-bits * math.log(2), False, tokens, len(text.encode())),))


def test_bits_of_a_passage_are_held_against_its_english(tmp_path):
    task = parallel(tmp_path, [{"en": "water", "de": "Wasser", "ja": "水"}, {"en": "fire", "de": "Feuer", "ja": "火"}])
    samples = task.samples(0)
    bits = {"en": 10.0, "de": 15.0, "ja": 25.0}
    outputs = [read(bits[s.tags["language"]], 2 if s.tags["language"] == "en" else 6, s.request.text) for s in samples]
    assert all(isinstance(sample.request, Read) and sample.request.rolling for sample in samples)
    cells = {cell.metric: cell for cell in base_cells(task, score(task, samples, [outputs]))}
    assert cells["bits_to_english"].value == pytest.approx(2.0) and cells["bits_to_english"].unit == "times"
    assert cells["tokens_to_english"].value == pytest.approx(3.0) and cells["bits_to_english"].n == 6
    assert cells["bits_in_ja"].value == pytest.approx(25.0) and cells["bits_in_ja"].n == 2
    size = sum(len(sample.request.text.encode()) for sample in samples)
    assert cells["bytes_per_token"].value == pytest.approx(size / 28)
    assert {cell.axis for cell in cells.values()} == {"languages"}


def test_a_folder_of_aligned_files_is_parallel_text_and_uneven_ones_are_refused(tmp_path):
    (tmp_path / "en_a.tsv").write_text("one\t1\ntwo\t2\n")
    (tmp_path / "te_a.tsv").write_text("ఒకటి\t1\nరెండు\t2\n", encoding="utf-8")
    task = ParallelText(path=tmp_path)
    assert [sample.request.text for sample in task.samples(0)] == ["one", "ఒకటి", "two", "రెండు"]
    (tmp_path / "de.txt").write_text("eins\n")
    with pytest.raises(DataError, match="same lines"):
        _ = ParallelText(path=tmp_path).metrics


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"en": "a"}], "fewer than two"),
        ([{"de": "a", "fr": "b"}], "against English"),
        ([{"en": "a", "de": ""}], "something in it"),
        ([{"en": "a", "de": "b"}, {"en": "a", "fr": "b"}], "not every passage"),
        ([{"en": "a", "../de": "b"}], "no language"),
    ],
)
def test_text_that_is_not_parallel_is_refused(tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        _ = parallel(tmp_path, rows).metrics
