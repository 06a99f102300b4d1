"""Errors as the bytes that callers get."""

from __future__ import annotations

import json

import pytest

from vllm_service.errors import InvalidRequest, RateLimited, ServiceError, Unauthorized, UpstreamError
from vllm_service.http.error_answers import error_body, error_event, error_headers

JSON = b"content-type: application/json\r\n"


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        pytest.param(ServiceError("x"), JSON, id="plain"),
        pytest.param(RateLimited("x", retry_after_seconds=7.2), JSON + b"retry-after: 8\r\n", id="rounded up"),
        pytest.param(RateLimited("x", retry_after_seconds=7.0), JSON + b"retry-after: 7\r\n", id="whole seconds"),
        # 0 would have every caller come again at once.
        pytest.param(RateLimited("x", retry_after_seconds=0.0), JSON + b"retry-after: 1\r\n", id="never at once"),
        pytest.param(RateLimited("x", retry_after_seconds=-3.0), JSON + b"retry-after: 1\r\n", id="a time gone by"),
        pytest.param(RateLimited("x"), JSON, id="a wait that is not known"),
        pytest.param(Unauthorized("x"), JSON + b"www-authenticate: Bearer\r\n", id="how to say who one is"),
        pytest.param(
            UpstreamError(401, "x", code="UPSTREAM_401"), JSON + b"www-authenticate: Bearer\r\n", id="a provider's 401"
        ),
    ],
)
def test_headers_of_an_error(error: ServiceError, lines: bytes) -> None:
    assert error_headers(error) == lines


@pytest.mark.parametrize("message", ["plain", 'quote " and \\', "line\nbreak\r\n\r\n", "東京 🚀", "\x00", ""])
@pytest.mark.parametrize("request_id", [None, "req-1"])
def test_an_errors_document_and_event_hold_it_whatever_its_text(message: str, request_id: str | None) -> None:
    error = InvalidRequest(message, param="n", details={"model": message})
    body = error_body(error, request_id)
    assert json.loads(body) == {
        "error": {
            "type": "invalid_request_error",
            "code": "INVALID_REQUEST_400",
            "message": message,
            "param": "n",
            "details": {"model": message},
            "request_id": request_id,
        }
    }
    # A line break in the text must not end the event.
    assert b"\n" not in body
    assert error_event(error, request_id) == b"data: " + body + b"\n\n"
