"""The scaler: waits for the lease, leads for as long as it has it, and waits again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from runtime.bus import Bus
from runtime.errors import BusError, Conflict
from runtime.lease import Lease, LeaseTimes
from schemas import subjects

from .clock import SteadyClock
from .metrics import Metrics
from .reign import Reign
from .settings import ScalerSettings

log = structlog.get_logger()

INSTALLATION_KEY = "installation"
_AGAIN_S = 1.0


class Scaler:
    """Keeps endpoints at their wanted size. Cancel run() to stop it: the lease is given back and nothing outlives it.

    `owner` must be unique among all scalers that ever run at the same time; `installation` is used the first time this
    installation has a scaler, and remembered then.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        settings: ScalerSettings,
        owner: str,
        installation: str,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        metrics: Metrics,
        lease_times: LeaseTimes = LeaseTimes(),  # noqa: B008 -- frozen
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._installation = installation
        self._now = now
        self._monotonic = monotonic
        self._metrics = metrics
        self._lease = Lease(
            bus.bucket(subjects.BUCKET_LEASE), subjects.lease_key(settings.lease), owner, times=lease_times, monotonic=monotonic
        )

    @property
    def leads(self) -> bool:
        return self._lease.held

    def trouble(self) -> str:
        """For /readyz: "" while it leads or stands by."""
        return "" if self._bus.connected else "no connection to NATS"

    async def run(self) -> None:
        try:
            while True:
                await self._lease.acquire()
                self._metrics.leading.set(1)
                try:
                    await self._lead()
                finally:
                    self._metrics.leading.set(0)
        finally:
            await self._lease.release()

    async def _lead(self) -> None:
        """Until the lease is lost, or what we know turns out to be out of date."""
        policy = None
        with contextlib.suppress(BusError):
            policy = self._settings.policy(await self._installation_id())
        if policy is None:
            await asyncio.sleep(_AGAIN_S)
            return
        reign = Reign(
            bus=self._bus,
            settings=self._settings,
            policy=policy,
            lease=self._lease,
            now=SteadyClock(self._now, self._monotonic),
            monotonic=self._monotonic,
            metrics=self._metrics,
        )
        leading = asyncio.create_task(reign.run(), name="reign")
        keeping = asyncio.create_task(self._lease.keep(), name="lease")
        try:
            await asyncio.wait({leading, keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leading, keeping):
                task.cancel()
            await asyncio.gather(leading, keeping, return_exceptions=True)
        self._explain(leading)
        # The memory is read again from the beginning: shorter than to find out what of ours still holds.
        await self._lease.release()
        await asyncio.sleep(_AGAIN_S)

    @staticmethod
    def _explain(leading: asyncio.Task[None]) -> None:
        """Raises what is no fault of the bus: a bug must be seen, not repeated."""
        if leading.cancelled():
            log.warning("reign_ended", reason="the lease was lost")
            return
        error = leading.exception()
        if error is None:
            return
        rest = error
        if isinstance(error, BaseExceptionGroup):
            expected, unexpected = error.split((BusError, TimeoutError))
            if unexpected is not None:
                raise unexpected
            rest = expected.exceptions[0] if expected is not None else error
        elif not isinstance(error, BusError | TimeoutError):
            raise error
        log.warning("reign_ended", reason=str(rest), kind=type(rest).__name__)

    async def _installation_id(self) -> str:
        """The same for ever: whoever comes first writes it. Raises BusError."""
        bucket = self._bus.bucket(subjects.BUCKET_SCALER)
        with contextlib.suppress(Conflict):
            await bucket.create(INSTALLATION_KEY, self._installation.encode())
        entry = await bucket.get(INSTALLATION_KEY)
        return entry.data.decode() if entry is not None else self._installation
