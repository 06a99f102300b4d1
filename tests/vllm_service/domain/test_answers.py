"""Whole answers and single events: what each of them is, as a table."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.answers import EventReading, Form, Verdict, judge_whole, read_event
from vllm_service.domain.in_band_errors import error_status

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = Form
ANSWER, ERROR, INCOMPLETE, NOT_AN_ANSWER = Verdict
SOUND = b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]%b}'


@pytest.mark.parametrize(
    ("form", "document", "verdict", "status"),
    [
        pytest.param(CHAT, SOUND % b"", ANSWER, 0, id="an answer"),
        pytest.param(CHAT, SOUND % b',"error":null', ANSWER, 0, id="a null error"),
        pytest.param(CHAT, SOUND % b',"error":{ }', ANSWER, 0, id="an empty error"),
        pytest.param(CHAT, SOUND % b',"error":{"code":429}', ERROR, 429, id="an error beside a choice"),
        pytest.param(CHAT, b"\xef\xbb\xbf" + SOUND % b"", ANSWER, 0, id="a byte order mark"),
        pytest.param(CHAT, SOUND % b',"x":[NaN,-Infinity,1e999]', ANSWER, 0, id="numbers that JSON lacks"),
        pytest.param(CHAT, SOUND.replace(b"Hi", b"cut \\ud83d") % b"", ANSWER, 0, id="half an emoji, escaped"),
        pytest.param(CHAT, SOUND.replace(b"Hi", b"cut \xf0\x9f") % b"", ANSWER, 0, id="half an emoji, in bytes"),
        pytest.param(CHAT, SOUND % (b',"x":1' + b"0" * 5000), ANSWER, 0, id="5,000 digits"),
        pytest.param(CHAT, SOUND % b',"usage":[11.0]', ANSWER, 0, id="usage of another shape"),
        pytest.param(CHAT, SOUND.replace(b'"Hi"', b"null") % b"", ANSWER, 0, id="no content"),
        pytest.param(CHAT, SOUND.replace(b'"Hi"', b'[{"type":"text","text":"Hi"}]') % b"", ANSWER, 0, id="parts"),
        pytest.param(CHAT, SOUND.replace(b'"Hi"', b"5") % b"", NOT_AN_ANSWER, 0, id="a number as content"),
        pytest.param(CHAT, SOUND.replace(b'"message"', b'"text"') % b"", NOT_AN_ANSWER, 0, id="no message"),
        pytest.param(CHAT, b"{}", NOT_AN_ANSWER, 0, id="an empty object"),
        pytest.param(CHAT, b'{"choices":null}', NOT_AN_ANSWER, 0, id="null choices"),
        pytest.param(CHAT, b'{"choices":[]}', NOT_AN_ANSWER, 0, id="no choice"),
        pytest.param(CHAT, b'{"choices":[null]}', NOT_AN_ANSWER, 0, id="a null choice"),
        pytest.param(CHAT, b'{"choices":"none"}', NOT_AN_ANSWER, 0, id="a text as choices"),
        pytest.param(CHAT, b"<html>", NOT_AN_ANSWER, 0, id="HTML"),
        pytest.param(CHAT, b"", NOT_AN_ANSWER, 0, id="nothing"),
        pytest.param(CHAT, b"null", NOT_AN_ANSWER, 0, id="null"),
        pytest.param(CHAT, b"[1]", NOT_AN_ANSWER, 0, id="a list"),
        pytest.param(CHAT, SOUND[:-3], NOT_AN_ANSWER, 0, id="cut"),
        pytest.param(CHAT, b'{"a":' + b"[" * 10**5, NOT_AN_ANSWER, 0, id="a hundred thousand brackets"),
        pytest.param(CHAT, b"data: {}\n\n", NOT_AN_ANSWER, 0, id="events"),
        pytest.param(CHAT, b'{"detail":"Not Found"}', NOT_AN_ANSWER, 0, id="another server's words"),
        pytest.param(CHAT, b'{"error":{"message":"no"}}', ERROR, 0, id="an error without a status"),
        pytest.param(CHAT, b'{"error":"no"}', ERROR, 0, id="an error as text"),
        pytest.param(CHAT, b'{"id":"x","error":{"code":"503"},"choices":5}', ERROR, 503, id="and choices of no shape"),
        pytest.param(CHAT, b'{"object":"error","message":"no","code":400}', ERROR, 400, id="an object named error"),
        pytest.param(CHAT, b'{"error":"no","status":"FAILED","code":500}', ERROR, 500, id="a status beside it"),
        pytest.param(CHAT, b'{"choices":[{"error":{"code":502}}]}', ERROR, 502, id="an error as choice"),
        pytest.param(CHAT, SOUND.replace(b"stop", b"error") % b"", ERROR, 0, id="an error as finish reason"),
        pytest.param(COMPLETIONS, b'{"choices":[{"text":""}]}', ANSWER, 0, id="an empty text"),
        pytest.param(COMPLETIONS, b'{"choices":[{"text":null}]}', NOT_AN_ANSWER, 0, id="a null text"),
        pytest.param(COMPLETIONS, SOUND % b"", NOT_AN_ANSWER, 0, id="a chat for a completion"),
        pytest.param(RESPONSES, b'{"status":"completed","error":null,"output":[]}', ANSWER, 0, id="a response"),
        pytest.param(
            RESPONSES, b'{"status":"incomplete","output":[{"type":"message"}]}', ANSWER, 0, id="a bounded one"
        ),
        pytest.param(
            RESPONSES,
            b'{"status":"failed","error":{"code":"rate_limit_exceeded"},"output":[]}',
            ERROR,
            429,
            id="failed",
        ),
        pytest.param(
            RESPONSES, b'{"status":"failed","error":null,"output":[]}', ERROR, 0, id="failed without a reason"
        ),
        pytest.param(
            CHAT, b'{"message":"slow down","code":429}', ERROR, 429, id="an error without an object around it"
        ),
        pytest.param(CHAT, b'[{"error":{"code":429}}]', ERROR, 429, id="an error in a list"),
        pytest.param(CHAT, b'{"success":false,"errors":[{"message":"x"}]}', ERROR, 0, id="errors"),
        pytest.param(CHAT, b'{"message":"hello"}', NOT_AN_ANSWER, 0, id="a message that says of no error"),
        pytest.param(RESPONSES, SOUND % b"", NOT_AN_ANSWER, 0, id="a chat for a response"),
        pytest.param(EMBEDDINGS, b'{"data":[{"embedding":[0.5]}]}', ANSWER, 0, id="a vector"),
        pytest.param(EMBEDDINGS, b'{"data":[{"embedding":"AAAA"}]}', ANSWER, 0, id="a vector in base64"),
        pytest.param(EMBEDDINGS, b'{"data":[{"embedding":null}]}', NOT_AN_ANSWER, 0, id="a null vector"),
        pytest.param(EMBEDDINGS, b'{"data":[]}', NOT_AN_ANSWER, 0, id="no vector"),
    ],
)
def test_what_a_whole_answer_is(form: Form, document: bytes, verdict: Verdict, status: int) -> None:
    judgement = judge_whole(form, document)
    assert (judgement.verdict, judgement.status) == (verdict, status)
    if verdict is ERROR:
        assert "error" in json.loads(judgement.document)
    else:
        assert bool(judgement.reason) is (verdict is not ANSWER)


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        pytest.param(SOUND % b"", b"", id="none"),
        pytest.param(SOUND % b',"usage":null', b"null", id="null"),
        pytest.param(SOUND % b',"usage":{"prompt_tokens":"x"}', b'{"prompt_tokens":"x"}', id="as it came"),
    ],
)
def test_the_usage_of_a_whole_answer_is_returned_unread(document: bytes, usage: bytes) -> None:
    assert bytes(judge_whole(CHAT, document).usage) == usage


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429}, 429),
        ({"code": "429"}, 429),
        ({"code": "RATE_LIMIT_429"}, 429),
        ({"code": "a_1429"}, 0),
        ({"code": 1000, "type": "server_error"}, 500),
        ({"code": "rate_limit_exceeded", "type": "invalid_request_error"}, 429),
        ({"code": "insufficient_quota"}, 402),
        ({"code": "context_length_exceeded", "type": "invalid_request_error"}, 400),
        ({"code": None, "type": "invalid_request_error"}, 400),
        ({"type": "BadRequestError", "code": 400}, 400),
        ({"type": "authentication_error"}, 401),
        ({"type": "NotFoundError"}, 404),
        ({"type": "overloaded_error"}, 503),
        ({"type": "InternalServerError"}, 500),
        ({"type": "timeout_error"}, 504),
        ({"type": "?", "code": True}, 0),
        ({}, 0),
        ({"code": 429.0}, 429),
        ({"status": "RESOURCE_EXHAUSTED"}, 429),
        ({"type": "exceed_context_size_error"}, 400),
        ({"type": "ContextWindowExceededError"}, 400),
        ({"code": "model_decommissioned"}, 400),
        ({"message": "This model's maximum context length is 8192 tokens."}, 400),
        ({"type": "server_error", "message": "The prompt is too long."}, 500),
        ({"message": "The model took too long to respond."}, 0),
        ({"error": "This model's maximum context length is 8192 tokens."}, 400),
        ({"error": {"error": {"code": 429}}}, 429),
        ({"error": True, "status": 429}, 429),
        ({"errors": [{"code": 429}]}, 429),
        ({"detail": {"code": "rate_limit_exceeded"}}, 429),
        ([{"error": {"code": 429}}], 429),
        ([], 0),
        ("no", 0),
        (None, 0),
    ],
)
def test_the_status_that_an_error_names(error: object, status: int) -> None:
    assert error_status(error) == status


def chunk(choice: bytes, more: bytes = b"") -> bytes:
    return b'{"choices":[%b]%b}' % (choice, more)


READ = EventReading(is_part=True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"[DONE]", EventReading(is_last=True), id="the end"),
        pytest.param(b"", EventReading(is_blank=True), id="nothing"),
        pytest.param(b"{}", EventReading(is_blank=True), id="an empty object"),
        pytest.param(b'{"choices":null}', EventReading(is_blank=True), id="null choices"),
        pytest.param(chunk(b'{"index":0,"delta":{"role":"assistant","content":""}}'), READ, id="a role alone"),
        pytest.param(chunk(b'{"delta":null}'), READ, id="a null delta"),
        pytest.param(chunk(b'{"delta":{"content":null,"tool_calls":[]}}'), READ, id="nothing in it"),
        pytest.param(chunk(b'{"delta":{"content":" "}}'), READ._replace(has_content=True), id="a space"),
        pytest.param(chunk(b'{"delta":{"reasoning":"x"}}'), READ._replace(has_content=True), id="reasoning"),
        pytest.param(chunk(b'{"delta":{"tool_calls":[{}]}}'), READ._replace(has_content=True), id="a tool call"),
        pytest.param(
            chunk(b'{"index":1,"delta":{},"finish_reason":"stop"}'), READ._replace(finished=(1,)), id="the end of one"
        ),
        pytest.param(
            b'{"choices":[],"usage":{"a":1}}', EventReading(usage=b'{"a":1}', is_only_usage=True), id="usage alone"
        ),
        pytest.param(b'{"usage":{"a":1}}', EventReading(usage=b'{"a":1}', is_only_usage=True), id="without choices"),
        pytest.param(
            b'{"choices":null,"usage":{"a":1}}', EventReading(usage=b'{"a":1}', is_only_usage=True), id="null and usage"
        ),
        pytest.param(
            chunk(b'{"delta":{"content":"x"}}', b',"usage":{"a":1}'),
            READ._replace(has_content=True, usage=b'{"a":1}'),
            id="usage beside a choice",
        ),
        pytest.param(chunk(b'{"delta":{"content":"\\ud83d"}}'), READ._replace(has_content=True), id="half an emoji"),
    ],
)
def test_what_one_chunk_holds(data: bytes, expected: EventReading) -> None:
    assert read_event(CHAT, b"", data) == expected


@pytest.mark.parametrize(
    ("form", "name", "data", "verdict", "status"),
    [
        pytest.param(CHAT, b"", b'{"error":{"code":400}}', ERROR, 400, id="an error"),
        pytest.param(CHAT, b"error", b"{}", ERROR, 0, id="an event named error"),
        pytest.param(CHAT, b"error", b"the engine died", ERROR, 0, id="an error as text"),
        pytest.param(CHAT, b"", b'{"object":"error","code":429}', ERROR, 429, id="an object named error"),
        pytest.param(CHAT, b"", b'{"type":"error","code":"overloaded"}', ERROR, 503, id="a type named error"),
        pytest.param(CHAT, b"", chunk(b'{"finish_reason":"error"}'), ERROR, 0, id="a finish reason"),
        pytest.param(CHAT, b"", chunk(b'{"error":{"code":502}}'), ERROR, 502, id="an error as choice"),
        pytest.param(CHAT, b"", b'{"choices":5}', NOT_AN_ANSWER, 0, id="choices of another type"),
        pytest.param(CHAT, b"", b"<html>", NOT_AN_ANSWER, 0, id="HTML"),
        pytest.param(CHAT, b"", b"[]", NOT_AN_ANSWER, 0, id="a list"),
        pytest.param(RESPONSES, b"response.failed", b"{}", ERROR, 0, id="a response that failed"),
        pytest.param(
            RESPONSES,
            b"",
            b'{"type":"response.failed","response":{"error":{"code":"server_error"}}}',
            ERROR,
            500,
            id="without a name",
        ),
        pytest.param(RESPONSES, b"", b'{"type":"error","code":"rate_limit_exceeded"}', ERROR, 429, id="flat"),
    ],
)
def test_what_one_event_has_against_the_answer(
    form: Form, name: bytes, data: bytes, verdict: Verdict, status: int
) -> None:
    fault = read_event(form, name, data).fault
    assert fault is not None
    assert (fault.verdict, fault.status) == (verdict, status)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("response.created", READ),
        ("response.output_item.added", READ),
        ("response.output_text.delta", READ._replace(has_content=True)),
        ("response.completed", READ._replace(has_content=True, is_last=True, usage=b'{"a":1}')),
        ("response.incomplete", READ._replace(has_content=True, is_last=True, usage=b'{"a":1}')),
    ],
)
def test_what_one_event_of_a_response_holds(kind: str, expected: EventReading) -> None:
    usage = b'{"a":1}' if expected.usage else b"null"
    data = b'{"type":"%b","response":{"error":null,"usage":%b}}' % (kind.encode(), usage)
    assert read_event(RESPONSES, b"", data) == expected
    assert read_event(RESPONSES, kind.encode(), b"{" + data[data.index(b'"response"') :]).is_last is expected.is_last


@given(st.sampled_from(Form), st.binary(max_size=60))
def test_no_bytes_do_anything_but_get_a_judgement(form: Form, document: bytes) -> None:
    assert judge_whole(form, document).verdict in (ERROR, NOT_AN_ANSWER)
    read_event(form, b"", document)
