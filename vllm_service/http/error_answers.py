"""The one place where an error becomes what callers see: a status, headers, JSON; or an event within a stream."""

from __future__ import annotations

import math

import msgspec

from vllm_service.errors import ServiceError


def error_headers(error: ServiceError) -> bytes:
    """Header lines of an error's answer: its type, and when to come again (whole seconds, rounded up)."""
    lines = b"content-type: application/json\r\n"
    if error.retry_after_seconds is not None:
        lines += b"retry-after: %d\r\n" % max(1, math.ceil(error.retry_after_seconds))
    if error.status == 401:
        lines += b"www-authenticate: Bearer\r\n"
    return lines


def error_body(error: ServiceError, request_id: str | None) -> bytes:
    """The JSON document."""
    return msgspec.json.encode(error.to_json(request_id))


def error_event(error: ServiceError, request_id: str | None) -> bytes:
    """The last event of a stream that broke; no [DONE] follows it."""
    return b"data: %b\n\n" % error_body(error, request_id)
