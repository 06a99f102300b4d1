"""Formats the log, as text for people or as JSON for machines. The access log is observability/access_log.py."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec

from vllm_service.domain.timestamps import rfc3339

#: The attribute of a log record that holds named values, set by `extra={FIELDS: {...}}`.
FIELDS = "fields"
_encode = msgspec.json.Encoder().encode


def configure(level: str, form: str) -> None:
    """Sends everything that is logged to stderr. form: `json` or `text`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.captureWarnings(True)
    logging.basicConfig(level=level, handlers=[handler], force=True)


class TextLines(logging.Formatter):
    """Formats `2026-11-21 12:00:00,000 INFO vllm_service.access: request request_id=... status=200`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Returns the message with its known fields, quoted where they hold spaces."""
        pairs = (f"{name}={_word(value)}" for name, value in _fields(record).items() if value is not None)
        return " ".join((super().formatMessage(record), *pairs))


class JsonLines(logging.Formatter):
    """Formats one JSON object per line: time (RFC 3339, UTC), level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line. A traceback is a text in `exception`."""
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line).decode()


def source_location(error: BaseException) -> str:
    """Returns an error's type and source locations, the innermost first, without its text: that may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    locations = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {locations}"


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, FIELDS, {})
    return fields


def _word(value: object) -> str:
    """Returns the value of `name=value`, as a JSON string where it is empty or would be ambiguous."""
    if isinstance(value, float):
        return f"{value:.12g}"
    text = str(value)
    return text if text and not any(c in ' "=' or c < " " for c in text) else _encode(text).decode()
