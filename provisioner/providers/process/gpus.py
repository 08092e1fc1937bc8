"""Who has which GPU. A GPU belongs to one worker while that worker is hot."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import pynvml
import structlog

log = structlog.get_logger()

_GB = 1e9


class Gpu(msgspec.Struct, frozen=True):
    index: int  #: by bus position, as NVML counts
    name: str
    memory_gb: float


def inventory() -> tuple[Gpu, ...]:
    """The GPUs NVML sees now; none when there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_read(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        log.warning("gpu_inventory_failed", error=str(error))
        return ()
    finally:
        pynvml.nvmlShutdown()


def choose(gpus: Sequence[Gpu], taken: Collection[int], count: int, at_least_gb: float | None) -> tuple[Gpu, ...] | None:
    """`count` free GPUs of one kind, the smallest that will do; None when there are not enough."""
    if count == 0:
        return ()
    free = [gpu for gpu in gpus if gpu.index not in taken and gpu.memory_gb >= (at_least_gb or 0.0)]
    kinds: dict[str, list[Gpu]] = {}
    for gpu in sorted(free, key=lambda gpu: (gpu.memory_gb, gpu.index)):
        kinds.setdefault(gpu.name, []).append(gpu)
    return next((tuple(kind[:count]) for kind in kinds.values() if len(kind) >= count), None)


def _read(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(index, name if isinstance(name, str) else name.decode(), memory_bytes / _GB)
