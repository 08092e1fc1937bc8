"""Machines that people bring belong to them, also in a group that buys others by itself."""

import pytest

from scaler import observations
from schemas.ids import WorkerId
from schemas.records import InstanceRecord
from schemas.signals import Heartbeat
from schemas.states import WorkerState
from tests.scaler.story import EP, G1, T0, Story

WID = WorkerId("w77")


def brought(story):
    record = InstanceRecord(
        worker_id=WID, endpoint_id=EP, group_id=G1, provider="external", state="running", created_at=story.now, state_at=story.now
    )
    story.fold(observations.InstanceSeen(at=story.now, worker_id=WID, instance=record))


def beats(story, seconds):
    """It is ready and has nothing to do."""
    for seq in range(seconds):
        story.until(story.now - T0 + 1)
        beat = Heartbeat(
            worker_id=WID,
            endpoint_id=EP,
            group_id=G1,
            boot="b",
            seq=seq + 1,
            sent_at=story.now,
            state=WorkerState.READY,
            perf=100.0,
            slots=4,
        )
        story.fold(observations.HeartbeatSeen(at=story.now, heartbeat=beat))


@pytest.mark.parametrize("is_up", [False, True])
def test_nobody_ends_it_however_little_there_is_to_do(is_up):
    story = Story(min_load=0, max_workers=5, inactivity_timeout=10)
    story.until(20)
    brought(story)
    if is_up:
        beats(story, 120)
    else:
        story.until(140)
    assert [(op, worker) for _, op, worker, _ in story.commands if worker == WID] == []
    assert [told for told in story.told if told[2] == WID] == []
