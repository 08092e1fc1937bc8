"""`corral group ...` and `corral template ...`"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from . import compare, show
from .command import Session, command
from .times import span_s

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
    "HALTED": "halt",
}
_TEMPLATE_COLUMNS = {"NAME": "name", "COMMAND": "runs", "IMAGE": "image", "GPUS": "gpus"}
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="Only of this endpoint.")]


def add(app: typer.Typer) -> None:
    groups = typer.Typer(help="What runs on which hardware, inside an endpoint.", no_args_is_help=True)
    command(groups, "list", aliases=("ls",))(list_all)
    command(groups, "get", aliases=("show",))(get)
    command(groups, "update", aliases=("roll",))(update)
    command(groups, "compare")(compare_groups)
    command(groups, "resume")(resume)
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
    rows = [{**group, "of": group["template"]["name"], "halt": group.get("halted", {}).get("cause", "")} for group in found]
    session.show.table(rows, _COLUMNS, raw=found)


async def get(session: Session, group_id: Annotated[int, typer.Argument(help="The group's number.", show_default=False)]) -> None:
    """One group, with the template that is frozen into it, and what it is halted for."""
    group = await (await session.corral()).admin.group(group_id)
    told = {key: value for key, value in group.items() if key not in {"template", "search_query", "halted"}}
    template = group["template"]
    told |= {"template": template["name"], "command": " ".join(template["command"]), "created_at": show.ago(group["created_at"])}
    if "halted" in group:
        told["halted"] = Text(halted(group["halted"]), style="bold red")
    session.show.record(told, raw=group)
    if "halted" in group:
        session.show.note(f"nothing more is bought for it; mend the template, or `corral group resume {group_id}` tries again")


async def compare_groups(
    session: Session,
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.", show_default=False)],
    groups: Annotated[list[str] | None, typer.Argument(help="Only these groups, by name or number.", show_default=False)] = None,
    since: Annotated[str, typer.Option(help="Over the last 90, 15m, 2h; at most 1d.")] = "1h",
) -> None:
    """Groups side by side: speed, price, what a unit of work cost, waits, errors, starts."""
    found = await (await session.corral()).admin.compare(endpoint, span_s(since))
    chosen = compare.chosen(found["groups"], groups or ())
    if session.show.as_json:
        session.show.json({**found, "groups": chosen})
        return
    columns = {"": "what"} | {f"{group['name'] or 'group'} (#{group['id']})": str(group["id"]) for group in chosen}
    session.show.table(compare.rows(chosen), columns, empty=f"endpoint {endpoint} has no worker group")
    session.show.note(
        f"routed and waits for a worker: as router {found['router']} saw them; the rest holds for all routers. "
        f"Counted since {show.ago(min((group['since_at'] for group in chosen), default=found['at']))}."
    )


async def resume(
    session: Session,
    group_id: Annotated[int, typer.Argument(help="The group's number.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why it should work now.")] = "",
) -> None:
    """Close the breaker of a halted group: it is tried again."""
    was = await (await session.corral()).admin.resume_group(group_id, reason)
    words = f"it was halted: {halted(was)}" if was else "it was not known to be halted; failed starts are forgotten"
    session.show.done(f"group {group_id} is tried again; {words}", was_halted=was)


def halted(halt: dict[str, Any]) -> str:
    """An open breaker in words."""
    phase = f" in phase {halt['phase']}" if halt.get("phase") else ""
    cost = f"${halt['cost_usd']:.2f} spent on them"
    return f"{show.ago(halt['since_at'])}, after {halt['failures']} failed starts in a row, {cost}: {halt['cause']}{phase}: {halt['message']}"


async def update(
    session: Session,
    group_id: Annotated[int, typer.Argument(help="The group's number.", show_default=False)],
    *,
    cancel: Annotated[bool, typer.Option("--cancel", help="Let those stay that were not replaced yet.")] = False,
) -> None:
    """Replace a group's workers one by one: new ones first, of the template as it is now, and then the old ones drain."""
    told = await (await session.corral()).admin.update_workers(group_id, cancel=cancel)
    if cancel:
        session.show.done(f"the update of group {group_id} is cancelled; {told['workers_kept']} older workers stay")
    else:
        session.show.done(
            f"group {group_id} is now of revision {told['revision']}; {told['workers_to_update']} workers will be replaced"
        )


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
