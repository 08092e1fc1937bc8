"""Who is alive, by arrival times on the monotonic clock.

    alive --3.5 s silent--> suspect --10 s silent--> lost          while others are heard
      ^                        |                       |
      +-----a heartbeat--------+-----------------------+

    live --all who spoke a moment ago fall silent at once--> frozen --anybody is heard--> live
    live --our own connection is down------------------------> deaf --connected again---> live

Silence of all is our network, not their death: while frozen or deaf nobody is judged, and afterwards everybody's clock starts
anew. Workers do not speak in step, so the first of all to fall silent looks for a moment as if it were alone: nobody is judged
while not one of the others was heard for longer than an interval. One worker alone cannot be told from the network by its silence; it is judged only while the bus is seen to carry something.
"""

from __future__ import annotations

import msgspec

from schemas.ids import EndpointId, WorkerId

from .types import Liveness, Telemetry

SUSPECT_S = 3.5
LOST_S = 10.0
#: Heartbeats that ended within this time of each other ended at once: one interval, its jitter, and a grain of ours.
AT_ONCE_S = 2.5
#: An interval and its jitter: nobody heard for longer may be the begin of a silence of all.
HUSH_S = 1.5
#: A new leader listens this long at most before it acts.
WARM_S = 5.0

_SPEAKING = frozenset({Liveness.ALIVE, Liveness.SUSPECT})


class Judgement(msgspec.Struct, frozen=True):
    """One worker's liveness changed."""

    endpoint_id: EndpointId
    worker_id: WorkerId
    liveness: Liveness
    silent_s: float


class _Pulse(msgspec.Struct):
    endpoint_id: EndpointId
    heard_at: float
    liveness: Liveness
    heard: bool = False  #: by ourselves, not only by the leader before us


class Vigil:
    """Watches everybody's pulse. Times are seconds of one monotonic clock, handed in."""

    def __init__(self, now: float) -> None:
        self._pulses: dict[WorkerId, _Pulse] = {}
        self._began_at = now
        self._carried_at = now  # the bus brought something
        self._judged_at = now
        self.telemetry = Telemetry.WARMING

    def expect(self, worker_id: WorkerId, endpoint_id: EndpointId, now: float, *, spoke: bool = False) -> None:
        """It will speak. With `spoke` it did so to the leader before us, and its silence counts from now on."""
        if worker_id not in self._pulses:
            self._pulses[worker_id] = _Pulse(endpoint_id, now, Liveness.ALIVE if spoke else Liveness.UNHEARD)

    def forget(self, worker_id: WorkerId) -> None:
        """It is not expected to speak any more."""
        self._pulses.pop(worker_id, None)

    def heard(self, worker_id: WorkerId, now: float) -> None:
        """It spoke. Only who is expected has a pulse."""
        self._carried_at = now
        pulse = self._pulses.get(worker_id)
        if pulse is not None:
            pulse.heard_at = now
            pulse.liveness = Liveness.ALIVE
            pulse.heard = True

    def carried(self, now: float) -> None:
        """The bus brought something that is no heartbeat: a router's report, an echo."""
        self._carried_at = now

    @property
    def speakers(self) -> int:
        """How many speak, or did until a moment ago."""
        return sum(1 for pulse in self._pulses.values() if pulse.liveness in _SPEAKING)

    def judge(self, now: float, *, connected: bool) -> tuple[Judgement, ...]:
        """Bring `telemetry` up to date and say whose liveness changed for the worse (who speaks is alive without judgement)."""
        before = self.telemetry
        was_asleep = now - self._judged_at >= SUSPECT_S  # we stood still, not they
        self._judged_at = now
        if was_asleep or (connected and before is Telemetry.DEAF):
            self._start_anew(now)
        self.telemetry = self._telemetry(now, connected=connected)
        if before is Telemetry.FROZEN and self.telemetry is not before:
            self._start_anew(now)
        if self.telemetry is not Telemetry.LIVE or self._fell_silent(now, HUSH_S):
            return ()
        is_carrying = now - self._carried_at < SUSPECT_S
        found = []
        for worker_id, pulse in self._pulses.items():
            silent_s = now - pulse.heard_at
            if silent_s < SUSPECT_S or pulse.liveness in (Liveness.UNHEARD, Liveness.LOST) or not is_carrying:
                continue
            worse = Liveness.LOST if silent_s >= LOST_S else Liveness.SUSPECT
            if worse is not pulse.liveness:
                pulse.liveness = worse
                found.append(Judgement(pulse.endpoint_id, worker_id, worse, silent_s))
        return tuple(found)

    def _telemetry(self, now: float, *, connected: bool) -> Telemetry:
        if not connected:
            return Telemetry.DEAF
        if self.telemetry is Telemetry.WARMING and not self._is_warm(now):
            return Telemetry.WARMING
        return Telemetry.FROZEN if self._fell_silent(now, SUSPECT_S) else Telemetry.LIVE

    def _is_warm(self, now: float) -> bool:
        everybody_heard = all(pulse.heard for pulse in self._pulses.values() if pulse.liveness is not Liveness.UNHEARD)
        return everybody_heard or now - self._began_at >= WARM_S

    def _fell_silent(self, now: float, silent_s: float) -> bool:
        """All who spoke a moment ago, at least two, at once and for so long."""
        heard = [pulse.heard_at for pulse in self._pulses.values() if pulse.liveness in _SPEAKING]
        if not heard:
            return False
        last_at = max(heard)
        if now - last_at < silent_s:
            return False
        return sum(1 for at in heard if last_at - at <= AT_ONCE_S) >= 2

    def _start_anew(self, now: float) -> None:
        for pulse in self._pulses.values():
            if pulse.liveness is not Liveness.LOST:
                pulse.heard_at = now
