"""The smallest worker: starts the echo model, checks tickets, forwards two routes."""

import os
import sys
from pathlib import Path

import schemas  # our own; see schemas.py
from pyworker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig

SLOTS = int(os.environ.get("ECHO_SLOTS", "4"))

config = WorkerConfig(
    model_command=[sys.executable, str(Path(__file__).with_name("model_server.py"))],
    model_healthcheck_url="/health",
    slots=SLOTS,
    handlers=[
        HandlerConfig(
            route="/generate",
            allow_parallel_requests=True,
            workload_calculator=schemas.cost,
            benchmark_config=BenchmarkConfig(dataset=[{"prompt": "one two three", "max_tokens": 8}], runs=2, concurrency=SLOTS),
        ),
        HandlerConfig(route="/upload", allow_parallel_requests=True),
    ],
)

if __name__ == "__main__":
    Worker(config).run()
