"""The tree of commands."""

from __future__ import annotations

import typer

from . import apply, call, doctor, endpoint, events, explain, group, key, replay, worker
from . import up as up_commands

#: Vast writes --min_load where we write --min-load: both are understood, everywhere.
CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": lambda token: token.replace("_", "-")}

app = typer.Typer(
    name="corral",
    help="A serverless GPU control plane that you run yourself.",
    no_args_is_help=True,
    context_settings=CONTEXT,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Where is the control plane? --url, else CORRAL_URL, else the `corral up` of the data directory. The key likewise.",
)

for part in (up_commands, apply, endpoint, group, worker, call, events, explain, replay, key, doctor):
    part.add(app)


@app.callback()
def root() -> None:
    pass
