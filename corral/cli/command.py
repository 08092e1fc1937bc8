"""How a command is declared: a coroutine that gets a Session and its own parameters.

`command` adds what every command has (--json, and for those that talk to a control plane --url, --api-key, --data-dir), opens the
client, runs the coroutine and turns errors into an exit status. Parameter names may be written with dashes or, as Vast does, underscores.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from corral import Corral
from corral.connection import Connection, find
from corral.errors import CorralError

from .show import Show

Verb = Callable[..., Coroutine[Any, Any, Any]]

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.", rich_help_panel="Everywhere")]
_URL = Annotated[
    str | None, typer.Option("--url", help="The control plane's address (env: CORRAL_URL).", rich_help_panel="Everywhere")
]
_KEY = Annotated[str | None, typer.Option("--api-key", help="API key (env: CORRAL_API_KEY).", rich_help_panel="Everywhere")]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Data directory of `corral up` (env: CORRAL_DATA_DIR; else ./.corral if it exists, else ~/.local/share/corral).",
        rich_help_panel="Everywhere",
    ),
]
_LOCAL = {"as_json": _JSON, "data_dir": DataDirOption}
_REMOTE = {"as_json": _JSON, "url": _URL, "api_key": _KEY, "data_dir": DataDirOption}


class Session:
    """What a command works with. `corral` is an open client; opened when it is first needed."""

    def __init__(self, show: Show, stack: contextlib.AsyncExitStack, given: Mapping[str, Any]) -> None:
        self.show = show
        self.data_dir: Path | None = given.get("data_dir")
        self._given = given
        self._stack = stack
        self._corral: Corral | None = None

    @property
    def given_connection(self) -> tuple[str | None, str | None]:
        """--url and --api-key, as far as they were given."""
        return self._given.get("url"), self._given.get("api_key")

    def connection(self) -> Connection:
        """Raises ConfigError."""
        return find(*self.given_connection, data_dir=self.data_dir)

    async def corral(self) -> Corral:
        """Raises ConfigError."""
        if self._corral is None:
            found = self.connection()
            self._corral = await self._stack.enter_async_context(Corral(found.url, found.api_key))
        return self._corral


def command(
    app: typer.Typer,
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    local: bool = False,
    more: Sequence[inspect.Parameter] = (),
) -> Callable[[Verb], Verb]:
    """Declare a coroutine `verb(session, ...)` as a command. Its docstring is the help. `local`: needs no control plane. `more`:
    generated parameters, which the verb takes as **keywords.
    """

    def declare(verb: Verb) -> Verb:
        common = _LOCAL if local else _REMOTE

        def run(**given: Any) -> None:
            shared = {key: given.pop(key) for key in common}
            raise typer.Exit(execute(verb, given, shared))

        hints = get_type_hints(verb, include_extras=True)
        own = list(inspect.signature(verb).parameters.values())[1:]
        parameters = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ] + list(more)
        parameters += [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=False if annotation is _JSON else None, annotation=annotation
            )
            for key, annotation in common.items()
        ]
        run.__name__ = verb.__name__
        run.__doc__ = verb.__doc__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.command(name)(run)
        for alias in aliases:
            app.command(alias, hidden=True)(run)
        return verb

    return declare


def execute(verb: Verb, given: Mapping[str, Any], shared: Mapping[str, Any]) -> int:
    """The exit status: 0 well, 1 failed (or what the verb returned), 130 interrupted."""
    show = Show(as_json=bool(shared.get("as_json")))

    async def body() -> int:
        async with contextlib.AsyncExitStack() as stack:
            result = await verb(Session(show, stack, shared), **given)
        return result if isinstance(result, int) else 0

    try:
        return asyncio.run(body())
    except CorralError as error:
        show.error(error)
    except BrokenPipeError:
        # Whoever read us, such as `head`, has had enough.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        return 1
    except KeyboardInterrupt:
        show.note("interrupted")
        return 130
    return 1
