"""`corral doctor` and `corral version`"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from corral import __version__
from corral import doctor as examination
from corral.datadir import locate

from .command import Session, command

_MARK = {"ok": ("✓", "green"), "note": ("-", "yellow"), "bad": ("✗", "bold red")}


def add(app: typer.Typer) -> None:
    command(app, "doctor")(doctor)
    command(app, "version", local=True)(version)


async def doctor(
    session: Session, port: Annotated[int, typer.Option(help="The port that `corral up` would take.")] = 8080
) -> int:
    """Look at this machine and the control plane, and say what to mend. Exits with 1 when something is wrong."""
    patient = examination.patient_of(locate(session.data_dir), *session.given_connection, port)
    findings = await examination.examine(patient)
    show = session.show
    bad = [finding for finding in findings if finding.level == "bad"]
    if show.as_json:
        show.json({"ok": not bad, "findings": findings})
        return 1 if bad else 0
    for finding in findings:
        mark, style = _MARK[finding.level]
        show.out.print(Text.assemble((f"{mark} ", style), (f"{finding.check:<12}", "bold"), finding.said))
        if finding.fix:
            show.out.print(Text(f"    next: {finding.fix}", style="dim" if finding.level == "note" else ""))
    show.out.print("all well" if not bad else f"{len(bad)} to mend", style="green" if not bad else "bold red")
    return 1 if bad else 0


async def version(session: Session) -> None:
    """The version of this command line."""
    if session.show.as_json:
        session.show.json({"version": __version__})
    else:
        print(f"corral {__version__}")
