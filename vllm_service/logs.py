"""Lines of the log, as text for people or as JSON for machines; and the access log, one line per request."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec

from vllm_service.domain.moments import rfc3339
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.requests import RequestRecord

FIELDS = "fields"
_access = logging.getLogger("vllm_service.access")
_encode = msgspec.json.Encoder().encode


def configure(level: str, form: str) -> None:
    """Everything that is logged goes to stderr in one form. form: `json` or `text`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.captureWarnings(True)
    logging.basicConfig(level=level, handlers=[handler], force=True)


class TextLines(logging.Formatter):
    """`2026-11-21 12:00:00,000 INFO vllm_service.access: request request_id=... status=200`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """With the fields that are known, spaces in them quoted."""
        pairs = (f"{name}={_word(value)}" for name, value in _fields(record).items() if value is not None)
        return " ".join((super().formatMessage(record), *pairs))


class JsonLines(logging.Formatter):
    """One object per line: time (RFC 3339, UTC), level, logger, message, then the fields; null is not known."""

    def format(self, record: logging.LogRecord) -> str:
        """A traceback is text in `exception`."""
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


def place_of(error: BaseException) -> str:
    """An error's type and where it was raised. Never its text: that may quote a prompt or a secret."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"


def log_request(row: RequestRecord) -> None:
    """A recorder (gateway.py): a line at INFO for each request that has ended. No prompt, no answer, no key."""
    if _access.isEnabledFor(logging.INFO):
        _access.info("request", extra={FIELDS: fields_of(row)})


def fields_of(row: RequestRecord) -> dict[str, Any]:
    """What the access log says of a request: names, numbers, outcome. key_id names a key, it is not the key."""
    usage, cost = row.usage, row.cost_picousd
    return {
        "request_id": row.request_id,
        "started_at": rfc3339(row.started_at),
        "organisation": row.organisation,
        "key_id": row.key_id,
        "operation": row.operation,
        "model": row.model,
        "stream": row.stream,
        "status": row.status,
        "outcome": row.outcome.value,
        "error_code": row.error_code,
        "provider": row.provider,
        "upstream_model": row.upstream_model,
        "attempts": row.attempts,
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "cached_tokens": None if usage is None else usage.cached_tokens,
        "completion_tokens": None if usage is None else usage.completion_tokens,
        "estimated": None if usage is None else usage.estimated,
        "cost_usd": None if cost is None else cost / PICOUSD_PER_USD,
        "queue_ms": _rounded(row.queue_ms),
        "ttft_ms": _rounded(row.ttft_ms),
        "total_ms": _rounded(row.total_ms),
        "route_reason": row.route_reason,
    }


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, FIELDS, {})
    return fields


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    text = str(value)
    return text if text and not any(c in ' "=' or c < " " for c in text) else _encode(text).decode()
