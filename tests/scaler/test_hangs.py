"""A provider that promises a machine and never brings it."""

import msgspec

from schemas.reasons import Cause
from tests.scaler.story import G1, TEMPLATE, Story, group


class Stuck(Story):
    """Nothing moves at the provider as long as `stuck`."""

    stuck = True

    def _machines_move(self):
        if not self.stuck:
            super()._machines_move()


def test_a_machine_that_never_comes_is_given_up_and_another_one_is_asked_for():
    template = msgspec.structs.replace(TEMPLATE, start_timeout_s=120.0)
    story = Stuck(groups=(group(template=template),), max_workers=2)
    story.asks(80).until(110)
    first = story.ops("create")[0][1]
    assert not story.ops("destroy")
    story.until(140)
    assert story.ops("destroy")[0][1] == first
    memory = story.state.groups[G1]
    assert memory.last_failure.cause is Cause.HANG
    assert "creating: not ready" in memory.last_failure.message
    assert memory.failed_in_row == 0, "no fault of the template's"
    story.stuck = False
    story.until(400)
    assert len(story.ops("create")) > 1
    assert story.ready >= 1
