"""ServeGen's clients (alibaba/ServeGen, data/<category>/<model>; Apache-2.0): statistics of real customers, not their requests.

A folder has two files per client. `chunk-<client>-trace.csv` gives for each window of time, without a header,

    start s, requests/s, coefficient of variation of the gaps, Gamma | Weibull | nothing, shape, scale

and `chunk-<client>-dataset.json` the distribution of lengths from a time on: {"0": {"input_tokens": "{12: 0.5, ...}", "output_tokens": ...}},
each a Python dictionary of tokens and probabilities in quotes.

Requests are drawn from that: as many in a window as its rate says, with gaps of the given shape, lengths independent. So rates,
burstiness within a window and lengths are a customer's own; single arrivals are not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .requests import RecordingMalformed, Requests, number_of

#: Length of a client's last window.
WINDOW_S = 600.0

_Floats = NDArray[np.float64]


class _Window(NamedTuple):
    start_s: float
    rate: float
    shape_name: str  #: empty: nothing came
    shape: float


class _Lengths(NamedTuple):
    tokens: NDArray[np.int64]
    probability: _Floats

    def draw(self, count: int, random: np.random.Generator) -> NDArray[np.int64]:
        return np.asarray(random.choice(self.tokens, size=count, p=self.probability), dtype=np.int64)


def clients(folder: Path) -> list[int]:
    """Numbers of the clients in the folder. Raises RecordingMalformed when there is none."""
    matches = [re.fullmatch(r"chunk-(\d+)-trace\.csv", path.name) for path in folder.glob("chunk-*-trace.csv")]
    found = sorted(int(match[1]) for match in matches if match)
    if not found:
        raise RecordingMalformed(f"{folder}: no chunk-<client>-trace.csv in it; give a folder such as data/language/m-large")
    return found


def read(folder: Path, only: Collection[int] = (), *, seed: int = 1, rate: float | None = None) -> Requests:
    """Requests of these clients, of all when none is named. `rate`: thinned at random to so many per second on average.

    Raises RecordingMalformed, OSError, and ValueError when there are fewer requests than `rate` asks for.
    """
    there = clients(folder)
    missing = sorted(set(only) - set(there))
    if missing:
        raise RecordingMalformed(f"{folder}: no client {', '.join(map(str, missing))}; there are {', '.join(map(str, there))}")
    drawn = [_draw(folder, client, seed) for client in (sorted(set(only)) or there)]
    at_s, came_in, went_out = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    if not len(at_s):
        raise RecordingMalformed(f"{folder}: these clients never asked for anything")
    if rate is not None:
        span_s = WINDOW_S * np.ceil((at_s.max() + 1e-9) / WINDOW_S)
        share = rate * span_s / len(at_s)
        if share > 1:
            raise ValueError(f"{len(at_s) / span_s:.3g} requests per second are there, {rate:g} are asked for")
        keep = np.random.default_rng((seed, 0, 1)).random(len(at_s)) < share
        at_s, came_in, went_out = at_s[keep], came_in[keep], went_out[keep]
    return Requests(at_s, came_in, went_out)


def _draw(folder: Path, client: int, seed: int) -> tuple[_Floats, NDArray[np.int64], NDArray[np.int64]]:
    windows = _windows(folder / f"chunk-{client}-trace.csv")
    lengths = _lengths(folder / f"chunk-{client}-dataset.json")
    random = np.random.default_rng((seed, client, 0))
    ends_s = [later.start_s for _, later in pairwise(windows)] + [windows[-1].start_s + WINDOW_S]
    at, came_in, went_out = [np.empty(0)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for window, end_s in zip(windows, ends_s, strict=True):
        arrivals_s = _arrivals_s(window, end_s - window.start_s, random)
        starts = [start_s for start_s in lengths if start_s <= window.start_s] or [min(lengths)]
        of_input, of_output = lengths[max(starts)]
        at.append(window.start_s + arrivals_s)
        came_in.append(of_input.draw(len(arrivals_s), random))
        went_out.append(of_output.draw(len(arrivals_s), random))
    return np.concatenate(at), np.concatenate(came_in), np.concatenate(went_out)


def _arrivals_s(window: _Window, length_s: float, random: np.random.Generator) -> _Floats:
    """Times within the window: the number that the rate says, and the gaps stretched to fill the window."""
    count = round(window.rate * length_s)
    if not window.shape_name or not count:
        return np.empty(0)
    draw = random.gamma if window.shape_name == "Gamma" else random.weibull
    gaps = np.maximum(draw(window.shape, size=count + 1), 1e-12)
    return np.asarray(np.cumsum(gaps)[:-1] / gaps.sum() * length_s, dtype=np.float64)


def _windows(path: Path) -> list[_Window]:
    found = []
    for number, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), 1):
        where, parts = f"{path}, line {number}", [part.strip() for part in line.split(",")]
        if len(parts) != 6:
            raise RecordingMalformed(f"{where}: {len(parts)} values, not 6 (start, rate, cv, shape's name, shape, scale)")
        start, rate, _, name, shape, _ = parts
        if name not in {"", "Gamma", "Weibull"}:
            raise RecordingMalformed(f"{where}: gaps are Gamma or Weibull or not given, found {name[:40]!r}")
        of_shape = number_of(shape, where, "shape", least=1e-6) if name else 1.0
        of_rate = number_of(rate, where, "rate") if name else 0.0
        found.append(_Window(number_of(start, where, "start"), of_rate, name, of_shape))
    if not found or any(later.start_s <= earlier.start_s for earlier, later in pairwise(found)):
        raise RecordingMalformed(f"{path}: windows must be in order of time, and at least one")
    return found


def _lengths(path: Path) -> dict[float, tuple[_Lengths, _Lengths]]:
    """From which second on: (of prompts, of answers)."""
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, str]])
    except msgspec.DecodeError as error:
        raise RecordingMalformed(f"{path}: must be JSON, from a time on: field: distribution in quotes: {error}") from None
    found = {}
    for start, fields in raw.items():
        where = f"{path}, from {start}"
        missing = {"input_tokens", "output_tokens"} - set(fields)
        if missing:
            raise RecordingMalformed(f"{where}: no {', '.join(sorted(missing))}")
        pair = (_distribution(fields["input_tokens"], where), _distribution(fields["output_tokens"], where))
        if pair[0] is not None and pair[1] is not None:
            found[number_of(start, where, "start")] = (pair[0], pair[1])
    if not found:
        raise RecordingMalformed(f"{path}: not a single distribution of lengths")
    return found


def _distribution(text: str, where: str) -> _Lengths | None:
    """None when it is empty: nothing came then."""
    try:
        pairs = ast.literal_eval(text)
        tokens = np.array([int(token) for token in pairs], np.int64)
        weight = np.array([float(share) for share in pairs.values()])
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError):
        raise RecordingMalformed(
            f"{where}: a distribution must be a dictionary of tokens and probabilities, found {text[:40]!r}"
        ) from None
    if not len(tokens):
        return None
    if weight.min() < 0 or weight.sum() <= 0 or tokens.min() < 0:
        raise RecordingMalformed(f"{where}: probabilities and tokens must not be negative, nor all probabilities zero")
    return _Lengths(tokens, weight / weight.sum())
