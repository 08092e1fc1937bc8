"""Messages of this project. The name is no accident: Corral has a package called schemas too, and neither gets in the other's way."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ask:
    prompt: str
    max_tokens: int = 16
    delay_s: float = 0.0  # per token; 0: the server's own
    stream: bool = False

    @classmethod
    def read(cls, payload: dict[str, Any]) -> "Ask":
        return cls(
            prompt=str(payload.get("prompt", "")),
            max_tokens=min(int(payload.get("max_tokens", 16)), 10_000),
            delay_s=min(float(payload.get("delay_s", 0.0)), 10.0),
            stream=bool(payload.get("stream", False)),
        )


def cost(payload: dict[str, Any]) -> float:
    """Work units of one request: its tokens."""
    return float(Ask.read(payload).max_tokens)
