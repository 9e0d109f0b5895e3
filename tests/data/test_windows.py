"""Windows over a corpus: what a batch holds depends on nothing but where it stands, and masked targets never cross documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import DataError
from steelyard.data.batching import NOT_LEARNED, Place
from steelyard.data.texts.document import Document
from steelyard.data.token_file import write_tokens
from steelyard.data.tokenizer_training import train_tokenizer
from steelyard.data.windows import Windows, permuted

BYTES = train_tokenizer("bytes", [])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    lengths = np.random.default_rng(3).integers(0, 40, 60)
    documents = [Document(chr(97 + number % 26) * int(length)) for number, length in enumerate(lengths)]
    return write_tokens(documents, BYTES, tmp_path_factory.mktemp("tokens"))


def content(batch):
    return batch.ids.tolist(), batch.targets.tolist(), None if batch.segments is None else batch.segments.tolist(), batch.where


streams = st.fixed_dictionaries(
    {
        "size": st.integers(1, 9),
        "time": st.integers(1, 50),
        "seed": st.integers(0, 5),
        "mask_documents": st.booleans(),
        "order": st.sampled_from(["random", "shuffled", "sequential"]),
        "epochs": st.sampled_from([0.3, 1.0, 2.5]),
        "whole_batches": st.booleans(),
    }
)


@settings(deadline=None, max_examples=60)
@given(streams, st.data())
def test_a_killed_run_goes_on_with_the_same_bits(corpus, fields, data):
    stream = Windows(corpus, **fields)
    whole = list(stream.iterate())
    assert len(whole) == len(stream)
    taken = data.draw(st.integers(0, len(whole)))
    rest = list(Windows(corpus, **fields).iterate(whole[taken - 1][1] if taken else Place()))
    assert [content(batch) for batch, _ in whole[taken:]] == [content(batch) for batch, _ in rest]
    assert [place for _, place in whole[taken:]] == [place for _, place in rest]


@settings(deadline=None, max_examples=60)
@given(streams)
def test_targets_are_the_next_tokens_and_masked_ones_never_cross_documents(corpus, fields):
    owner = np.searchsorted(corpus.starts, np.arange(len(corpus)), "right")
    stream = Windows(corpus, **fields)
    batch = stream.batch(0, 0)
    for row, start in enumerate(stream.starts(0, 0)):
        inside = slice(start, start + fields["time"])
        after = slice(start + 1, start + fields["time"] + 1)
        assert (batch.ids[row] == corpus.ids[inside]).all()
        if not fields["mask_documents"]:
            assert batch.segments is None and (batch.targets[row] == corpus.ids[after]).all()
            continue
        same = owner[inside] == owner[after]
        assert (batch.targets[row] == np.where(same, corpus.ids[after].astype(np.int64), NOT_LEARNED)).all()
        assert batch.segments[row][0] == 0
        assert (np.diff(batch.segments[row]) == (np.diff(owner[inside]) > 0)).all()


@pytest.mark.parametrize("order", ["shuffled", "sequential"])
def test_windows_without_overlap_show_every_target_once_an_epoch(corpus, order):
    stream = Windows(corpus, 4, 16, seed=5, order=order, epochs=2.0)
    epochs = [[], []]
    for index in range(stream.batches_per_epoch):
        for epoch in (0, 1):
            epochs[epoch] += stream.starts(epoch, index)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(0, len(corpus) - 16, 16))
    assert (epochs[0] == epochs[1]) == (order == "sequential")


def test_random_windows_reach_both_ends_and_depend_on_the_seed(corpus):
    stream = Windows(corpus.part(0, 12), 50, 8, seed=1)
    starts = [start for index in range(10) for start in stream.starts(0, index)]
    assert set(starts) == {0, 1, 2, 3}
    assert starts != [start for index in range(10) for start in Windows(corpus.part(0, 12), 50, 8, seed=2).starts(0, index)]


@given(st.integers(1, 3000), st.lists(st.integers(0, 2**63 - 1), min_size=4, max_size=4))
@settings(deadline=None, max_examples=40)
def test_the_shuffled_order_is_a_permutation(count, keys):
    assert sorted(permuted(number, count, keys) for number in range(count)) == list(range(count))


def test_the_shuffled_order_keeps_no_neighbours_together():
    count = 10_000
    order = np.array([permuted(number, count, [11, 22, 33, 44]) for number in range(count)])
    assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
    assert (np.abs(np.diff(order)) == 1).mean() < 0.001


def test_the_split_is_by_position_and_its_parts_know_their_documents(corpus):
    learned, aside = corpus.split(0.25)
    assert len(learned) + len(aside) == len(corpus) and len(learned) == int(len(corpus) * 0.75)
    assert (np.concatenate([learned.ids, aside.ids]) == corpus.ids).all()
    assert learned.documents + aside.documents == corpus.documents == 60
    assert len({corpus.fingerprint, learned.fingerprint, aside.fingerprint}) == 3
    whole = Windows(corpus, 1, 20, mask_documents=True, order="sequential")
    late = Windows(corpus.part(200, len(corpus)), 1, 20, mask_documents=True, order="sequential")
    assert content(whole.batch(0, 10)) == content(late.batch(0, 0))


def test_windows_that_cannot_be_had_are_refused(corpus):
    with pytest.raises(DataError, match="too few"):
        Windows(corpus, 2, len(corpus))
    with pytest.raises(DataError, match="at least 1"):
        Windows(corpus, 0, 5)
    with pytest.raises(DataError, match="do not fill"):
        Windows(corpus, 10_000, 5, whole_batches=True)
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(DataError, match="share"):
            corpus.split(share)


def test_an_endless_stream_goes_from_epoch_to_epoch(corpus):
    stream = Windows(corpus, 4, 64, order="shuffled")
    places = [place for _, (_, place) in zip(range(2 * len(stream)), stream.iterate(), strict=False)]
    assert places[len(stream) - 1] == Place(1, 0) and places[-1] == Place(2, 0)
