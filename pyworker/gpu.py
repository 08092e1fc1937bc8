"""Readings of the GPUs that this worker may use, by NVML; NoGpu where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import pynvml

from .wire import signals

T = TypeVar("T")


class NoGpu(msgspec.Struct, frozen=True):
    """There is nothing to read, and why."""

    why: str

    def read(self) -> tuple[signals.GpuReading, ...]:
        return ()

    def names(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        """Nothing was opened."""


class Gpus:
    """Open NVML handles. read() may stall for seconds on a sick GPU: call it off the event loop."""

    def __init__(self, handles: list[tuple[int, Any]]) -> None:
        self._handles = handles

    def names(self) -> tuple[str, ...]:
        return tuple(_text(pynvml.nvmlDeviceGetName(handle)) for _, handle in self._handles)

    def read(self) -> tuple[signals.GpuReading, ...]:
        return tuple(_reading(index, handle) for index, handle in self._handles)

    def close(self) -> None:
        pynvml.nvmlShutdown()


def open_gpus(environ: Mapping[str, str] = os.environ) -> Gpus | NoGpu:
    """The GPUs named by CUDA_VISIBLE_DEVICES, or all."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return NoGpu(str(error))
    handles = [(i, pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        wanted = [part.strip() for part in visible.split(",") if part.strip()]
        uuids = {i: _text(pynvml.nvmlDeviceGetUUID(handle)) for i, handle in handles}
        handles = [
            (i, h) for i, h in handles if any(w == str(i) or (w.startswith("GPU-") and uuids[i].startswith(w)) for w in wanted)
        ]
    if not handles:
        pynvml.nvmlShutdown()
        return NoGpu("no GPU is visible")
    return Gpus(handles)


def _reading(index: int, handle: Any) -> signals.GpuReading:
    memory = _maybe(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    use = _maybe(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    power_mw = _maybe(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    temperature = _maybe(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    return signals.GpuReading(
        index=index,
        name=_maybe(lambda: _text(pynvml.nvmlDeviceGetName(handle))) or "",
        utilization_ratio=None if use is None else int(use.gpu) / 100,
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        temperature_c=None if temperature is None else float(temperature),
        power_w=None if power_mw is None else power_mw / 1000,
    )


def _maybe(ask: Callable[[], T]) -> T | None:
    """A card that does not offer one reading still offers the others."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
