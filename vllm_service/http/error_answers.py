"""The one place where an error becomes what callers see: a status, headers, JSON; or an event within a stream."""

from __future__ import annotations

import math

import msgspec

from vllm_service.errors import ServiceError

REASONS = {
    200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 301: b"Moved Permanently", 302: b"Found",
    303: b"See Other", 304: b"Not Modified", 307: b"Temporary Redirect", 308: b"Permanent Redirect",
    400: b"Bad Request", 401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 406: b"Not Acceptable", 408: b"Request Timeout", 409: b"Conflict", 410: b"Gone",
    411: b"Length Required", 412: b"Precondition Failed", 413: b"Content Too Large", 415: b"Unsupported Media Type",
    422: b"Unprocessable Content", 424: b"Failed Dependency", 425: b"Too Early", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip

_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in REASONS.items()}


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


def status_line(status: int) -> bytes:
    """The first line of an HTTP answer."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d -\r\n" % status


def whole_answer(status: int, headers: bytes, last: bytes, body: bytes) -> bytes:
    """An HTTP answer with its length. headers, last: lines, each ended by CRLF."""
    begin = _STATUS_LINES.get(status) or status_line(status)
    return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (begin, headers, last, len(body), body)
