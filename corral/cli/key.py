"""`corral key ...`"""

from __future__ import annotations

from typing import Annotated

import typer

from . import show
from .command import Session, command


def add(app: typer.Typer) -> None:
    nouns = typer.Typer(help="API keys. They are stored hashed, so a new one is shown once.", no_args_is_help=True)
    command(nouns, "create")(create)
    command(nouns, "list", aliases=("ls",))(list_all)
    command(nouns, "revoke", aliases=("rm",))(revoke)
    app.add_typer(nouns, name="key")
    app.add_typer(nouns, name="keys", hidden=True)


async def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it is for.", show_default=False)],
    role: Annotated[str, typer.Option(help="client: may ask endpoints; admin: may do everything.")] = "client",
    endpoint: Annotated[
        list[str] | None, typer.Option("--endpoint", "-e", help="Only for this endpoint; may be repeated.")
    ] = None,
    expires_in_s: Annotated[float | None, typer.Option(help="Seconds until it expires; default: never.")] = None,
) -> None:
    """Make a key and show it, once."""
    admin = (await session.corral()).admin
    ids = tuple([int((await admin.endpoint(one))["id"]) for one in endpoint or ()])
    answer = await admin.create_key(name, role, ids, expires_in_s)
    if session.show.as_json:
        session.show.json({"key": answer["key"], **answer["result"]})
        return
    session.show.done(f"{role} key {answer['result']['id']} for {name}; it is shown only now:")
    print(answer["key"])


async def list_all(session: Session) -> None:
    """Keys by id; never the keys themselves."""
    found = await (await session.corral()).admin.keys()
    rows = [
        {
            **key,
            "for": ", ".join(map(str, key.get("endpoints") or ())) or "all",
            "made": show.ago(key.get("created_at")),
            "until": "-" if key.get("expires_at") is None else show.until(key["expires_at"]),
        }
        for key in found
    ]
    columns = {"ID": "id", "NAME": "name", "ROLE": "role", "ENDPOINTS": "for", "CREATED": "made", "EXPIRES": "until"}
    session.show.table(rows, columns, raw=found, empty="no keys beside the admin key")


async def revoke(session: Session, key_id: Annotated[str, typer.Argument(help="Its id.", show_default=False)]) -> None:
    """Make a key worthless, at once."""
    await (await session.corral()).admin.revoke_key(key_id)
    session.show.done(f"key {key_id} is revoked")
