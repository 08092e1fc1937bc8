"""`corral events tail`"""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from corral.wire import codec

from . import told
from .command import Session, command
from .times import span_s


def add(app: typer.Typer) -> None:
    nouns = typer.Typer(help="What happened, and why.", no_args_is_help=True)
    command(nouns, "tail")(tail)
    app.add_typer(nouns, name="events")
    app.add_typer(nouns, name="event", hidden=True)


async def tail(
    session: Session,
    since: Annotated[str, typer.Option(help="How far back to begin: 90, 15m, 2h, 1d.")] = "15m",
    endpoint: Annotated[str | None, typer.Option("--endpoint", "-e", help="Only of this endpoint.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as decision or worker_ready.")] = None,
    *,
    follow: Annotated[bool, typer.Option(help="Go on as things happen.")] = True,
) -> None:
    """Events as they happen: decisions with their reasons, workers' lives, changes by people. --json: one object a line."""
    admin = (await session.corral()).admin
    async for event in admin.events(since=-span_s(since), follow=follow, endpoint=endpoint, kind=kind):
        if not session.show.as_json:
            session.show.out.print(told.line(event), soft_wrap=True)
        elif isinstance(event, codec.Unknown):
            session.show.json_line(msgspec.Raw(event.raw))
        else:
            session.show.json_line(event)
