"""Providers' errors in our codes, whatever their bodies look like."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.gateway.provider_errors import callers_error, fault_error, providers_error, refused, retry_after_of
from vllm_service.http.upstream import CutShort, NotReached, ProviderFault, TimedOut


def as_body(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


@pytest.mark.parametrize(
    ("status", "document", "code", "told"),
    [
        pytest.param(400, {"error": {"message": "bad tool"}}, "INVALID_REQUEST_400", "bad tool", id="OpenAI's form"),
        pytest.param(400, {"error": "bad tool"}, "INVALID_REQUEST_400", "bad tool", id="error is a text"),
        pytest.param(400, {"message": "bad tool"}, "INVALID_REQUEST_400", "bad tool", id="a message alone"),
        pytest.param(400, {"error": None, "message": "bad"}, "INVALID_REQUEST_400", "bad", id="error is null"),
        pytest.param(400, {"error": {}, "message": "bad"}, "INVALID_REQUEST_400", None, id="an empty error"),
        pytest.param(400, {}, "INVALID_REQUEST_400", None, id="an empty object"),
        pytest.param(400, [], "INVALID_REQUEST_400", None, id="a list"),
        pytest.param(400, b"", "INVALID_REQUEST_400", None, id="no body"),
        pytest.param(400, b"<html>", "INVALID_REQUEST_400", None, id="HTML"),
        pytest.param(400, b'{"error":{"message":"cut', "INVALID_REQUEST_400", None, id="cut"),
        pytest.param(400, b'{"error":"\xe6\x9d"}', "INVALID_REQUEST_400", None, id="cut in a character"),
        pytest.param(400, {"error": {"message": ["a"]}}, "INVALID_REQUEST_400", None, id="a message that is a list"),
        pytest.param(400, {"error": 7}, "INVALID_REQUEST_400", None, id="error is a number"),
        pytest.param(400, b'{"error":' + b"[" * 100_000, "INVALID_REQUEST_400", None, id="nested without end"),
        pytest.param(
            400, b'{"error":"a","error":"b"}', "INVALID_REQUEST_400", "b", id="a member that is there twice: the last"
        ),
        pytest.param(400, {"error": {"message": "東京 🚀"}}, "INVALID_REQUEST_400", "東京 🚀", id="unicode"),
        pytest.param(422, {"error": {"message": "no"}}, "UPSTREAM_422", "no", id="422"),
        pytest.param(422, {"detail": [{"loc": ["n"], "msg": "no"}]}, "UPSTREAM_422", None, id="FastAPI's form"),
        pytest.param(415, {"error": "no"}, "UPSTREAM_415", "no", id="415"),
        pytest.param(451, b"", "UPSTREAM_451", None, id="451"),
        pytest.param(413, b"too large", "CONTEXT_TOO_LONG_413", None, id="413"),
        *(
            pytest.param(status, {"error": {"message": text}}, "CONTEXT_TOO_LONG_413", text, id=f"{status}: {text}")
            for status in (400, 422)
            for text in (
                "This model's maximum context length is 4096 tokens.",
                "Please reduce the length of the messages.",
                "PROMPT TOO LONG",
                "The context length of the model is 4096.",
                "It exceeds the maximum context.",
                "context_length is 4096",
                "larger than max_model_len",
            )
        ),
        pytest.param(
            400, {"error": {"code": "context_length_exceeded"}}, "CONTEXT_TOO_LONG_413", None, id="a code about length"
        ),
        pytest.param(
            404, {"error": {"message": "too long"}}, "UPSTREAM_404", "too long", id="only 400 and 422 are of it"
        ),
    ],
)
def test_a_callers_mistake_keeps_what_the_provider_said_of_it(
    status: int, document: Any, code: str, told: str | None
) -> None:
    error = callers_error(status, as_body(document))
    assert error.code == code
    assert error.message == (told or f"The provider refused the request with status {status}.")
    assert error.details["upstream_status"] == status


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param({}, (None, None, None), id="nothing"),
        pytest.param({"param": "n", "code": "c", "type": "t"}, ("n", "c", "t"), id="all"),
        pytest.param({"param": None, "code": 400, "type": None}, (None, 400, None), id="a code that is a number"),
    ],
)
def test_field_code_and_type_travel_along(said: dict[str, Any], expected: tuple[Any, Any, Any]) -> None:
    error = callers_error(400, as_body({"error": said}))
    assert (error.param, error.details["upstream_code"], error.details["upstream_type"]) == expected


def test_a_message_is_cut_to_2000_characters() -> None:
    assert callers_error(400, as_body({"error": "東" * 2001})).message == "東" * 2000
    assert callers_error(400, as_body({"error": "東" * 2000})).message == "東" * 2000


@given(st.sampled_from([400, 413, 422, 451]), st.binary(max_size=60))
def test_no_body_does_anything_but_make_an_error(status: int, body: bytes) -> None:
    assert callers_error(status, body).message


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        # expected: our code, our status, our Retry-After
        pytest.param(429, {b"retry-after": b"7"}, ("RATE_LIMIT_429", 429, 7.0), id="429 that names its wait"),
        pytest.param(429, {}, ("RATE_LIMIT_429", 429, 1.0), id="429 that does not"),
        pytest.param(429, {b"retry-after": b"0"}, ("RATE_LIMIT_429", 429, 0.0), id="429 without a wait"),
        pytest.param(404, {}, ("NOT_FOUND_404", 404, None), id="404"),
        pytest.param(503, {b"retry-after": b"7"}, ("MODEL_503", 503, 7.0), id="503 that names its wait"),
        pytest.param(503, {}, ("MODEL_503", 503, None), id="503 that does not"),
        pytest.param(408, {}, ("GATEWAY_TIMEOUT_504", 504, None), id="408"),
        pytest.param(504, {}, ("GATEWAY_TIMEOUT_504", 504, None), id="504"),
        pytest.param(401, {}, ("UPSTREAM_502", 502, None), id="401 is about our key, not the caller's"),
        pytest.param(402, {}, ("UPSTREAM_502", 502, None), id="402"),
        pytest.param(500, {b"retry-after": b"7"}, ("UPSTREAM_502", 502, None), id="500"),
        pytest.param(529, {}, ("UPSTREAM_502", 502, None), id="529"),
    ],
)
def test_a_providers_failure_names_the_model_and_quotes_nothing(
    status: int, headers: dict[bytes, bytes], expected: tuple[str, int, float | None]
) -> None:
    error = refused(status, headers, b'{"error":"key sk-1 is wrong"}', "small").error
    assert (error.code, error.status, error.retry_after_seconds) == expected
    assert (error.details["model"], error.details["upstream_status"]) == ("small", status)
    assert "small" in error.message
    assert "sk-1" not in json.dumps(error.to_json(None))


def test_a_model_that_is_not_ready_says_when_it_will_be() -> None:
    details = providers_error(503, 7.0, "small").details
    assert (details["estimated_ready_time"], details["fallback_available"]) == (7.0, False)


@pytest.mark.parametrize(
    ("fault", "code", "part"),
    [
        (NotReached("refused"), "MODEL_503", "cannot be reached"),
        (TimedOut("no byte in 3 s"), "GATEWAY_TIMEOUT_504", "no byte in 3 s"),
        (CutShort("reset"), "UPSTREAM_502", "broke off: reset"),
        (ProviderFault("odd"), "UPSTREAM_502", "broke off: odd"),
    ],
)
def test_a_provider_that_did_not_answer(fault: ProviderFault, code: str, part: str) -> None:
    error = fault_error(fault, "small")
    assert error.code == code
    assert part in error.message
    assert error.details["model"] == "small"


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [(None, None), (b"7", 7.0), (b" 7.5 ", 7.5), (b"", None), (b"soon", None), (b"-1", None), (b"\xff", None)],
)
def test_retry_after_is_seconds_and_nonsense_is_nothing(sent: bytes | None, seconds: float | None) -> None:
    assert retry_after_of({} if sent is None else {b"retry-after": sent}) == seconds


@pytest.mark.parametrize(("from_now", "least", "most"), [(600, 500, 600), (-600, 0, 0), (10**6, 3600, 3600)])
def test_retry_after_may_be_a_date(from_now: int, least: float, most: float) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=from_now), usegmt=True)
    waits = retry_after_of({b"retry-after": date.encode()})
    assert waits is not None
    assert least <= waits <= most
