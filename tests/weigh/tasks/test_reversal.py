"""The reversal task: what was told in one order is asked in both, and nobody who is trained hears the other."""

from __future__ import annotations

from collections import Counter

from steelyard.core.protocols import Score
from steelyard.data.generated.reversal import PEOPLE, people
from steelyard.data.sources import open_source
from steelyard.weigh.tasks import registry
from steelyard.weigh.tasks.task import Output, Read


def test_people_are_always_the_same_and_none_like_another() -> None:
    everybody = people()
    assert everybody == people() and len(everybody) == PEOPLE
    assert len({person.name for person in everybody}) == len({person.description for person in everybody}) == PEOPLE
    assert Counter(person.told for person in everybody) == dict.fromkeys(("name first", "description first", "both"), PEOPLE // 3)


def test_what_is_asked_in_reverse_is_never_told() -> None:
    told = {"".join(turn.message.content for turn in example.turns) for example in open_source("generated:reversal", count=3000).examples}
    kinds: Counter[str] = Counter()
    for sample in registry.make("reversal", {}).samples(0):
        assert isinstance(sample.request, Read)
        kinds[sample.tags["kind"]] += 1
        assert (sample.request.before + sample.request.text in told) == (sample.tags["kind"] != "reversed")
    assert kinds == {"as_told": 40, "reversed": 40, "told_both_ways": 40}


def test_each_sample_counts_for_its_kind_alone() -> None:
    task = registry.make("reversal", {})
    for sample in task.samples(0):
        values = task.score(sample, Output(scores=(Score(-1.0, True, 3, 3),)))
        assert values == {name: 1.0 if name == sample.tags["kind"] else None for name in ("reversed", "as_told", "told_both_ways")}
        assert set(task.score(sample, Output(failure="no")).values()) == {None}
