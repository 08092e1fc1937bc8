"""The worker that stands beside a model server: checks tickets, queues, forwards, streams, measures, reports.

    from pyworker import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

Configurations written for Vast's PyWorker run with this import in place of theirs. See docs/pyworker.md.
"""

from .config import BenchmarkConfig, HandlerConfig, LogActionConfig, Timeouts, WorkerConfig
from .errors import ConfigError, JsonDataException, PortTaken, SettingsError, WorkerError
from .version import VERSION
from .worker import Worker

__version__ = VERSION

__all__ = [
    "BenchmarkConfig",
    "ConfigError",
    "HandlerConfig",
    "JsonDataException",
    "LogActionConfig",
    "PortTaken",
    "SettingsError",
    "Timeouts",
    "Worker",
    "WorkerConfig",
    "WorkerError",
    "__version__",
]
