"""The pool finds the best few without looking at all: as good as looking at all, and never one that is excluded or gone."""

from hypothesis import given
from hypothesis import strategies as st

from router.choose import Ask, expected_wait_s
from router.pool import Pool
from router.view import Standing, Worker, fold_promise
from tests.router.fleets import record

CHANGES = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["put", "take", "out", "back", "suspect"]), st.integers(0, 6)), max_size=80
)


@given(st.lists(st.tuples(st.floats(1, 1000), st.integers(1, 4)), min_size=10, max_size=10), CHANGES, st.sets(st.integers(0, 9)))
def test_the_best_of_the_pool_is_the_best_of_all_that_are_in_it(kinds, changes, excluded):
    pool = Pool()
    workers = [Worker(record(n, perf=perf, slots=slots), tie=n) for n, (perf, slots) in enumerate(kinds)]
    for worker in workers:
        worker.standing = Standing.GOOD
        pool.put(worker)
    ask, names = Ask(3, 10.0, 0.0), {workers[n].id for n in excluded}
    for n, what, load in changes:
        worker = workers[n]
        match what:
            case "put":
                worker.there, worker.there_at = float(load), 0.0
                pool.put(worker)
            case "take" if worker.standing is not Standing.OUT:
                fold_promise(worker, 1, 1.0, 10.0, 0.0)
                pool.took(worker)
            case "out":
                worker.standing = Standing.OUT
                pool.put(worker)
            case "back" | "suspect":
                worker.standing = Standing.GOOD if what == "back" else Standing.SUSPECT
                pool.put(worker)
        for unwanted in (set(), names):
            there = [w for w in workers if w.standing is not Standing.OUT and w.id not in unwanted]
            best = pool.best(ask, unwanted)
            assert (best is None) == (not there)
            if best is not None:
                assert best in there
                assert best.standing == min(w.standing for w in there)
                shortest = min(expected_wait_s(w, 10.0, 0.0) for w in there if w.standing == best.standing)
                assert expected_wait_s(best, 10.0, 0.0) <= shortest + 1e-9
        assert len(pool) == sum(w.standing is not Standing.OUT for w in workers)


def test_superseded_entries_do_not_pile_up():
    pool, worker = Pool(), Worker(record(1), tie=1)
    worker.standing = Standing.GOOD
    for _ in range(10_000):
        pool.put(worker)
    assert len(pool._heap) < 200


def test_equal_workers_share_the_load():
    pool = Pool()
    workers = [Worker(record(n), tie=n * 7919) for n in range(50)]
    for worker in workers:
        worker.standing = Standing.GOOD
        pool.put(worker)
    for salt in range(500):
        chosen = pool.best(Ask(salt, 1.0, 0.0))
        fold_promise(chosen, 1, 1.0, 1.0, 0.0)
        pool.took(chosen)
    assert {worker.promised for worker in workers} == {10}
