"""Promises: what is owed is never negative, and exactly what was promised and not covered, expired or cleared."""

from hypothesis import given
from hypothesis import strategies as st

from router.reservations import Ledger

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("promise"), st.floats(0, 1e6), st.integers(1, 5)),
        st.tuples(st.just("cover"), st.integers(-3, 8)),
        st.tuples(st.just("expire"), st.integers(0, 40)),
        st.just(("clear",)),
    ),
    max_size=40,
)


@given(STEPS)
def test_what_is_owed_is_the_sum_of_open_promises_and_never_negative(steps):
    ledger, model, now = Ledger(), [], 0.0  # model: one (made_at, units) per promised request, oldest first
    for step in steps:
        now += 1.0
        match step:
            case ("promise", units, requests):
                ledger.promise(now, units, requests)
                model += [(now, units / requests)] * requests
            case ("cover", arrived):
                ledger.cover(arrived)
                model = model[max(0, arrived) :]
            case ("expire", age):
                before = len(model)
                model = [(at, units) for at, units in model if at >= now - age]
                assert ledger.expire(now - age) == (len(model) != before)
            case ("clear",):
                ledger.clear()
                model = []
        assert ledger.requests == len(model) >= 0
        assert ledger.own_units >= 0
        assert abs(ledger.own_units - sum(units for _, units in model)) <= 1e-6 * (1 + sum(units for _, units in model)) + 1e-3


def test_an_empty_ledger_owes_exactly_nothing():
    ledger = Ledger()
    for units in (0.1, 0.2, 0.3):
        ledger.promise(1.0, units)
    ledger.cover(3)
    assert (ledger.requests, ledger.own_units) == (0, 0.0)
