"""Turns errors into what callers receive: a status, headers and JSON, or an event within a stream."""

from __future__ import annotations

import math

import msgspec

from vllm_service.errors import ServiceError


def error_headers(error: ServiceError) -> bytes:
    """Returns the header lines of an error's answer: its content type, and Retry-After in whole seconds, rounded up."""
    lines = b"content-type: application/json\r\n"
    if error.retry_after_seconds is not None:
        lines += b"retry-after: %d\r\n" % max(1, math.ceil(error.retry_after_seconds))
    if error.status == 401:
        lines += b"www-authenticate: Bearer\r\n"
    return lines


def error_body(error: ServiceError, request_id: str | None) -> bytes:
    """Returns the error as OpenAI's JSON document."""
    return msgspec.json.encode(error.to_json(request_id))


def error_event(error: ServiceError, request_id: str | None) -> bytes:
    """Returns the last event of a broken stream; no [DONE] follows it."""
    return b"data: %b\n\n" % error_body(error, request_id)
