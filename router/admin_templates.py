"""Templates by name (KV corral_templates). A group freezes the template it is given, so changing one here changes no worker."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from aiohttp import web

from runtime.bus import Bus
from schemas import codec, ids, subjects
from schemas.http import ErrorCode
from schemas.records import Template

from . import problems
from .calls import Call, Table, reply
from .legible import legible, the_one
from .problems import HttpProblem


class Templates:
    """Methods raise HttpProblem, and BusUnavailable."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = bus.bucket(subjects.BUCKET_TEMPLATES)

    def add_to(self, table: Table) -> None:
        table.add("GET", "/api/v1/templates/", self.list_all)
        table.add("PUT", "/api/v1/templates/{name}", self.put)
        table.add("GET", "/api/v1/templates/{name}", self.get)
        table.add("DELETE", "/api/v1/templates/{name}", self.delete)

    async def list_all(self, call: Call) -> web.Response:
        await call.admin("list templates")
        return reply({"success": True, "results": [shown(template) for template in await self._all()]})

    async def get(self, call: Call) -> web.Response:
        await call.admin("read templates")
        return reply({"success": True, "result": shown(await self.find(call.params["name"]))})

    async def put(self, call: Call) -> web.Response:
        await call.admin("change templates")
        name = call.params["name"]
        given = await call.json(dict[str, msgspec.Raw])
        template = read_template({**given, "name": msgspec.Raw(msgspec.json.encode(name))})
        await self._bucket.put(name, codec.encode(template))
        return reply({"success": True, "result": shown(template)})

    async def delete(self, call: Call) -> web.Response:
        await call.admin("delete templates")
        template = await self.find(call.params["name"])
        await self._bucket.delete(template.name)
        return reply({"success": True, "result": template.name, "msg": "Groups that use it keep their copy."})

    async def find(self, reference: str) -> Template:
        """By name, hash or number. Raises HttpProblem 404."""
        if ids.is_token(reference):
            entry = await self._bucket.get(reference)
            if entry is not None:
                return the_one(subjects.BUCKET_TEMPLATES, entry, _read)
        for template in await self._all():
            if reference in (hash_of(template), str(number_of(template))):
                return template
        raise HttpProblem(
            404, ErrorCode.NO_TEMPLATE, f"There is no template {reference[:80]!r}. Create it: PUT /api/v1/templates/NAME."
        )

    async def _all(self) -> list[Template]:
        return [template for template, _ in legible(subjects.BUCKET_TEMPLATES, await self._bucket.all(), _read)]


def _read(data: bytes) -> Template:
    return codec.decode(data, Template)


def read_template(given: dict[str, msgspec.Raw]) -> Template:
    """A template as somebody wrote it. Raises HttpProblem 422."""
    unknown = given.keys() - {field.name for field in msgspec.structs.fields(Template)} - {"hash", "id"}
    if unknown:
        # A misspelt field in something that people write by hand must not pass in silence.
        raise problems.bad_fields(dict.fromkeys(sorted(unknown), "is no field of a template"))
    try:
        template = codec.decode(msgspec.json.encode(given), Template)
    except msgspec.ValidationError as error:
        raise problems.wrong_type(error) from error
    wrong = template.problems()
    if wrong:
        raise problems.bad_fields(wrong)
    return template


def hash_of(template: Template) -> str:
    """Of its content; Vast's clients call it template_hash."""
    return hashlib.sha256(codec.encode(template)).hexdigest()[:32]


def number_of(template: Template) -> int:
    """Vast's clients know a template_id as a number."""
    return int.from_bytes(hashlib.sha256(template.name.encode()).digest()[:6], "big")


def shown(template: Template) -> dict[str, Any]:
    return {**msgspec.to_builtins(template), "id": number_of(template), "hash": hash_of(template)}
