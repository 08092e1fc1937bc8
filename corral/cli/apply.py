"""`corral apply` and `corral plan`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from corral.apply import carry_out, manifest, plan
from corral.errors import ConfigError

from .command import Session, command
from .show import Show

Files = Annotated[list[Path], typer.Option("--file", "-f", help="A YAML file, or - for stdin; may be given several times.")]
_STYLE = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red"), "keep": ("=", "dim")}


def add(app: typer.Typer) -> None:
    command(app, "apply")(apply_files)
    command(app, "plan", aliases=("diff",))(plan_files)


async def plan_files(session: Session, file: Files) -> int:
    """Show what `apply` would change. Exits with 0 when nothing, 2 when something would."""
    _, steps = await _steps(session, file)
    _tell(session.show, steps)
    return 2 if plan.changes_anything(steps) else 0


async def apply_files(
    session: Session,
    file: Files,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Make endpoints, groups and templates what the files say. Safe to repeat."""
    show = session.show
    wanted, steps = await _steps(session, file)
    if not show.as_json:
        _tell(show, steps)
    if not plan.changes_anything(steps):
        if show.as_json:
            show.json({"ok": True, "changed": False, "steps": steps})
        return 0
    if not yes and not _agreed(show, steps):
        show.note("nothing was changed")
        return 1
    done: list[plan.Step] = []
    await carry_out.carry_out((await session.corral()).admin, wanted, steps, done.append)
    if show.as_json:
        show.json({"ok": True, "changed": True, "steps": steps})
    else:
        show.done(f"applied: {len(done)} {'change' if len(done) == 1 else 'changes'}")
    return 0


async def _steps(session: Session, files: list[Path]) -> tuple[manifest.Manifest, tuple[plan.Step, ...]]:
    wanted = manifest.read([_source(path) for path in files], os.environ)
    if not wanted.templates and not wanted.endpoints:
        raise ConfigError(f"{', '.join(map(str, files))}: nothing in it", "begin a document with `kind: Endpoint`")
    admin = (await session.corral()).admin
    return wanted, plan.plan(wanted, await carry_out.current(admin, wanted))


def _source(path: Path) -> tuple[str, str, str]:
    if str(path) == "-":
        return "stdin", str(Path.cwd()), sys.stdin.read()
    try:
        return str(path), str(path.resolve().parent), path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}", "give the path of a YAML file with -f") from error


def _agreed(show: Show, steps: tuple[plan.Step, ...]) -> bool:
    if any(step.verb == "delete" or step.note for step in steps) and not sys.stdin.isatty():
        raise ConfigError("this needs a yes, and nobody is there to ask", "pass --yes")
    if not sys.stdin.isatty() or show.as_json:
        return True  # only additions and plain changes
    return typer.confirm("apply?", default=True, err=True)


def _tell(show: Show, steps: tuple[plan.Step, ...]) -> None:
    if show.as_json:
        show.json({"changed": plan.changes_anything(steps), "steps": steps})
        return
    for step in steps:
        mark, style = _STYLE[step.verb]
        where = f" in {step.endpoint}" if step.endpoint else ""
        show.out.print(Text(f"{mark} {step.kind} {step.name}{where}", style=style))
        for change in step.changes:
            before = "" if step.verb == "create" else f"{_value(change.before)} -> "
            show.out.print(Text(f"    {change.field}: {before}{_value(change.after)}"))
        if step.note:
            show.out.print(Text(f"    {step.note}", style="bold"))
    if not plan.changes_anything(steps):
        show.note("nothing to do: it is as the files say")


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= 100 else text[:97] + "..."
