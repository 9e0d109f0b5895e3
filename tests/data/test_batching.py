"""Batches: every row once a pass, nothing learned across rows, and resuming from any place is exact."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.data.batching import NOT_LEARNED, Batches, Place, assemble, first_fit
from steelyard.data.encoding import TokenRow


def row(number, length):
    ids = np.arange(length, dtype=np.int32) + 1000 * number + 1
    learned = np.arange(length) >= length // 2
    return TokenRow(ids, learned, f"rows.jsonl:{number}", str(number))


rows = st.lists(st.integers(1, 12), min_size=1, max_size=20).map(lambda lengths: [row(n, length) for n, length in enumerate(lengths)])
streams = st.builds(
    Batches,
    rows,
    size=st.integers(1, 5),
    seed=st.integers(0, 9),
    epochs=st.sampled_from([0.3, 1.0, 1.5, 2.0]),
    pack=st.sampled_from([None, 12, 20]),
)


def content(batch):
    segments = None if batch.segments is None else batch.segments.tolist()
    return batch.ids.tolist(), batch.targets.tolist(), segments, batch.where


@settings(deadline=None)
@given(streams, st.data())
def test_a_stream_resumed_from_any_place_goes_on_exactly(stream, data):
    whole = list(stream.iterate())
    assert len(whole) == len(stream)
    taken = data.draw(st.integers(0, len(whole)))
    place = whole[taken - 1][1] if taken else Place()
    rest = list(stream.iterate(place))
    assert [(content(batch), after) for batch, after in rest] == [(content(batch), after) for batch, after in whole[taken:]]


def test_passes_without_number_are_counted_at_once():
    some = [row(n, 3) for n in range(10)]
    assert len(Batches(some, 4, epochs=1e12)) == 3 * 10**12


@settings(deadline=None)
@given(rows, st.integers(1, 5), st.sampled_from([None, 12, 30]), st.integers(0, 5))
def test_every_pass_holds_every_row_once_with_all_its_tokens(rows, size, pack, seed):
    stream = Batches(rows, size, seed, 1.0, pack)
    batches = [batch for batch, _ in stream.iterate()]
    assert sorted(where for batch in batches for where in batch.where) == sorted(row.where for row in rows)
    assert sum(batch.tokens for batch in batches) == sum(map(len, rows))
    assert sum(batch.learned for batch in batches) == sum(int(row.learned[1:].sum()) for row in rows)


@settings(deadline=None)
@given(rows, st.integers(1, 4), st.sampled_from([None, 12, 30]))
def test_targets_are_the_next_tokens_of_the_same_row(rows, size, pack):
    for batch, _ in Batches(rows, size, 0, 1.0, pack).iterate():
        for line, time in zip(*np.nonzero(batch.targets != NOT_LEARNED), strict=True):
            assert batch.targets[line, time] == batch.ids[line, time + 1] == batch.ids[line, time] + 1
            if batch.segments is not None:
                assert batch.segments[line, time] == batch.segments[line, time + 1] >= 0


def test_the_first_token_of_a_row_is_never_predicted_from_the_row_before():
    taught = TokenRow(np.array([1, 2, 3], np.int32), np.array([True, True, True]), "a", "a")
    batch = assemble([[taught, taught]], packed=True)
    assert batch.targets.tolist() == [[2, 3, NOT_LEARNED, 2, 3, NOT_LEARNED]]
    assert batch.segments is not None and batch.segments.tolist() == [[0, 0, 0, 1, 1, 1]]


def test_each_pass_has_an_order_of_its_own_that_the_seed_decides():
    some = [row(n, 3) for n in range(30)]
    stream = Batches(some, 4, seed=1, epochs=None)
    assert stream.plan(0) != stream.plan(1)
    assert stream.plan(0) == Batches(some, 4, seed=1).plan(0) != Batches(some, 4, seed=2).plan(0)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=600))
def test_packing_overfills_no_line(lengths):
    lines = first_fit(lengths, range(len(lengths)), 32)
    assert sorted(row for line in lines for row in line) == list(range(len(lengths)))
    assert all(len(line) == 1 or sum(lengths[row] for row in line) <= 32 for line in lines)
