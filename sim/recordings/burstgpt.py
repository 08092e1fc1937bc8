"""BurstGPT (HPMLL/BurstGPT; CC-BY): four months of ChatGPT and GPT-4 at a university.

CSV with Timestamp (seconds since the first midnight), Model, Request tokens, Response tokens, Total tokens, Log Type.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .csv_table import rows
from .requests import RecordingMalformed, Requests, number_of, tokens_of

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Log Type")


def read(path: Path, *, model: str | None = None, log_type: str | None = None) -> Requests:
    """Without requests that failed: those have no response tokens. `model`: ChatGPT or GPT-4; `log_type`: Conversation log or API log;
    None: both. Raises RecordingMalformed, OSError.
    """
    at, came_in, went_out = [], [], []
    models, log_types = set(), set()
    for where, (timestamp, of_model, request, response, of_log) in rows(path, COLUMNS):
        models.add(of_model)
        log_types.add(of_log)
        out_tokens = tokens_of(response, where, "Response tokens")
        if out_tokens and model in {None, of_model} and log_type in {None, of_log}:
            at.append(number_of(timestamp, where, "Timestamp"))
            came_in.append(tokens_of(request, where, "Request tokens"))
            went_out.append(out_tokens)
    if not at:
        there = f"models: {', '.join(sorted(models)) or 'none'}; log types: {', '.join(sorted(log_types)) or 'none'}"
        raise RecordingMalformed(f"{path}: no request that was answered and fits ({there})")
    return Requests(np.array(at), np.array(came_in, np.int64), np.array(went_out, np.int64))
