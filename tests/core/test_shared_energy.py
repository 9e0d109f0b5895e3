"""Energy of work that several do at once: shares add up to what was spent, and idling is nobody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.meters.energy import Joules
from steelyard.core.meters.shared_energy import SharedEnergy, Stretches


class Work:
    """A piece of work whose progress a test sets."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self) -> int:
        return self.tokens


class Spent:
    """Energy as a test says it was spent."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self, idle: bool) -> Joules:
        spent, self.now = self.now, 0.0
        return Joules(spent, 2 * spent, "modelled")


def test_whoever_runs_alone_is_charged_all_and_those_together_by_their_tokens() -> None:
    spent, first, second = Spent(), Work(), Work()
    energy = SharedEnergy(spent)
    spent.now = 100.0  # nobody works: nobody pays
    one = energy.begin(first)
    spent.now, first.tokens = 10.0, 5
    two = energy.begin(second)
    spent.now, first.tokens, second.tokens = 8.0, 8, 1
    energy.end(one)
    spent.now, second.tokens = 4.0, 2
    energy.end(two)
    assert (one.low, one.high, one.source, one.shared) == (10 + 6, 32, "modelled", True)
    assert (two.low, two.shared) == (2 + 4, True)
    spent.now = 5.0
    assert energy.end(one).low == 16, "what has ended is charged nothing more"
    alone = energy.begin(Work())
    assert not energy.end(alone).shared and alone.low == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.floats(0, 100)), min_size=1, max_size=40))
def test_shares_add_up_to_what_was_spent_while_somebody_worked(steps: list[tuple[int, int, float]]) -> None:
    spent = Spent()
    energy, works, accounts, paid = SharedEnergy(spent), [Work() for _ in range(4)], {}, []
    for who, tokens, joules in steps:
        spent.now += joules if accounts else 0.0
        works[who].tokens += tokens if who in accounts else 0
        if who in accounts:
            works[who].tokens += 1  # each stretch ends with some progress, so that nothing stays unpaid
            paid.append(energy.end(accounts.pop(who)))
        else:
            accounts[who] = energy.begin(works[who])
    total = sum(account.low for account in (*paid, *accounts.values()))
    charged_twice = [account for account in paid if account.low * 2 != pytest.approx(account.high)]
    assert total <= sum(joules for _, _, joules in steps) + 1e-6 and not charged_twice
    assert all(account.low >= 0 for account in paid)


def test_a_stretch_of_this_process_is_a_range_with_its_source() -> None:
    stretches = Stretches()
    sum(number * number for number in range(200_000))
    joules = stretches(False)
    assert 0 < joules.low <= joules.high and joules.source
    if joules.source == "modelled":
        assert joules.high / joules.low == pytest.approx(11.9 / 2.76), "busy time alone is charged"
