"""Sessions of browsers: known to every server over one database, for as long as they last, their users' keys hold, and nobody ends them."""

from __future__ import annotations

import sqlalchemy as sa

from steelyard.serve.report_sessions import NAME, ReportSessions
from steelyard.serve.store import tables
from steelyard.serve.store.sessions import MOST, Sessions
from steelyard.serve.store.store import Store
from steelyard.serve.users import Keys, digest_of
from tests.serve.stores import ANN, BOB

KEYS = Keys.of({ANN: digest_of("key-of-ann-key-of-ann"), BOB: digest_of("key-of-bob-key-of-bob")}, None).by_name


def test_a_session_that_one_server_opened_is_known_to_the_other(place: str) -> None:
    with Store(place) as first, Store(place) as second:
        one, other = (ReportSessions(store.sessions, KEYS, 600) for store in (first, second))
        cookie = f"other=1; {NAME}={one.open(ANN)}"
        assert one.user(cookie) == other.user(cookie) == ANN
        for nobodys in ("", f"{NAME}=", f"{NAME}=guess", f"{NAME}=\ud800", 'a="; steelyard_reports', "=;=;"):
            assert other.user(nobodys) is None
        other.close(BOB)
        assert one.user(cookie) == ANN
        other.close(ANN)
        assert one.user(cookie) is None


def test_sessions_end_by_themselves_and_do_not_gather(store: Store) -> None:
    time = 1_000_000_000
    sessions = Sessions(store.database, clock=lambda: time)
    first, others = sessions.open(ANN, KEYS[ANN], 10), sessions.open(BOB, KEYS[BOB], 10)
    assert sessions.user(first, KEYS) == ANN
    time += 9_000_000
    for _ in range(MOST):
        sessions.open(ANN, KEYS[ANN], 10)
    assert sessions.user(first, KEYS) is None, "the one that ends first went for a new one"
    assert sessions.user(others, KEYS) == BOB, "somebody else's did not"
    time += 20_000_000
    last = sessions.open(BOB, KEYS[BOB], 10)
    assert sessions.user(others, KEYS) is None and sessions.user(last, KEYS) == BOB
    with store.database.reading() as connection:
        (row,) = connection.execute(sa.select(tables.sessions)).all()
    assert row.owner == BOB and last not in tuple(row)


def test_a_session_ends_with_the_key_it_was_opened_with(store: Store) -> None:
    token = store.sessions.open(ANN, KEYS[ANN], 600)
    assert store.sessions.user(token, KEYS) == ANN
    assert store.sessions.user(token, {BOB: KEYS[BOB]}) is None, "ann has gone"
    assert store.sessions.user(token, KEYS | {ANN: KEYS[BOB]}) is None, "ann has another key"
