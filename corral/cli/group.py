"""`corral group ...` and `corral template ...`"""

from __future__ import annotations

from typing import Annotated

import typer

from . import show
from .command import Session, command

_COLUMNS = {
    "ID": "id",
    "NAME": "name",
    "ENDPOINT": "endpoint_name",
    "TEMPLATE": "of",
    "PROVIDER": "provider",
    "WEIGHT": "weight",
    "TIER": "tier",
    "MAX": "max_workers",
    "REVISION": "revision",
}
_TEMPLATE_COLUMNS = {"NAME": "name", "COMMAND": "runs", "IMAGE": "image", "GPUS": "gpus"}
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="Only of this endpoint.")]


def add(app: typer.Typer) -> None:
    groups = typer.Typer(help="What runs on which hardware, inside an endpoint.", no_args_is_help=True)
    command(groups, "list", aliases=("ls",))(list_all)
    command(groups, "get", aliases=("show",))(get)
    command(groups, "delete", aliases=("rm",))(delete)
    app.add_typer(groups, name="group")
    app.add_typer(groups, name="groups", hidden=True)
    templates = typer.Typer(help="What runs on a worker.", no_args_is_help=True)
    command(templates, "list", aliases=("ls",))(list_templates)
    command(templates, "get", aliases=("show",))(get_template)
    command(templates, "delete", aliases=("rm",))(delete_template)
    app.add_typer(templates, name="template")
    app.add_typer(templates, name="templates", hidden=True)


async def list_all(session: Session, endpoint: Endpoint = None) -> None:
    """Worker groups of all endpoints."""
    found = await (await session.corral()).admin.groups(endpoint)
    session.show.table([{**group, "of": group["template"]["name"]} for group in found], _COLUMNS, raw=found)


async def get(session: Session, group_id: Annotated[int, typer.Argument(help="The group's number.", show_default=False)]) -> None:
    """One group, with the template that is frozen into it."""
    group = await (await session.corral()).admin.group(group_id)
    told = {key: value for key, value in group.items() if key not in {"template", "search_query"}}
    template = group["template"]
    told |= {"template": template["name"], "command": " ".join(template["command"]), "created_at": show.ago(group["created_at"])}
    session.show.record(told, raw=group)


async def delete(
    session: Session,
    group_id: Annotated[int, typer.Argument(help="The group's number.", show_default=False)],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a group; its workers are drained and destroyed."""
    if not yes and not session.show.as_json:
        typer.confirm(f"delete group {group_id} and destroy its workers?", abort=True, err=True)
    await (await session.corral()).admin.delete_group(group_id)
    session.show.done(f"group {group_id} is deleted; its workers will be destroyed")


async def list_templates(session: Session) -> None:
    """Templates by name."""
    found = await (await session.corral()).admin.templates()
    session.show.table([{**template, "runs": " ".join(template["command"])} for template in found], _TEMPLATE_COLUMNS, raw=found)


async def get_template(session: Session, name: Annotated[str, typer.Argument(show_default=False)]) -> None:
    """One template."""
    template = await (await session.corral()).admin.template(name)
    told = {**template, "command": " ".join(template["command"]), "env": " ".join(f"{k}={v}" for k, v in template["env"].items())}
    session.show.record(told, raw=template)


async def delete_template(session: Session, name: Annotated[str, typer.Argument(show_default=False)]) -> None:
    """Delete a template. Groups that were made from it keep their copy."""
    await (await session.corral()).admin.delete_template(name)
    session.show.done(f"template {name} is deleted; groups keep their copy")
