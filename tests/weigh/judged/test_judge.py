"""Judges of pairs: their agreement with labels, and figures with their errors taken out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from steelyard.core.errors import DataError
from steelyard.core.protocols import Done, Message, Score, Text, Usage
from steelyard.weigh.asking.arms import OpenArm
from steelyard.weigh.judged.judge import Verdict, agreement, corrected, worth
from steelyard.weigh.judged.judging import NAMES, Pair, judged, labelled_pairs, request
from steelyard.weigh.records import Records
from steelyard.weigh.statistics.agreement import kappa


def verdicts(n: int, accuracy: float, share: float = 1.0, seed: int = 0, place: float = 0.0) -> list[Verdict]:
    """Verdicts of a judge that is right with a chance, on pairs whose first answer is better with a chance, leaning to what stands first."""
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        better = rng.random() < share
        says = better if rng.random() < accuracy else not better
        lean = 1.0 if says else -1.0
        out.append(Verdict(lean + place, lean - place))
    return out


def test_a_perfect_judge_needs_no_correction() -> None:
    judge = agreement("oracle", "labels", verdicts(200, 1.0))
    assert judge.accuracy == judge.kappa == judge.steady == 1 and judge.low > 0.97 and judge.first == 0.5 and judge.useless is None
    share = corrected(verdicts(300, 1.0, 0.7, seed=1), judge)
    assert share.value == share.found
    assert share.interval[1] - share.interval[0] < 1.2 * (share.found_interval[1] - share.found_interval[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_coin_and_a_judge_that_takes_what_stands_first_are_useless(seed: int) -> None:
    coin = agreement("coin", "labels", verdicts(200, 0.5, seed=seed + 10))
    assert coin.useless is not None and "not shown to be better than a coin" in coin.useless
    first = agreement("always-first", "labels", [Verdict(1.0, -1.0)] * 200)
    assert first.accuracy == 0.5 and first.first == 1 and first.steady == 0 and first.useless
    with pytest.raises(DataError, match="always-first"):
        corrected(verdicts(50, 1.0), first)


def test_a_judge_who_takes_the_worse_answer_is_useless_too() -> None:
    judge = agreement("contrary", "labels", verdicts(200, 0.1))
    assert judge.useless is not None and "more often than a coin" in judge.useless


def test_an_80_percent_judge_is_corrected_and_its_doubt_counts() -> None:
    few, many = (agreement("j", "labels", verdicts(n, 0.8, seed=2)) for n in (60, 4000))
    seen = verdicts(2000, 0.8, 0.7, seed=3)
    one, other = corrected(seen, few), corrected(seen, many)
    assert other.found == pytest.approx(0.62, abs=0.03) and other.value == pytest.approx(0.7, abs=0.05)
    assert other.interval[0] < 0.7 < other.interval[1] and other.found_interval[1] < 0.7
    assert one.interval[1] - one.interval[0] > 1.2 * (other.interval[1] - other.interval[0])
    assert corrected(seen, many) == other  # seeded


def test_kappa_is_that_of_both_orders() -> None:
    seen = verdicts(150, 0.75, seed=4)
    labels = ["first"] * 150 + ["second"] * 150
    said = ["first" if v.margin > 0 else "second" for v in seen] + ["second" if v.margin > 0 else "first" for v in seen]
    assert agreement("j", "l", seen).kappa == pytest.approx(kappa(labels, said), abs=1e-12)


def test_pairs_of_one_conversation_count_as_they_are_worth() -> None:
    values = [float(v.wins) for v in verdicts(100, 0.7, seed=5)]
    assert worth(values, [""] * 100) == 100
    five = [value for value in values for _ in range(5)]
    assert worth(five, [str(i // 5) for i in range(500)]) == pytest.approx(100, rel=0.02)
    assert worth([1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"]) == 2  # few: as dependent as can be
    plain, often = agreement("j", "l", verdicts(100, 0.7, seed=5)), agreement("j", "l", [v for v in verdicts(100, 0.7, seed=5) for _ in range(5)], [str(i // 5) for i in range(500)])  # fmt: skip
    assert often.low == pytest.approx(plain.low, abs=0.01)


class Longer:
    """A judge that prefers the longer answer, and a bit what stands first; asked for words it says a letter."""

    fingerprint = "longer"

    def __init__(self, scores: bool):
        self.capabilities, self.asked = frozenset({"score"} if scores else ()), 0

    def lean(self, conversation) -> float:
        one, other = conversation[-1].content.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
        return len(one) - len(other.split("\n\n")[0]) + 0.5

    async def score(self, conversation, continuations):
        self.asked += 1
        lean = self.lean(conversation)
        return [Score(lean, False, 1, 1), Score(0.0, False, 1, 1)]

    async def answer(self, conversation, settings):
        self.asked += 1
        yield Text("A or B?" if "shrug" in conversation[-1].content else "I say A." if self.lean(conversation) > 0 else "**B**")
        yield Usage(1, 1)
        yield Done("stop")


@pytest.mark.parametrize("scores", [True, False])
def test_pairs_are_put_in_both_orders_and_kept(scores: bool, tmp_path: Path) -> None:
    asked = (Message("user", "Hello"),)
    pairs = [
        Pair(asked, "long answer", "short"),
        Pair(asked, "no", "yes yes"),
        Pair(asked, "long answer", "short"),
        Pair(asked, "shrug", "quiet"),
    ]
    judge = Longer(scores)
    arm = OpenArm("judge", judge, judge.fingerprint)
    with Records(tmp_path / "records.sqlite") as records:
        found = judged(arm, pairs, records, seed=1)
        again = judged(arm, pairs, records, seed=1)
    assert found == again and judge.asked == 6
    assert [None if each is None else each.wins for each in found[:3]] == [1.0, 0.0, 1.0]
    if scores:
        assert found[0] == Verdict(6.5, 5.5) and found[3] == Verdict(0.5, -0.5) and not Verdict(0.5, -0.5).steady
    else:
        assert found[3] is None


def test_what_the_judge_reads_holds_both_answers_and_swaps() -> None:
    pair = Pair((Message("user", "Q"),), "one", "two")
    assert "Answer A:\none\n\nAnswer B:\ntwo" in request(pair, False).content
    assert "Answer A:\ntwo\n\nAnswer B:\none" in request(pair, True).content
    assert NAMES == ("A", "B")


def test_labels_of_people_are_read(tmp_path: Path, shared_data: Path) -> None:
    pairs = labelled_pairs(shared_data / "hh_harmless_pairs_1200.jsonl")
    assert len(pairs) == 1200 and all(pair.first != pair.second and pair.conversation[-1].role == "user" for pair in pairs)
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "strength": 2, "conversation": "c"}) + "\n\n")
    assert labelled_pairs(mine) == [Pair((Message("user", "Hi"),), "Hello", "Go", "c")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"chosen": "a", "rejected": "b"}', "neither a preference pair"),
        ('{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "\\n\\nHuman: c\\n\\nAssistant: d"}', "more than their last answer"),
        ('{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "\\n\\nHuman: a\\n\\nAssistant: b"}', "are the same"),
        ('{"prompt": "p", "chosen": "a"}', "missing"),
        ("", "no labelled pairs"),
        ("{", "not JSON"),
    ],
)
def test_rows_that_are_no_pairs_are_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=why):
        labelled_pairs(path)
    with pytest.raises(DataError, match="cannot be read"):
        labelled_pairs(tmp_path)
