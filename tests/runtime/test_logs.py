import io
import json
import logging

import pytest
import structlog

from runtime import logs
from runtime.settings import Secret


@pytest.fixture
def lines():
    """Set up logging into a buffer; afterwards everything is as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, structlog.get_config()
    output = io.StringIO()
    logs.setup("router", "info", stream=output)
    yield lambda: [json.loads(line) for line in output.getvalue().splitlines()]
    root.handlers[:], config = before[0], before[2]
    root.setLevel(before[1])
    structlog.configure(**config)


def test_an_event_is_one_json_object(lines):
    structlog.get_logger().info("worker_ready", endpoint="e42", worker="w7", perf=812.0)
    [line] = lines()
    assert line.pop("at").endswith("Z")
    assert line == {"event": "worker_ready", "level": "info", "room": "router", "endpoint": "e42", "worker": "w7", "perf": 812.0}


def test_below_the_level_nothing_is_written(lines):
    structlog.get_logger().debug("noise")
    assert lines() == []


def test_secrets_are_masked(lines):
    structlog.get_logger().info("key_read", key=Secret("hunter2"), nested={"key": Secret("hunter2")}, many=[Secret("hunter2")])
    assert "hunter2" not in json.dumps(lines())


def test_a_traceback_tells_where_and_not_what(lines):
    def fails(payload):
        raise ValueError("no good")

    try:
        fails("canary-in-a-local-variable")
    except ValueError:
        structlog.get_logger().exception("work_failed")
    [line] = lines()
    assert "no good" in line["exception"]
    assert "canary-in-a-local-variable" not in json.dumps(line).replace('fails(\\"canary-in-a-local-variable\\")', "")


def test_libraries_take_the_same_way(lines):
    logging.getLogger("some.library").warning("it is %s", "late")
    logging.getLogger("some.library").info("chatter", extra={"worker": "w1"})
    first, second = lines()
    assert (first["event"], first["level"], first["room"]) == ("it is late", "warning", "router")
    assert second["worker"] == "w1"


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="loud"):
        logs.setup("router", "loud")
