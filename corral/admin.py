"""What operators do over HTTP. Dictionaries in Vast's field names, as the router answers them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from .body import read_up_to
from .control import Control, refused, unreachable
from .sse import EventParser
from .wire import codec, events

Json = dict[str, Any]


class Admin:
    """Each method is one request and raises ApiError or Unreachable."""

    def __init__(self, control: Control) -> None:
        self._control = control

    # --- endpoints ------------------------------------------------------------------------------------------------

    async def endpoints(self) -> list[Json]:
        return _results(await self._control.ask("GET", "/api/v0/endptjobs/"))

    async def endpoint(self, name: str) -> Json:
        """Raises NotFound."""
        return _result(await self._control.ask("GET", f"/api/v1/endpoints/{_part(name)}"))

    async def create_endpoint(self, name: str, settings: Mapping[str, Any]) -> int:
        """The new endpoint's id. Raises Taken, BadRequest."""
        answer = await self._control.ask("POST", "/api/v0/endptjobs/", body={"endpoint_name": name, **settings})
        return int(answer["result"])

    async def update_endpoint(self, name: str, settings: Mapping[str, Any]) -> Json:
        """Change what is named; the rest stays. The endpoint as it is now."""
        endpoint_id = (await self.endpoint(name))["id"]
        answer = await self._control.ask("PUT", f"/api/v0/endptjobs/{endpoint_id}/", body=dict(settings))
        return dict(answer["endpoint"])

    async def delete_endpoint(self, name: str) -> Json:
        """Its workers are drained and destroyed."""
        endpoint_id = (await self.endpoint(name))["id"]
        answer: Json = await self._control.ask("DELETE", f"/api/v0/endptjobs/{endpoint_id}/")
        return answer

    async def override(self, name: str, fields: Mapping[str, Any]) -> Json:
        """Say for a while how many hot workers there shall be: hot_min, hot_max, for_s, reason. Replaces the one before.
        Raises NotFound, BadRequest.
        """
        return _result(await self._control.ask("PUT", f"/api/v1/endpoints/{_part(name)}/override", body=dict(fields)))

    async def clear_override(self, name: str) -> Json | None:
        """The override that held, or None."""
        answer = await self._control.ask("DELETE", f"/api/v1/endpoints/{_part(name)}/override")
        return None if answer["result"] is None else dict(answer["result"])

    async def compare(self, name: str, over_s: float) -> Json:
        """The endpoint's worker groups side by side over the last so many seconds, a day at most."""
        return _result(
            await self._control.ask("GET", f"/api/v1/endpoints/{_part(name)}/compare", params={"over_s": f"{over_s:g}"})
        )

    # --- worker groups --------------------------------------------------------------------------------------------

    async def groups(self, endpoint: str | None = None) -> list[Json]:
        found = _results(await self._control.ask("GET", "/api/v0/workergroups/"))
        return [group for group in found if endpoint is None or group.get("endpoint_name") == endpoint]

    async def group(self, group_id: int) -> Json:
        """Raises NotFound."""
        return _result(await self._control.ask("GET", f"/api/v0/workergroups/{group_id:d}/"))

    async def create_group(self, endpoint: str, fields: Mapping[str, Any]) -> int:
        body = {"endpoint_name": endpoint, "search_params": "", **fields}
        answer = await self._control.ask("POST", "/api/v0/workergroups/", body=body)
        return int(answer["id"])

    async def update_group(self, group_id: int, fields: Mapping[str, Any]) -> Json:
        return _result(await self._control.ask("PUT", f"/api/v0/workergroups/{group_id:d}/", body=dict(fields)))

    async def update_workers(self, group_id: int, *, cancel: bool = False) -> Json:
        """Replace a group's workers one by one by new ones of its template as it is now; `cancel`: those that are left stay.

        Raises Taken when there is nothing to cancel.
        """
        body = {"workergroup_id": group_id, "cancel_update": cancel}
        answer: Json = await self._control.ask("POST", "/update_workers/", body=body)
        return answer

    async def delete_group(self, group_id: int) -> Json:
        answer: Json = await self._control.ask("DELETE", f"/api/v0/workergroups/{group_id:d}/")
        return answer

    async def resume_group(self, group_id: int, reason: str = "") -> Json | None:
        """Close its breaker: it is tried again. What it was halted for, or None when the router knew of no halt."""
        answer = await self._control.ask("POST", f"/api/v0/workergroups/{group_id:d}/resume/", body={"reason": reason})
        return None if answer["was_halted"] is None else dict(answer["was_halted"])

    # --- templates ------------------------------------------------------------------------------------------------

    async def templates(self) -> list[Json]:
        return _results(await self._control.ask("GET", "/api/v1/templates"))

    async def template(self, name: str) -> Json:
        """Raises NotFound."""
        return _result(await self._control.ask("GET", f"/api/v1/templates/{_part(name)}"))

    async def put_template(self, template: Mapping[str, Any]) -> Json:
        """Create or replace. Groups keep the template they were made with until they are updated."""
        path = f"/api/v1/templates/{_part(template['name'])}"
        return _result(await self._control.ask("PUT", path, body=dict(template)))

    async def delete_template(self, name: str) -> Json:
        answer: Json = await self._control.ask("DELETE", f"/api/v1/templates/{_part(name)}")
        return answer

    # --- workers --------------------------------------------------------------------------------------------------

    async def workers(self, endpoint: str | None = None) -> list[Json]:
        params = {"endpoint": endpoint} if endpoint else None
        return _results(await self._control.ask("GET", "/api/v1/workers", params=params))

    async def worker(self, worker_id: str) -> Json:
        """Raises NotFound."""
        return _result(await self._control.ask("GET", f"/api/v1/workers/{_part(worker_id)}"))

    async def order(self, worker_id: str, what: str, reason: str = "") -> Json:
        """`what` is drain (finish, then go cold), start, reboot or destroy. Answered once the command is stored, with its id."""
        path = f"/api/v1/workers/{_part(worker_id)}/{_part(what)}"
        answer: Json = await self._control.ask("POST", path, body={"reason": reason})
        return answer

    async def enroll(self, endpoint: str, group: str | None = None, url: str = "") -> Json:
        """Credentials for a machine that somebody brings: {worker_id, token}. The token is a secret and is shown once.
        Without a group: the endpoint's only one.
        """
        answer: Json = await self._control.ask("POST", "/api/v1/enroll", body={"endpoint": endpoint, "group": group, "url": url})
        return answer

    # --- keys -----------------------------------------------------------------------------------------------------

    async def keys(self) -> list[Json]:
        return _results(await self._control.ask("GET", "/api/v1/keys"))

    async def create_key(
        self, name: str, role: str = "client", endpoint_ids: tuple[int, ...] = (), expires_in_s: float | None = None
    ) -> Json:
        """`key` of the answer is the key itself: it is shown once. No endpoints: all of them."""
        body = {"name": name, "role": role, "endpoints": endpoint_ids, "expires_in_s": expires_in_s}
        answer: Json = await self._control.ask("POST", "/api/v1/keys", body=body)
        return answer

    async def revoke_key(self, key_id: str) -> Json:
        answer: Json = await self._control.ask("DELETE", f"/api/v1/keys/{_part(key_id)}")
        return answer

    # --- events ---------------------------------------------------------------------------------------------------

    async def events(
        self, *, since: float | None = None, follow: bool = True, endpoint: str | None = None, kind: str | None = None
    ) -> AsyncIterator[events.AnyEvent | codec.Unknown]:
        """What happened, oldest first; with `follow` it goes on until the caller leaves or the router does. `since`: unix
        seconds, or a negative number of seconds ago; None: from now on, or everything when not following.
        Raises ApiError, Unreachable.
        """
        async for text in self.event_texts(since=since, follow=follow, endpoint=endpoint, kind=kind):
            yield codec.event(text)

    async def event_texts(
        self, *, since: float | None = None, follow: bool = True, endpoint: str | None = None, kind: str | None = None
    ) -> AsyncIterator[bytes]:
        """As events(), each as the JSON it is stored as. Without `follow` it ends when all that there was has been told, and raises
        Unreachable when that could not be read to its end.
        """
        params = {"follow": "1" if follow else "0"}
        if since is not None:
            params["since"] = f"{since:.3f}"
        params |= {name: value for name, value in (("endpoint", endpoint), ("kind", kind)) if value is not None}
        parser = EventParser()
        try:
            async with self._control.events(params) as response:
                if response.status != 200:
                    body, _ = await read_up_to(response.content, 65536)
                    raise refused(response.status, body, self._control.url)
                async for piece in response.content.iter_any():
                    for event in parser.feed(piece):
                        yield event.data.encode()
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._control.url, error) from error


def _part(text: str) -> str:
    return quote(text, safe="")


def _result(answer: Any) -> Json:
    """Vast wraps a single thing in `result`."""
    return dict(answer["result"])


def _results(answer: Any) -> list[Json]:
    """Vast wraps lists in `results`."""
    if isinstance(answer, dict):
        answer = answer.get("results", [])
    return list(msgspec.convert(answer, list[Json]))
