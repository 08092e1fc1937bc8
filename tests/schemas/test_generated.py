"""The published schemas are those of the structs, and real messages satisfy them."""

import json

import jsonschema
import pytest

from schemas import codec, generate, subjects
from schemas.ids import EndpointId, WorkerId


@pytest.mark.parametrize("name", sorted(generate.documents()))
def test_the_generated_file_is_not_stale(name):
    path = generate.HERE / name
    assert path.exists(), "run `make schemas` and commit schemas/generated"
    assert path.read_bytes() == generate.documents()[name], "stale: run `make schemas` and commit schemas/generated"


@pytest.mark.parametrize("name", sorted(generate.FILES))
def test_every_message_satisfies_its_json_schema(name, golden_examples):
    schema = json.loads((generate.HERE / name).read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    for struct in generate.FILES[name]:
        one = {"$defs": schema["$defs"], "$ref": f"#/$defs/{struct.__name__}"}
        jsonschema.validate(golden_examples[struct.__name__], one)


def test_every_subject_has_a_channel_in_the_asyncapi_document():
    channels = {address for address, *_ in generate.CHANNELS.values()}
    ep, wid = EndpointId(42), WorkerId("w1")
    said = {
        subjects.heartbeat(ep, wid),
        subjects.control(wid),
        subjects.load(ep, "r1"),
        subjects.reservation(ep, "r1"),
        subjects.command("create", ep),
        subjects.dead_letter("create", ep),
        subjects.event("worker_ready", ep),
        subjects.ENROLL,
    }
    filled = {a.format(endpoint="e42", worker="w1", router="r1", op="create", kind="worker_ready") for a in channels}
    assert said == filled


def test_the_asyncapi_document_has_no_dangling_reference():
    document = json.loads((generate.HERE / "asyncapi.json").read_bytes())

    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                target = document
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert document["asyncapi"] == "3.0.0"
    assert codec.encode(document)
