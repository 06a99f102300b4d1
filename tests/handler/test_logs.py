"""Log lines say which job they are about, to machines and to people."""

from __future__ import annotations

import json
import logging

from handler.logs import JsonFormatter, TextFormatter, current_job


def record(message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("handler.x", logging.WARNING, __file__, 1, message, values, None)


def test_a_json_line_holds_the_message_and_the_job() -> None:
    token = current_job.set("job-1")
    try:
        line = json.loads(JsonFormatter().format(record("%d posts", 3)))
    finally:
        current_job.reset(token)
    assert line["time"].endswith("Z")
    assert {name: line[name] for name in ("level", "logger", "message", "job")} == {
        "level": "WARNING",
        "logger": "handler.x",
        "message": "3 posts",
        "job": "job-1",
    }


def test_a_line_outside_any_job_names_none() -> None:
    assert "job" not in json.loads(JsonFormatter().format(record("ready")))
    assert TextFormatter("%(message)s").format(record("ready")) == "ready"


def test_a_traceback_is_a_field_and_keeps_the_line_one_line() -> None:
    error = ValueError("x")
    failed = record("failed")
    failed.exc_info = (ValueError, error, error.__traceback__)
    line = JsonFormatter().format(failed)
    assert "\n" not in line
    assert "ValueError: x" in json.loads(line)["traceback"]
