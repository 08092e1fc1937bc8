"""The bridge for workers that report over HTTP: knows who they are, keeps what they said, and says it on the bus (see voices).

Who reports as a worker shows the token that the provisioner gave it (MASTER_TOKEN); its hash is in the worker's instance record, so no
secret is shared and nobody is asked. With NATS away reports are taken all the same, and told when it is back.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable

import structlog

from runtime.bus import Bus
from runtime.errors import BusError
from schemas import codec, subjects
from schemas.http import FinishedRequests, WorkerStatus
from schemas.ids import WorkerId
from schemas.records import WorkerRecord
from schemas.signals import Heartbeat
from schemas.states import WorkerState

from . import voices
from .voices import Known, Voice

log = structlog.get_logger()

#: How often voices are looked at besides at once after a report.
LOOK_EVERY_S = 0.25
LOG_EVERY_S = 1.0
_NOBODY = "0" * 64  #: no token has this hash


class Bridge:
    """`now` is unix s, `monotonic` never goes back."""

    def __init__(self, bus: Bus, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._bus = bus
        self._now = now
        self._monotonic = monotonic
        self._known: dict[WorkerId, Known] = {}
        self._voices: dict[WorkerId, Voice] = {}
        self._reported = asyncio.Event()
        self._logged_at = float("-inf")
        self.reports: dict[str, int] = {}  #: outcome -> how many

    @property
    def speaks_for(self) -> int:
        """Workers whose heartbeat this router says now."""
        now = self._monotonic()
        mine = self._bus.name
        return sum(voice.words.via == mine and now < voice.fresh_until for voice in self._voices.values())

    # --- facts, from the feeds ---

    def instance(self, worker_id: WorkerId, known: Known | None) -> None:
        """The provisioner wrote about a worker; None: its record is gone."""
        if known is None:
            self._known.pop(worker_id, None)
        else:
            self._known[worker_id] = known
        voice = self._voices.get(worker_id)
        if voice is not None and (known is None or not voices.is_about(voice, known)):
            del self._voices[worker_id]

    def worker(self, record: WorkerRecord) -> None:
        """The scaler wrote about a worker."""
        if record.worker_id not in self._voices:
            voice = voices.remembered(record, self._monotonic())
            if voice is not None:
                self._voices[record.worker_id] = voice
        elif record.state is WorkerState.GONE:
            del self._voices[record.worker_id]

    def worker_gone(self, worker_id: WorkerId) -> None:
        """Its record was removed."""
        self._voices.pop(worker_id, None)

    def overheard(self, words: Heartbeat) -> None:
        """Another router spoke for a worker."""
        self._voices[words.worker_id] = voices.overheard(self._voices.get(words.worker_id), words, self._monotonic())

    # --- reports, over HTTP ---

    def who(self, worker_id: WorkerId, token: str) -> Known | None:
        """The worker, if this is its token. Takes as long for a wrong token as for a worker that does not exist."""
        known = self._known.get(worker_id)
        expected = (known.mtoken_sha256 if known is not None else "") or _NOBODY
        shown = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        return known if hmac.compare_digest(shown, expected) else None

    def report(self, known: Known, report: WorkerStatus) -> bool:
        """Say on the bus what the worker reported; the caller has checked who it is and its values. False when it is not supposed
        to run, so that its words mean nothing.
        """
        before = self._voices.get(known.worker_id)
        voice = voices.reported(
            before,
            known,
            report,
            router=self._bus.name,
            salt=secrets.token_hex(4),
            now=self._monotonic(),
            wall=self._now(),
        )
        if voice is None:
            self.count("late")
            return False
        self._voices[known.worker_id] = voice
        self._reported.set()
        self.count("taken")
        was = before.words.state if before is not None else None
        if was is not voice.words.state:
            failure = voice.words.failure
            log.info(
                "vast_worker_reports",
                worker=known.worker_id,
                state=voice.words.state,
                before=was,
                cause=failure.cause if failure is not None else None,
            )
        return True

    def finished(self, known: Known, report: FinishedRequests) -> None:
        """Count outcomes."""
        voice = self._voices.get(known.worker_id)
        if voice is not None:
            self._voices[known.worker_id] = voices.finished(voice, report)

    def refused(self, worker_id: WorkerId) -> None:
        """Somebody who is not this worker reported as it."""
        self.count("refused")
        if self._monotonic() >= self._logged_at + LOG_EVERY_S:
            self._logged_at = self._monotonic()
            log.warning("worker_report_refused", worker=worker_id, total=self.reports["refused"])

    def count(self, outcome: str) -> None:
        self.reports[outcome] = self.reports.get(outcome, 0) + 1

    # --- on the bus ---

    async def speak(self) -> None:
        """Say what is due, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._reported.wait()
            except TimeoutError:
                pass
            self._reported.clear()
            if not self._bus.connected:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            now = self._monotonic()
            for worker_id, voice in list(self._voices.items()):
                known = self._known.get(worker_id)
                if voices.is_due(voice, now) and known is not None and voices.is_about(voice, known):
                    await self._say(worker_id)

    async def _say(self, worker_id: WorkerId) -> None:
        voice = self._voices.get(worker_id)
        if voice is None:
            return  # it went while another was spoken for
        voice = self._voices[worker_id] = voices.said(voice, router=self._bus.name, now=self._monotonic(), wall=self._now())
        words = voice.words
        try:
            await self._bus.publish(subjects.heartbeat(words.endpoint_id, words.worker_id), codec.encode(words))
        except BusError as error:
            log.info("heartbeat_not_said", worker=worker_id, error=str(error))
