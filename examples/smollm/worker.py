"""A worker that serves a real language model with OpenAI's API. Work units are tokens."""

import os
import sys
from pathlib import Path
from typing import Any

from pyworker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig

SLOTS = int(os.environ.get("SMOLLM_SLOTS", "4"))
DEFAULT_MAX_TOKENS = 256  # what an answer is assumed to take when the client sets no limit
CHARACTERS_PER_TOKEN = 4  # of English


def cost(payload: dict[str, Any]) -> float:
    """Tokens to read and to write: an estimate of the prompt plus the limit of the answer."""
    text = payload.get("prompt") or "".join(str(message.get("content", "")) for message in payload.get("messages", []))
    limit = payload.get("max_completion_tokens") or payload.get("max_tokens") or DEFAULT_MAX_TOKENS
    return len(str(text)) / CHARACTERS_PER_TOKEN + float(limit)


def ask(topic: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Tell me about {topic}."}], "max_tokens": 16}


config = WorkerConfig(
    model_command=[sys.executable, str(Path(__file__).with_name("model_server.py"))],
    model_healthcheck_url="/health",
    slots=SLOTS,
    handlers=[
        HandlerConfig(
            route="/v1/chat/completions",
            allow_parallel_requests=True,
            workload_calculator=cost,
            benchmark_config=BenchmarkConfig(
                dataset=[ask("the sea"), ask("bread"), ask("the moon"), ask("horses")], runs=1, concurrency=SLOTS, do_warmup=False
            ),
        ),
        HandlerConfig(route="/v1/completions", allow_parallel_requests=True, workload_calculator=cost),
        HandlerConfig(route="/v1/models", allow_parallel_requests=True),
    ],
)

if __name__ == "__main__":
    Worker(config).run()
