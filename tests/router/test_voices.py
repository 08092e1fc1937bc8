"""What is said for Vast's workers, and by which router: reports folded, words taken over, words that end."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import voices
from router.voices import FRESH_S, SPEAK_EVERY_S, TAKE_OVER_S, UNKNOWN_AGE_S, Known, SlotsOf, Voice
from schemas.http import FinishedRequest, FinishedRequests, WorkerStatus
from schemas.ids import GroupId, WorkerId
from schemas.reasons import Cause, Phase
from schemas.records import InstanceRecord, WorkerRecord
from schemas.states import WorkerState
from tests.router.fleets import EP, record

NOW, WALL = 1000.0, 1_700_000_000.0
S = WorkerState


def known(**fields) -> Known:
    fields = {"state": "running", "starts": 1, "url": "http://10.0.0.1:80", **fields}
    return Known(worker_id=WorkerId("w1"), endpoint_id=EP, group_id=GroupId(1), **fields)


def status(**fields) -> WorkerStatus:
    """As a ready and idle worker says it."""
    ready = {"version": "1.1.0", "loadtime": 13.5, "max_perf": 200.0, "error_msg": "", "cur_load": 0.0, "cur_perf": 0.0}
    counts = {"num_requests_working": 0, "num_requests_recieved": 0, "url": "http://10.0.0.9:1"}
    return WorkerStatus(id=1, mtoken="t", **{**ready, **counts, **fields})


def report(voice: Voice | None = None, of: Known | None = None, *, router="r1", now=NOW, salt="aa", **fields) -> Voice:
    made = voices.reported(voice, of or known(), status(**fields), router=router, salt=salt, now=now, wall=WALL + now)
    assert made is not None
    return made


def say(voice: Voice, *, router="r1", now=NOW) -> Voice:
    return voices.said(voice, router=router, now=now, wall=WALL + now)


# --- one report ---


def test_a_report_says_what_a_heartbeat_says():
    words = report(of=known(revision=3, template=SlotsOf(slots=2)), cur_load=300.0, num_requests_working=3, cur_perf=50.0).words
    assert (words.state, words.perf, words.slots, words.load) == (S.READY, 200.0, 2, 300.0)
    assert (words.inflight, words.queued) == (2, 1), "more than its slots cannot be at the model"
    assert words.served_units_total == 50.0
    assert words.model_load_s == 13.5
    assert (words.revision, words.url, words.version, words.protocol, words.via) == (
        3,
        "http://10.0.0.1:80",
        "vast/1.1.0",
        0,
        "r1",
    )


def test_the_provider_knows_the_address_better_than_the_worker():
    assert report(of=known(url="")).words.url == "http://10.0.0.9:1"
    assert report(of=known(url=""), url="http://10.0.0.9:1/").words.url == "http://10.0.0.9:1"


@pytest.mark.parametrize(
    "said, state, cause, phase",
    [
        ({}, S.READY, None, None),
        ({"loadtime": 0.0, "max_perf": 0.0}, S.MODEL_LOADING, None, None),
        ({"loadtime": None, "max_perf": None, "error_msg": None}, S.MODEL_LOADING, None, None),
        ({"loadtime": 0.0}, S.MODEL_LOADING, None, None),
        ({"max_perf": 0.0}, S.ERROR, Cause.BENCH_FAILED, Phase.BENCH),
        ({"max_perf": 0.0, "error_msg": "No successful responses from benchmark"}, S.ERROR, Cause.BENCH_FAILED, Phase.BENCH),
        ({"error_msg": "CUDA out of memory"}, S.ERROR, Cause.MODEL_OOM, Phase.SERVE),
        ({"loadtime": 0.0, "max_perf": 0.0, "error_msg": "Traceback"}, S.ERROR, Cause.START_CRASH, Phase.MODEL),
        ({"error_msg": "Healthcheck failed with status: 500"}, S.ERROR, Cause.START_CRASH, Phase.SERVE),
        ({"loadtime": 0.0, "error_msg": "Failed to get Serverless public key after all"}, S.ERROR, Cause.AUTH, Phase.MODEL),
        (
            {"loadtime": 0.0, "error_msg": "Worker Server failed to launch: [Errno 98] address already in use"},
            S.ERROR,
            Cause.PORT_CONFLICT,
            Phase.MODEL,
        ),
    ],
)
def test_ready_is_a_loaded_model_that_was_measured_and_has_no_error(said, state, cause, phase):
    words = report(**said).words
    assert words.state is state
    assert (words.failure.cause if words.failure else None) is cause
    assert (words.failure.phase if words.failure else None) is phase


def test_an_error_keeps_its_time_and_is_short():
    first = report(error_msg="Traceback\n" + "x" * 5000)
    again = report(first, now=NOW + 11, error_msg="Traceback\n" + "x" * 5000)
    assert again.words.failure == first.words.failure, "or every report would be written down as news"
    assert len(first.words.failure.message) < 300
    assert "\n" not in first.words.failure.message
    assert report(again, error_msg="CUDA out of memory").words.failure.cause is Cause.MODEL_OOM


def test_what_a_partial_report_leaves_out_stays():
    whole = report(cur_load=300.0, num_requests_working=1, num_requests_recieved=7, cur_perf=10.0)
    part = WorkerStatus(id=1, mtoken="t", error_msg="boot failed")
    words = voices.reported(whole, known(), part, router="r1", salt="bb", now=NOW + 1, wall=WALL).words
    assert words.state is S.ERROR
    assert (words.boot, words.perf, words.load, words.inflight) == (whole.words.boot, 200.0, 300.0, 1)
    assert (words.requests_total, words.served_units_total) == (7, 10.0)
    nothing = voices.reported(whole, known(), WorkerStatus(id=1, mtoken="t"), router="r1", salt="bb", now=NOW, wall=WALL)
    assert nothing.words == whole.words
    failed = report(error_msg="Traceback")
    later = voices.reported(failed, known(), WorkerStatus(id=1, mtoken="t"), router="r1", salt="bb", now=NOW, wall=WALL)
    assert later.words.state is S.ERROR


@pytest.mark.parametrize(
    "fields, wrong",
    [
        ({}, set()),
        ({"loadtime": None, "num_requests_working": None, "url": None}, set()),
        ({"url": ""}, set()),
        ({"cur_load": -1.0}, {"cur_load"}),
        ({"cur_perf": float("nan")}, {"cur_perf"}),
        ({"max_perf": float("inf"), "loadtime": -0.1}, {"max_perf", "loadtime"}),
        ({"num_requests_working": -1}, {"num_requests_working"}),
        ({"num_requests_recieved": 2**60}, {"num_requests_recieved"}),
        ({"url": "file:///etc/passwd"}, {"url"}),
        ({"url": "http://a b"}, {"url"}),
        ({"url": "http://h:1/path?x"}, {"url"}),
    ],
)
def test_values_that_cannot_be_are_named(fields, wrong):
    assert set(voices.wrong_values(status(**fields))) == wrong


# --- which process ---


@pytest.mark.parametrize(
    "state, starts, start",
    [("running", 2, 2), ("creating", 0, 1), ("starting", 2, 3), ("stopping", 2, None), ("gone", 2, None), ("failed", 1, None)],
)
def test_only_a_process_that_is_supposed_to_run_speaks(state, starts, start):
    assert voices.start_of(known(state=state, starts=starts)) == start
    made = voices.reported(None, known(state=state, starts=starts), status(), router="r1", salt="aa", now=NOW, wall=WALL)
    assert (made is None) == (start is None)


def test_words_of_the_start_before_are_nobodys():
    voice = report(of=known(starts=1))
    assert voices.is_about(voice, known(starts=1))
    assert not voices.is_about(voice, known(starts=2))
    assert not voices.is_about(voice, known(starts=11)), "1 and 11 are no relatives"
    assert not voices.is_about(voice, known(state="stopping"))
    early = report(of=known(state="starting", starts=1))
    assert voices.is_about(early, known(starts=2)), "it spoke before its start was written down"


@pytest.mark.parametrize("news", [{"num_requests_recieved": 2}, {"loadtime": 0.0, "max_perf": 0.0}, {"loadtime": 14.0}])
def test_another_process_in_the_same_place_begins_anew(news):
    voice = report(num_requests_recieved=9, cur_perf=100.0)
    voice = voices.finished(voice, FinishedRequests(worker_id=1, mtoken="t", requests=(FinishedRequest("Success", True),)))
    again = report(voice, salt="bb", cur_perf=5.0, **{"num_requests_recieved": 9, **news}).words
    assert again.boot != voice.words.boot
    assert (again.served_units_total, again.served_total) == (5.0, 0)


def test_outcomes_are_counted_and_refusals_are_not():
    said = ("Success", "Error", "Cancelled", "Rejected", "Rejected", "Success", "")
    voice = voices.finished(
        report(), FinishedRequests(worker_id=1, mtoken="t", requests=tuple(FinishedRequest(one) for one in said))
    )
    old = FinishedRequests(worker_id=1, mtoken="t", request_idxs=(7, 8), success=True)
    words = voices.finished(voice, old).words
    assert (words.served_total, words.failed_total, words.cancelled_total, words.rejected_total) == (4, 1, 1, 0)


# --- when and by whom ---


def test_a_report_is_said_at_once_then_each_second_until_it_is_stale():
    voice = report()
    assert voices.is_due(voice, NOW)
    said_at, seqs, ages = [], [], []
    at = NOW
    while at < NOW + 2 * FRESH_S:
        if voices.is_due(voice, at):
            voice = say(voice, now=at)
            said_at.append(at)
            seqs.append(voice.words.seq)
            ages.append(voice.words.age_s)
        at += 0.25
    assert said_at == [NOW + n * SPEAK_EVERY_S for n in range(int(FRESH_S))]
    assert seqs == sorted(set(seqs))
    assert ages == [at - NOW for at in said_at], "each says how old its ground is"


def test_whoever_hears_newer_words_falls_silent_and_takes_over_when_they_end():
    mine = say(report())
    theirs = say(report(mine, router="r2", now=NOW + 5, num_requests_recieved=3, cur_perf=10.0), router="r2", now=NOW + 5)
    heard = voices.overheard(mine, theirs.words, NOW + 5.01)
    assert heard.words == theirs.words
    assert not voices.is_due(heard, NOW + 5.01 + TAKE_OVER_S - 0.1)
    assert voices.is_due(heard, NOW + 5.01 + TAKE_OVER_S)
    taken = say(heard, router="r1", now=NOW + 8)
    assert (taken.words.via, taken.words.boot) == ("r1", theirs.words.boot)
    assert taken.words.seq > theirs.words.seq
    assert taken.words.age_s == pytest.approx(3.0, abs=0.1)
    assert not voices.is_due(heard, NOW + 5 + FRESH_S + 0.1), "nobody speaks longer than the report is fresh"


def test_old_words_change_nothing():
    voice = say(report(now=NOW + 5), now=NOW + 5)
    older = say(report(now=NOW), router="r2", now=NOW)
    assert voices.overheard(voice, older.words, NOW + 5.1) is voice
    repeated = msgspec.structs.replace(older.words, seq=voice.words.seq + 1, age_s=5.1)
    assert voices.overheard(voice, repeated, NOW + 5.1) is voice, "said later, on older ground"


def test_after_a_restart_the_record_bridges_the_time_to_the_next_report():
    ready = record(1, protocol=0, boot="vast-1-aa", slots=4, version="vast/1.1.0")
    voice = voices.remembered(ready, NOW)
    assert voice is not None
    assert voices.is_about(voice, known())
    assert not voices.is_due(voice, NOW), "another router may be speaking for it"
    assert voices.is_due(voice, NOW + TAKE_OVER_S)
    said = say(voice, now=NOW + TAKE_OVER_S)
    assert (said.words.state, said.words.boot, said.words.slots) == (S.READY, "vast-1-aa", 4)
    assert said.words.age_s == UNKNOWN_AGE_S, "no drain ends on words like these"
    assert not voices.is_due(said, NOW + FRESH_S)
    heard = voices.overheard(said, msgspec.structs.replace(said.words, via="r2", seq=said.words.seq + 1), NOW + 9)
    assert not voices.is_due(heard, NOW + FRESH_S), "two who know nothing do not encourage each other"
    after = report(said, now=NOW + 10, salt="cc", cur_perf=7.0, num_requests_recieved=40).words
    assert (after.boot, after.served_units_total) == ("vast-1-cc", 7.0), "its totals are not known, so they begin anew"


@pytest.mark.parametrize(
    "fields, speaks",
    [
        ({}, True),
        ({"state": S.DRAINING}, True),
        ({"state": S.MODEL_LOADING}, True),
        ({"state": S.ERROR}, False),
        ({"state": S.STOPPED}, False),
        ({"state": S.CREATING}, False),
        ({"protocol": 1}, False),
        ({"boot": ""}, False),
    ],
)
def test_a_record_speaks_for_a_worker_that_could_speak(fields, speaks):
    made: WorkerRecord = record(1, **{"protocol": 0, "boot": "vast-1-aa", **fields})
    assert (voices.remembered(made, NOW) is not None) is speaks


@given(
    st.lists(
        st.tuples(st.sampled_from(["r1", "r2", "r3"]), st.floats(0, 1e6), st.floats(0.9, 11.5), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_amounts_add_up_whichever_router_gets_which_report(reports):
    """Each report is spoken and heard by the others (or only spoken later): nobody's share is lost or counted twice, and the words
    on the bus never go back.
    """
    views: dict[str, Voice | None] = {"r1": None, "r2": None, "r3": None}
    total, requests, at = 0.0, 0, NOW
    said = []
    for router, served, gap_s, repeats in reports:
        at += gap_s
        total, requests = total + served, requests + 1
        voice = say(
            report(views[router], router=router, now=at, cur_perf=served, num_requests_recieved=requests), router=router, now=at
        )
        views[router] = voice
        spoken = [voice.words]
        if repeats:
            views[router] = voice = say(voice, router=router, now=at + 0.5)
            spoken.append(voice.words)
        for words in spoken:
            said.append(words)
            for other in views:
                if other != router:
                    views[other] = voices.overheard(views[other], words, at + 0.51)
    assert said[-1].served_units_total == pytest.approx(total)
    assert said[-1].requests_total == requests
    assert len({words.boot for words in said}) == 1
    assert [words.seq for words in said] == sorted({words.seq for words in said})


def test_the_record_of_an_instance_is_read_in_part():
    whole = InstanceRecord(
        worker_id=WorkerId("w1"),
        endpoint_id=EP,
        group_id=GroupId(1),
        provider="process",
        state="running",
        starts=2,
        mtoken_sha256="ab",
    )
    read = msgspec.json.decode(msgspec.json.encode(whole), type=Known)
    assert (read.worker_id, read.starts, read.mtoken_sha256, read.template) == ("w1", 2, "ab", None)
