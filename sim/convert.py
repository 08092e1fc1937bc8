"""From public recordings of inference traffic to traces: python -m sim.convert azure FILE trace.csv.gz

    azure     AzureLLMInferenceTrace_conv.csv azure_conv_2023.csv.gz
    mooncake  conversation_trace.jsonl mooncake_conv.csv.gz [--seed 1] [--prefix-blocks]
    burstgpt  BurstGPT_1.csv burstgpt_week.csv.gz --hours 168 [--from-h 24] [--model GPT-4] [--log-type "API log"]
    servegen  data/language/m-large tenant_week.csv.gz --clients 69 --hours 168 [--seed 1] [--rate 1.5]

A trace is gzip'd CSV with the header t_ms,in_tok,out_tok, in order of time; --from-h and --hours cut a window out of any recording, and
times begin with it. The same input and options give the same file, byte for byte. `sim.traces` reads it, and knows how big a
pool each of the usual ones is played against.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .recordings import azure, burstgpt, mooncake, servegen
from .recordings.requests import RecordingMalformed, Requests
from .traces import HEADER


def write(
    requests: Requests, path: Path, *, from_s: float = 0.0, until_s: float = float("inf"), prefix_blocks: bool = False
) -> int:
    """Write those that come in [from_s, until_s) as a trace; returns how many. Raises ValueError when there is none, OSError."""
    inside = np.flatnonzero((requests.at_s >= from_s) & (requests.at_s < until_s))
    if not len(inside):
        raise ValueError(
            f"no request from {from_s / 3600:g} h on for {(until_s - from_s) / 3600:g} h; the last is at {requests.at_s.max() / 3600:.2f} h"
        )
    order = inside[np.argsort(requests.at_s[inside], kind="stable")]
    at_ms = np.rint((requests.at_s[order] - from_s) * 1000).astype(np.int64)
    columns = [at_ms.tolist(), requests.in_tokens[order].tolist(), requests.out_tokens[order].tolist()]
    header = HEADER
    if prefix_blocks:
        if requests.prefix_blocks is None:
            raise ValueError("this data set does not tell which prompts share blocks")
        columns.append([requests.prefix_blocks[index] for index in order.tolist()])
        header += ",prefix_blocks"
    lines = "".join([",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        file.write(f"{header}\n{lines}".encode("ascii"))
    return len(order)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    from_s, until_s = args.from_h * 3600, (args.from_h + args.hours) * 3600
    try:
        requests = _read(args)
        count = write(requests, args.trace, from_s=from_s, until_s=until_s, prefix_blocks=getattr(args, "prefix_blocks", False))
    except (RecordingMalformed, ValueError, OSError) as error:
        sys.exit(f"sim.convert: {error}")
    print(f"{args.trace}: {count} requests")


def _read(args: argparse.Namespace) -> Requests:
    recording: Path = args.recording
    match args.data_set:
        case "azure":
            return azure.read(recording)
        case "mooncake":
            return mooncake.read(recording, spread_s=args.spread_ms / 1000, seed=args.seed)
        case "burstgpt":
            return burstgpt.read(recording, model=args.model, log_type=args.log_type)
        case _:
            return servegen.read(recording, args.clients, seed=args.seed, rate=args.rate)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("recording", type=Path, help="the file as published; for servegen: the folder of a model")
    common.add_argument("trace", type=Path, help="where to, usually <name>.csv.gz")
    common.add_argument("--from-h", type=float, default=0.0, metavar="H", help="begin so many hours after the recording does")
    common.add_argument("--hours", type=float, default=float("inf"), metavar="H", help="how long; default: to the end")
    parser = argparse.ArgumentParser(
        prog="sim.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sets = parser.add_subparsers(dest="data_set", required=True, metavar="DATA SET")
    sets.add_parser("azure", parents=[common], help="Azure LLM inference traces, 2023 and 2024")
    of_mooncake = sets.add_parser("mooncake", parents=[common], help="Mooncake, FAST'25")
    of_mooncake.add_argument(
        "--spread-ms", type=float, default=mooncake.BATCH_S * 1000, help="published in batches so far apart (default 3000)"
    )
    of_mooncake.add_argument("--seed", type=int, default=1)
    of_mooncake.add_argument(
        "--prefix-blocks", action="store_true", help="a fourth column: which blocks of the prompt are shared"
    )
    of_burstgpt = sets.add_parser("burstgpt", parents=[common], help="BurstGPT")
    of_burstgpt.add_argument("--model", help="only this one: ChatGPT or GPT-4")
    of_burstgpt.add_argument("--log-type", help="only this one: Conversation log or API log")
    of_servegen = sets.add_parser("servegen", parents=[common], help="ServeGen: requests drawn from the statistics of clients")
    of_servegen.add_argument(
        "--clients", type=int, nargs="+", default=[], metavar="N", help="only these; default: all in the folder"
    )
    of_servegen.add_argument("--seed", type=int, default=1)
    of_servegen.add_argument("--rate", type=float, help="thin to so many requests per second on average")
    return parser


if __name__ == "__main__":
    main()
