"""Providers' errors in our codes, whatever their bodies look like."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.refusals import Meaning
from vllm_service.errors import ServiceError
from vllm_service.gateway.provider_errors import fault_error, refused, retry_after_of
from vllm_service.http.upstream import CutShort, NoFreeConnection, NotReached, ProviderFault, TimedOut


def as_body(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def error_of(status: int, document: Any) -> ServiceError:
    return refused(status, {}, as_body(document), "small").error


@pytest.mark.parametrize(
    ("status", "document", "code", "told"),
    [
        pytest.param(400, {"error": {"message": "bad tool"}}, "INVALID_REQUEST_400", "bad tool", id="OpenAI's form"),
        pytest.param(400, {"error": "bad tool"}, "INVALID_REQUEST_400", "bad tool", id="error is a text"),
        pytest.param(400, {"message": "bad tool"}, "INVALID_REQUEST_400", "bad tool", id="a message alone"),
        pytest.param(400, {"error": None, "message": "bad"}, "INVALID_REQUEST_400", "bad", id="error is null"),
        pytest.param(400, {"error": {}, "message": "bad"}, "INVALID_REQUEST_400", "bad", id="an empty error"),
        pytest.param(400, {}, "INVALID_REQUEST_400", None, id="an empty object"),
        pytest.param(400, [], "INVALID_REQUEST_400", None, id="a list"),
        pytest.param(400, b"", "INVALID_REQUEST_400", None, id="no body"),
        pytest.param(400, b"<html>", "INVALID_REQUEST_400", None, id="HTML"),
        pytest.param(400, b'{"error":{"message":"cut', "INVALID_REQUEST_400", None, id="cut"),
        pytest.param(400, b'{"error":"\xe6\x9d"}', "INVALID_REQUEST_400", "\ufffd", id="cut in a character"),
        pytest.param(400, {"error": {"message": ["a"]}}, "INVALID_REQUEST_400", None, id="a message that is a list"),
        pytest.param(
            400,
            {"error": {"message": ["a"], "code": "context_length_exceeded", "param": {}}},
            "context_length_exceeded",
            None,
            id="a message that is a list beside a code",
        ),
        pytest.param(
            400,
            {"object": "error", "message": "bad", "code": 400},
            "INVALID_REQUEST_400",
            "bad",
            id="older vLLM's form",
        ),
        pytest.param(
            400, [{"error": {"message": "bad", "code": 400}}], "INVALID_REQUEST_400", "bad", id="Gemini's form"
        ),
        pytest.param(400, {"error": 7}, "INVALID_REQUEST_400", None, id="error is a number"),
        pytest.param(400, b'{"error":' + b"[" * 100_000, "INVALID_REQUEST_400", None, id="nested without end"),
        pytest.param(
            400, b'{"error":"a","error":"b"}', "INVALID_REQUEST_400", "b", id="a member that is there twice: the last"
        ),
        pytest.param(400, {"error": {"message": "東京 🚀"}}, "INVALID_REQUEST_400", "東京 🚀", id="unicode"),
        pytest.param(422, {"error": {"message": "no"}}, "UPSTREAM_422", "no", id="422"),
        pytest.param(422, {"detail": [{"loc": ["n"], "msg": "no"}]}, "UPSTREAM_422", "n: no", id="FastAPI's form"),
        pytest.param(415, {"error": "no"}, "UPSTREAM_415", "no", id="415"),
        pytest.param(414, b"", "UPSTREAM_414", None, id="414"),
        pytest.param(413, b"too large", "BODY_TOO_LARGE_413", None, id="413"),
        *(
            pytest.param(status, {"error": {"message": text}}, "context_length_exceeded", text, id=f"{status}: {text}")
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
            400,
            {"error": {"code": "context_length_exceeded"}},
            "context_length_exceeded",
            None,
            id="a code about length",
        ),
        pytest.param(
            500, {"error": {"code": "context_length_exceeded"}}, "context_length_exceeded", None, id="a code with 500"
        ),
    ],
)
def test_a_callers_mistake_keeps_what_the_provider_said_of_it(
    status: int, document: Any, code: str, told: str | None
) -> None:
    error = error_of(status, document)
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
    error = error_of(400, {"error": said})
    assert (error.param, error.details["upstream_code"], error.details["upstream_type"]) == expected


TOO_LONG = b'"code":"context_length_exceeded"'


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"error":{"message":"you wrote \\ud83d",%b}}' % TOO_LONG, id="half an emoji"),
        pytest.param(b'{"error":{"message":"you wrote \xff",%b}}' % TOO_LONG, id="no UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"error":{%b}}' % TOO_LONG, id="a byte order mark"),
        pytest.param(b'{"error":{"score":NaN,%b}}' % TOO_LONG, id="NaN"),
        pytest.param(b'{"error":"9000 tokens",%b}' % TOO_LONG, id="a code beside a text"),
        pytest.param(b'{"error":{"message":"9000 tokens"},%b}' % TOO_LONG, id="a code beside an object"),
        pytest.param(b'{"detail":{"error":{%b}}}' % TOO_LONG, id="an error within a detail"),
        pytest.param(b'{"error":{"error":{%b}}}' % TOO_LONG, id="an error within an error"),
        pytest.param(b'{"errors":[{%b}]}' % TOO_LONG, id="a list of errors"),
    ],
)
def test_a_context_that_is_too_short_is_seen_wherever_its_name_stands(body: bytes) -> None:
    assert error_of(400, body).code == "context_length_exceeded"


def test_a_message_is_cut_to_2000_characters() -> None:
    assert error_of(400, {"error": "東" * 2001}).message == "東" * 2000
    assert error_of(400, {"error": "東" * 2000}).message == "東" * 2000


@given(st.sampled_from([400, 413, 422, 451, 500]), st.binary(max_size=60))
def test_no_body_does_anything_but_make_an_error(status: int, body: bytes) -> None:
    assert error_of(status, body).message


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
        pytest.param(498, {}, ("RATE_LIMIT_429", 429, 1.0), id="498: Groq has no capacity"),
        pytest.param(499, {}, ("UPSTREAM_502", 502, None), id="499: the provider's, not our caller's"),
        pytest.param(424, {}, ("UPSTREAM_502", 502, None), id="424"),
        pytest.param(524, {}, ("GATEWAY_TIMEOUT_504", 504, None), id="524: a proxy has waited long enough"),
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


def test_a_context_that_is_too_long_has_openais_code_and_ours() -> None:
    error = error_of(400, {"error": {"code": "context_length_exceeded", "message": "too many"}})
    assert (error.status, error.code, error.kind) == (400, "context_length_exceeded", "invalid_request_error")
    assert error.details == {
        "code": "CONTEXT_TOO_LONG_413",
        "upstream_status": 400,
        "upstream_code": "context_length_exceeded",
        "upstream_type": None,
    }


def test_a_request_above_a_providers_limit_by_the_minute_is_a_rate_limit_without_a_time() -> None:
    body = as_body(
        {"error": {"message": "Request too large for org_1", "type": "tokens", "code": "rate_limit_exceeded"}}
    )
    not_answered = refused(413, {}, body, "small")
    error = not_answered.error
    assert not_answered.failure.meaning is Meaning.OVERSIZED
    assert (error.status, error.code, error.retry_after_seconds) == (429, "RATE_LIMIT_429", None)
    assert "org_1" not in error.message


@pytest.mark.parametrize(("status", "expected"), [(504, True), (524, True), (503, False), (408, False), (429, False)])
def test_after_a_proxys_timeout_the_provider_may_be_generating_still(status: int, expected: bool) -> None:
    assert refused(status, {}, b"<html>", "small").failure.may_be_running is expected


def test_a_model_that_is_not_ready_says_when_it_will_be() -> None:
    details = refused(503, {b"retry-after": b"7"}, b"", "small").error.details
    assert (details["estimated_ready_time"], details["fallback_available"]) == (7.0, False)


@pytest.mark.parametrize(
    ("fault", "code", "part"),
    [
        (NotReached("refused"), "MODEL_503", "cannot be reached"),
        (NoFreeConnection("none in 5 s"), "OVERLOADED_503", "none in 5 s"),
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
