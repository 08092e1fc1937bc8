"""Vast's own PyWorker (`pip install vastai`), unchanged, in front of the echo model. Nothing in this file knows of Corral."""

import os
import subprocess
import sys
from pathlib import Path

from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

MODEL = Path(__file__).parents[1] / "echo" / "model_server.py"
HOME = Path(os.environ.get("CORRAL_STATE_DIR", "."))

# It keeps its benchmark (.has_benchmark) in the current directory, so each worker needs one of its own.
os.chdir(HOME)
# And it reads the model's log from the beginning: what a former start wrote there would make it ready before its model is.
log = Path("model.log").resolve()
model = subprocess.Popen([sys.executable, str(MODEL)], stdout=log.open("wb"), stderr=subprocess.STDOUT)

config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=int(os.environ["MODEL_PORT"]),
    model_log_file=str(log),
    # Without it, ready is said ten seconds later.
    model_healthcheck_url="/health",
    log_action_config=LogActionConfig(on_load=["echo model loaded"], on_error=["Traceback (most recent call last)"]),
    handlers=[
        HandlerConfig(
            route="/generate",
            allow_parallel_requests=True,
            workload_calculator=lambda payload: float(payload.get("max_tokens", 16)),
            benchmark_config=BenchmarkConfig(dataset=[{"prompt": "one two three", "max_tokens": 8}], runs=2, concurrency=4),
        )
    ],
)

if __name__ == "__main__":
    try:
        Worker(config).run(host="127.0.0.1")
    finally:
        model.terminate()
